"""Whether what was counted is true: each booking that was answered is in Postgres, and nothing overlaps."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

_SETTLED_WITHIN_S = 30.0
_LOOK_S = 0.1
# A busy machine may well stand still for some looks with requests under way.
_SAME_LOOKS = 10


class Untrue(Exception):
    """What was counted is not what is in Postgres."""


async def booked(sql: Any, orgs: Sequence[int]) -> int:
    """How many appointments of those organizations are scheduled, once no more come."""
    deadline = asyncio.get_running_loop().time() + _SETTLED_WITHIN_S
    last, same = await _count(sql, orgs), 0
    while same < _SAME_LOOKS and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(_LOOK_S)
        now = await _count(sql, orgs)
        last, same = now, same + 1 if now == last else 0
    return last


async def _count(sql: Any, orgs: Sequence[int]) -> int:
    return await sql.fetchval(
        "SELECT count(*) FROM appointments WHERE org_id = ANY($1::integer[]) AND status = 'scheduled'", list(orgs)
    )


async def delivered(sql: Any) -> int:
    """How many deliveries were made so far, of all organizations."""
    return await sql.fetchval("SELECT count(*) FROM deliveries WHERE state = 'delivered'")


async def check_count(sql: Any, orgs: Sequence[int], before: int, counted: int, open_requests: int) -> int:
    """The bookings added since there were `before`.

    A load that is cut off leaves up to `open_requests` requests under way whose answers nobody counted; each may have
    booked. Raises Untrue when there are fewer rows than answers, or more than that.
    """
    added = await booked(sql, orgs) - before
    if not counted <= added <= counted + open_requests:
        raise Untrue(f"{counted} bookings were answered and {added} are in Postgres")
    return added


async def check_overlaps(sql: Any) -> None:
    """Raise Untrue when two live appointments of a coach overlap, whatever the constraints say of themselves."""
    found = await sql.fetchval(
        "SELECT count(*) FROM (SELECT lower(occupied) < lag(upper(occupied)) OVER ("
        " PARTITION BY org_id, coach_no ORDER BY lower(occupied)) AS hit FROM appointments"
        " WHERE status IN ('scheduled', 'completed', 'no_show')) AS a WHERE hit"
    )
    if found:
        raise Untrue(f"{found} appointments overlap another of the same coach")
