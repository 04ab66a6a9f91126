"""The mock calendar: free slots drawn at random, blocks kept in memory.

Two things make a block 409: bad luck (`conflict_rate`), and that very coach and time being blocked already,
as it is when the reply to an earlier attempt was lost. Blocks do not change what availability offers, and
neither do the blocked dates of the settings. Any coach id is known. Releasing a block nobody remembers
succeeds, since a restart forgets them all; the books show it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec
from aiohttp import web

from service.clock import Clock, SystemClock
from service.mocks.answers import answer, application, decode, refuse, unavailable
from service.mocks.chance import Behaviour, Chance, Draw

TIMEZONE = "America/New_York"
OPENS, CLOSES = time(9), time(17)
INTERVAL, LENGTH = timedelta(minutes=15), timedelta(minutes=30)
# A year ahead and the days around it may be asked for.
DEFAULT_DAYS, MAX_DAYS = 7, 400

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
Name = Annotated[str, msgspec.Meta(min_length=1)]


class BlockSlot(msgspec.Struct, frozen=True):
    """What block-slot takes: a half-open range, offset-aware."""

    start_time: Instant
    end_time: Instant


class ReleaseSlot(msgspec.Struct, frozen=True):
    """What release-slot takes."""

    block_id: Name


class Block(msgspec.Struct, frozen=True):
    """A time once blocked for a coach; `released_at` is null while it still is."""

    block_id: str
    coach_id: str
    start_time: datetime
    end_time: datetime
    blocked_at: datetime
    released_at: datetime | None = None


def build_calendar(behaviour: Behaviour, clock: Clock | None = None) -> web.Application:
    """The calendar as an application; `clock` says which day is today (default: the machine's)."""
    calendar = _Calendar(behaviour, clock or SystemClock())
    app = application("calendar-api")
    app.router.add_get("/coaches/{coach_id}/availability", calendar.availability)
    app.router.add_get("/coaches/{coach_id}/settings", calendar.settings)
    app.router.add_post("/coaches/{coach_id}/block-slot", calendar.block)
    app.router.add_post("/coaches/{coach_id}/release-slot", calendar.release)
    app.router.add_get("/blocks", calendar.books)
    return app


class _Calendar:
    def __init__(self, behaviour: Behaviour, clock: Clock) -> None:
        self._behaviour = behaviour
        self._clock = clock
        self._chance = Chance(behaviour, "calendar")
        self._blocks: dict[str, Block] = {}
        self._live: dict[tuple[str, datetime, datetime], str] = {}
        self._conflicts = 0
        self._unknown_releases: list[str] = []

    def _fails(self, draw: Draw) -> bool:
        return draw.happens(self._behaviour.failure_rate)

    async def availability(self, request: web.Request) -> web.Response:
        """GET /coaches/{id}/availability?days=N: the free slots of N local days, today the first."""
        draw = self._chance.next()
        if self._fails(draw):
            return unavailable("Calendar API")
        text = request.query.get("days", str(DEFAULT_DAYS))
        if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= MAX_DAYS):
            return refuse(400, f"days must be a whole number from 1 to {MAX_DAYS}")
        await draw.pause(100, 600)
        coach_id, now = request.match_info["coach_id"], self._clock.now()
        slots = [
            {"start_time": start, "end_time": start + LENGTH, "available": True}
            for start in self._free_starts(coach_id, now, int(text), draw)
        ]
        return answer(
            {
                "coach_id": coach_id,
                "timezone": TIMEZONE,
                "slots": slots,
                "total_available": len(slots),
                "generated_at": now,
            }
        )

    def _free_starts(self, coach_id: str, now: datetime, days: int, draw: Draw) -> Iterator[datetime]:
        today = now.astimezone(ZoneInfo(TIMEZONE)).date()
        for day in (today + timedelta(days=n) for n in range(days)):
            if self._behaviour.frozen:
                # Tied to the day, not to the call: a longer span or a later call shows the same starts.
                draw = self._chance.kept(coach_id, day.isoformat())
            for start in starts_of(day):
                if not draw.happens(self._behaviour.missing_rate):
                    yield start

    async def block(self, request: web.Request) -> web.Response:
        """POST /coaches/{id}/block-slot: take a time out of the coach's calendar, or 409."""
        draw = self._chance.next()
        if self._fails(draw):
            return unavailable("Calendar API")
        wanted = decode(await request.read(), BlockSlot)
        if wanted.end_time <= wanted.start_time:
            return refuse(400, "end_time must be later than start_time")
        coach_id = request.match_info["coach_id"]
        place = (coach_id, wanted.start_time.astimezone(UTC), wanted.end_time.astimezone(UTC))
        if draw.happens(self._behaviour.conflict_rate) or place in self._live:
            self._conflicts += 1
            await draw.pause(50, 350)
            return refuse(
                409,
                "Slot already blocked",
                coach_id=coach_id,
                start_time=wanted.start_time,
                end_time=wanted.end_time,
            )
        # Written before the pause: of two requests for one time in flight together only one may win.
        block = Block(draw.identifier("block"), *place, blocked_at=self._clock.now())
        self._blocks[block.block_id] = block
        self._live[place] = block.block_id
        await draw.pause(50, 350)
        return answer(
            {
                "success": True,
                "coach_id": coach_id,
                "start_time": wanted.start_time,
                "end_time": wanted.end_time,
                "blocked_at": block.blocked_at,
                "block_id": block.block_id,
            }
        )

    async def release(self, request: web.Request) -> web.Response:
        """POST /coaches/{id}/release-slot: give a blocked time back; repeating it changes nothing."""
        if self._fails(self._chance.next()):
            return unavailable("Calendar API")
        wanted = decode(await request.read(), ReleaseSlot)
        coach_id, released_at = request.match_info["coach_id"], self._clock.now()
        block = self._blocks.get(wanted.block_id)
        if block is None or block.coach_id != coach_id:
            self._unknown_releases.append(wanted.block_id)
        elif block.released_at is None:
            self._blocks[block.block_id] = msgspec.structs.replace(block, released_at=released_at)
            del self._live[block.coach_id, block.start_time, block.end_time]
        else:
            released_at = block.released_at
        return answer({"success": True, "coach_id": coach_id, "block_id": wanted.block_id, "released_at": released_at})

    async def settings(self, request: web.Request) -> web.Response:
        """GET /coaches/{id}/settings: the same working hours and rules for every coach."""
        if self._fails(self._chance.next()):
            return unavailable("Calendar API")
        return answer(
            {
                "coach_id": request.match_info["coach_id"],
                "timezone": TIMEZONE,
                "working_hours": {"start": f"{OPENS:%H:%M}", "end": f"{CLOSES:%H:%M}", "timezone": TIMEZONE},
                "availability_rules": {"min_notice_hours": 2, "max_advance_days": 30, "buffer_minutes": 5},
                "blocked_dates": self._behaviour.blocked_dates,
            }
        )

    async def books(self, _: web.Request) -> web.Response:
        """GET /blocks, for tests: every block with its release, how many of each, the 409s given."""
        return answer(
            {
                "blocked": len(self._live),
                "released": len(self._blocks) - len(self._live),
                "conflicts": self._conflicts,
                "unknown_releases": self._unknown_releases,
                "blocks": list(self._blocks.values()),
            }
        )


def starts_of(day: date) -> Iterator[datetime]:
    """A local day's starts in UTC: every 15 minutes as long as the slot ends by closing; none at weekends."""
    if day.weekday() >= 5:
        return
    zone = ZoneInfo(TIMEZONE)
    start = datetime.combine(day, OPENS, zone).astimezone(UTC)
    last = datetime.combine(day, CLOSES, zone).astimezone(UTC) - LENGTH
    while start <= last:
        yield start
        start += INTERVAL
