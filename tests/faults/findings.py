"""What a check says when something is not as it must be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that must not be: which check says so, what is wrong, and the operations that show it."""

    check: str
    what: str
    operations: tuple[int, ...] = ()
