"""What must be true of a history and the end it came to, whatever was broken meanwhile: C1 to C11."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.final import Final
from tests.faults.history import FaultSpan, History

CHECKS = tuple(f"C{number}" for number in range(1, 12))


@dataclass(frozen=True)
class Finding:
    """Something that must not be: which check says so, what is wrong, and the operations that show it."""

    check: str
    what: str
    operations: tuple[int, ...] = ()


def check_all(history: History, final: Final, spans: Sequence[FaultSpan]) -> dict[str, list[Finding]]:
    """The findings of every check; every key is present, and an empty list means that it holds."""
    raise NotImplementedError
