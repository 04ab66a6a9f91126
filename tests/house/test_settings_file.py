""".env.example says of every setting what `Settings` says: name, default, unit and sentence."""

from __future__ import annotations

import re
from pathlib import Path

from service.config import Settings

BLOCK = re.compile(r"# (?P<about>.+) \((?P<unit>[^()]+)\)\n(?P<name>[A-Z0-9_]+)=(?P<default>.*)")


def test_the_example_equals_the_settings(root: Path) -> None:
    blocks = (root / ".env.example").read_text().strip().split("\n\n")
    shown: list[tuple[str, str, str, str]] = []
    for block in blocks:
        match = BLOCK.fullmatch(block)
        assert match, f"not a setting: {block!r}"
        shown.append((match["name"], match["default"], match["unit"], match["about"]))
    assert shown == Settings.describe()


def test_a_copy_of_the_example_changes_nothing(root: Path) -> None:
    assert Settings.from_environment({}) == Settings.from_environment(_read(root / ".env.example"))


def _read(file: Path) -> dict[str, str]:
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)
