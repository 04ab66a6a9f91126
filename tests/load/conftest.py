"""A folder for each run and its report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import folder_of_its_own


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for a run, its report and its system."""
    with folder_of_its_own() as made:
        yield made
