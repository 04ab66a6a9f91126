"""SQL by name: every statement of `queries/*.sql`, read once."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@cache
def statements() -> dict[str, str]:
    """All named statements. Raises ValueError when two share a name."""
    found: dict[str, str] = {}
    folder = files("service.db").joinpath("queries")
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".sql"):
            continue
        parts = _NAME.split(file.read_text())
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            if name in found:
                raise ValueError(f"{file.name}: {name} is defined twice")
            found[name] = text.strip().removesuffix(";")
    return found


def statement(name: str) -> str:
    """One statement. Raises KeyError for an unknown name."""
    return statements()[name]
