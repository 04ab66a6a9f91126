"""Where the repository is, and which of its files count as its own."""

from __future__ import annotations

from pathlib import Path

import pathspec
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's top folder."""
    return ROOT


@pytest.fixture(scope="session")
def own_files(root: Path) -> list[Path]:
    """Every file that is committed or could be: all that .gitignore does not name."""
    ignored = pathspec.GitIgnoreSpec.from_lines([".git", *(root / ".gitignore").read_text().splitlines()])
    return [root / name for name in ignored.match_tree_files(root, negate=True)]
