"""Availability over HTTP: free slots by coach or by start, with an entity tag that changes when they do."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec
import orjson

from service.api.endpoint import Call, Edge, Route
from service.api.parsing import planned_time, query_integer, query_word, query_zone
from service.api.response import Response
from service.api.shapes import AvailabilityShape
from service.clock import Clock
from service.domain.appointment import show_time
from service.domain.calendar import Calendar, Coach, Roster
from service.domain.grid import CELL_SECONDS, five_minute_floor, instant_of
from service.errors import InvalidRequest
from service.operations.find_availability import FindAvailability, FreeSlots
from service.operations.rosters import Rosters

MOST_ROWS = 20_000
ANSWERS_BYTES = 4 * 1024 * 1024
# Of so many rosters, so many masks of so many coaches and so many questions: a few megabytes.
ROSTERS_KEPT, MASKS_KEPT, LARGEST_MASK_KEPT, QUESTIONS_KEPT = 64, 256, 32, 64
DAY_SECONDS = 86_400
DEFAULT_DAYS = 7
MOST_DAYS = 31


class AvailabilityRoutes:
    """Handler of /api/availability."""

    def __init__(self, edge: Edge, find: FindAvailability, rosters: Rosters, clock: Clock) -> None:
        self._edge = edge
        self._find = find
        self._rosters = rosters
        self._clock = clock
        self._kept: OrderedDict[int, _OfRoster] = OrderedDict()
        self._answers = _Answers()
        # What is being made now, by entity tag: a crowd that asks while the calendar is booked searches it once.
        self._under_way: dict[str, _Making] = {}

    def routes(self) -> list[Route]:
        """The endpoints."""
        return [
            Route(
                method="GET",
                path="/api/availability",
                operation_id="find_availability",
                summary="Free slots of a calendar or of all coaches",
                handler=self.find,
                scope="read",
                tag="availability",
                answer=AvailabilityShape,
                counts_itself=True,
                parameters=(
                    ("calendar_id", "a calendar's coaches, duration and interval; without: all coaches"),
                    ("coach_id", "only this coach"),
                    ("days", f"length of the window, 1 to {MOST_DAYS}, default {DEFAULT_DAYS}"),
                    ("from", "a date or a time, default now rounded down to the interval"),
                    ("timezone", "IANA zone of the times in the answer, default UTC"),
                    ("group_by", "`coach` (default) or `start`"),
                    ("include", "`coaches`: with group_by=start the ids of who is free"),
                ),
                if_none_match=True,
                errors=(404,),
            )
        ]

    async def find(self, call: Call) -> Response:
        """GET /api/availability"""
        # The revision is read before the planes: an answer may be newer than its tag, never older.
        roster, revision = await self._edge.admit_to_roster(call)
        asked = self._of(roster).question(call)
        now = self._clock.now()
        headers: dict[str, str] = {}
        etag = None
        if revision is not None:  # without Redis nobody counts the changes, so nothing is known to be unchanged
            headers["ETag"] = etag = asked.etag(revision, now.timestamp())
            if call.knows(etag):
                return Response(None, 304, headers)
        body = self._answers.of(etag)
        if body is None:
            body, of_grid = await self._make_once(etag, roster, asked, now)
            if not of_grid:  # what Postgres says may be older than the revision that was read
                headers.pop("ETag", None)
        return Response(body, 200, headers, "application/json")

    async def _make_once(self, etag: str | None, roster: Roster, asked: _Question, now: datetime) -> tuple[bytes, bool]:
        """The answer, and whether the grid says so; made once for all who ask for its tag meanwhile.

        The first reads the planes after the revision, and who joins has read the same revision: they hold all that it
        counts. What Postgres says may be older than that, so who joined asks for itself then.
        """
        if etag is None:
            return await self._make(etag, roster, asked, now)
        making = self._under_way.get(etag)
        joined = making is not None
        if making is None:
            making = self._under_way[etag] = _Making(asyncio.ensure_future(self._make(etag, roster, asked, now)))
            # Of what ends when all have gone away nobody else would ask.
            making.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        making.waiting += 1
        try:
            body, of_grid = await asyncio.shield(making.task)  # who goes away takes it from nobody
        finally:
            making.waiting -= 1
            if not making.waiting:
                del self._under_way[etag]
                making.task.cancel()  # if it is not done, all have gone away
        if joined and not of_grid:
            return await self._make(etag, roster, asked, now)
        return body, of_grid

    async def _make(self, etag: str | None, roster: Roster, asked: _Question, now: datetime) -> tuple[bytes, bool]:
        start = asked.start(now)
        free = await self._find(roster, asked.calendar, asked.coach, start, start + timedelta(days=asked.days))
        heads = self._of(free.roster).heads
        body = _body(free, heads, asked.zone_name, by_start=asked.by_start, with_ids=asked.with_ids)
        if free.of_grid:
            self._answers.keep(etag, body)
        return body, free.of_grid

    def _of(self, roster: Roster) -> _OfRoster:
        kept = self._kept.get(roster.org)
        if kept is None or kept.heads.roster is not roster:
            kept = self._kept[roster.org] = _OfRoster(roster)
        self._kept.move_to_end(roster.org)
        while len(self._kept) > ROSTERS_KEPT:
            self._kept.popitem(last=False)
        return kept


class _OfRoster:
    """What is kept as long as a roster is the organization's: how its rows begin, and what was asked of it."""

    def __init__(self, roster: Roster) -> None:
        self.heads = _Heads(roster)
        # Who asks again mostly asks the same: each query is taken apart once.
        self._questions: OrderedDict[str, _Question] = OrderedDict()

    def question(self, call: Call) -> _Question:
        """What the call's query asks. Raises InvalidRequest or NotFound."""
        text = call.said.query_text
        kept = self._questions.get(text)
        if kept is None:
            kept = self._questions[text] = _Question.of(self.heads.roster, call.query)
        self._questions.move_to_end(text)
        if len(self._questions) > QUESTIONS_KEPT:
            self._questions.popitem(last=False)
        return kept


class _Question(msgspec.Struct):
    """What a query asks of a roster; `begin` is the time it names, None for now."""

    roster: Roster
    calendar: Calendar
    coach: Coach | None
    zone_name: str | None
    days: int
    by_start: bool
    with_ids: bool
    begin: datetime | None
    told: list[tuple[str, str]]
    # What the last tag was made of, and the tag.
    last: tuple[tuple[int, float, int, int], str] | None = None

    @classmethod
    def of(cls, roster: Roster, query: Mapping[str, str]) -> _Question:
        """Raises InvalidRequest or NotFound."""
        calendar = roster.calendar(query["calendar_id"]) if "calendar_id" in query else roster.everyone
        coach = roster.coach(query["coach_id"]) if "coach_id" in query else None
        zone_name = query_zone(query)
        days = query_integer("days", query.get("days", str(DEFAULT_DAYS)), 1, MOST_DAYS)
        by_start = query_word("group_by", query.get("group_by", "coach"), ("coach", "start")) == "start"
        with_ids = query_word("include", query.get("include", ""), ("", "coaches")) == "coaches"
        begin = planned_time("from", query["from"], zone_name) if "from" in query else None
        return cls(roster, calendar, coach, zone_name, days, by_start, with_ids, begin, sorted(query.items()))

    def start(self, now: datetime) -> datetime:
        """When the window begins."""
        return self.begin or five_minute_floor(now, self.calendar.slot_interval)

    def etag(self, revision: int, now: float) -> str:
        """The tag of what depends on the grid's revision, the roster, the question, and how far time has come.

        In seconds since the epoch and made anew only when a part is another, because every reading comes here: 1.0 µs
        instead of 4.6.
        """
        calendar, step = self.calendar, self.calendar.slot_interval * 60
        start = now // step * step if self.begin is None else self.begin.timestamp()
        earliest = max(start, now + calendar.min_notice_minutes * 60)
        latest = min(start + self.days * DAY_SECONDS, now + calendar.max_days_ahead * DAY_SECONDS)
        parts = revision, start, -int(-earliest // CELL_SECONDS), int(latest // CELL_SECONDS)
        if self.last is None or self.last[0] != parts:
            said = orjson.dumps([self.roster.org, self.roster.version, parts, self.told])
            self.last = parts, f'"{hashlib.blake2b(said, digest_size=12).hexdigest()}"'
        return self.last[1]


class _Making:
    """An answer that is being made, and how many wait for it."""

    def __init__(self, task: asyncio.Future[tuple[bytes, bool]]) -> None:
        self.task = task
        self.waiting = 0


class _Answers:
    """Answers by their entity tags, those asked for last.

    A tag is made of the revision that this very request has read from Redis: the answer is as fresh as a new one.
    """

    def __init__(self, most_bytes: int = ANSWERS_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._of: OrderedDict[str, bytes] = OrderedDict()

    def of(self, etag: str | None) -> bytes | None:
        """The answer of a tag, None when it is not kept."""
        found = None if etag is None else self._of.get(etag)
        if found is not None and etag is not None:
            self._of.move_to_end(etag)
        return found

    def keep(self, etag: str | None, body: bytes) -> None:
        """Keep an answer, for others that go."""
        if etag is None or etag in self._of:
            return
        self._of[etag] = body
        self._bytes += len(body)
        while self._bytes > self._most_bytes:
            self._bytes -= len(self._of.popitem(last=False)[1])


class _Heads:
    """How the rows of a roster's coaches begin, by the mask they are free in: the same few come again and again."""

    def __init__(self, roster: Roster) -> None:
        self.roster = roster
        self._of_coach = {c.column: f'{{"coach_id":{orjson.dumps(c.coach_id).decode()},' for c in roster.coaches}
        self._of: OrderedDict[int, list[str]] = OrderedDict()

    def of(self, mask: int) -> list[str]:
        """Of the coaches in the mask, by id."""
        found = self._of.get(mask)
        if found is None:
            found = [self._of_coach[coach.column] for coach in self.roster.coaches_in(mask)]
            if len(found) <= LARGEST_MASK_KEPT:
                self._of[mask] = found
            if len(self._of) > MASKS_KEPT:
                self._of.popitem(last=False)
        return found


def _body(free: FreeSlots, heads: _Heads, zone_name: str | None, *, by_start: bool, with_ids: bool) -> bytes:
    """The answer's JSON. Raises InvalidRequest when it would have too many rows."""
    counts = free.counts
    total = sum(count for _, count in counts)
    rows = total if not by_start or with_ids else len(counts)
    if rows > MOST_ROWS:
        raise InvalidRequest(
            [("days", f"the answer would have {rows} rows, more than {MOST_ROWS}: ask for fewer days, one coach_id, "
              "one calendar_id or group_by=start without ids")]
        )  # fmt: skip
    zone = ZoneInfo(zone_name) if zone_name else None
    if not by_start:
        slots = _slots(free, heads, zone)
    else:
        slots = _starts_with_ids(free, zone) if with_ids else _starts(free, counts, zone)
    head = orjson.dumps(
        {
            "total_available": total,
            "from": show_time(free.start, zone),
            "to": show_time(free.end, zone),
            "timezone": zone_name or "UTC",
        }
    )
    return b'{"slots":[' + ",".join(slots).encode() + b"]," + head[1:]


def _slots(free: FreeSlots, heads: _Heads, zone: ZoneInfo | None) -> Iterator[str]:
    """The rows of each start, one a coach."""
    for cell, mask in free.rows:
        rest = f"{_times(cell, free.calendar.slot_duration, zone)}}}"
        yield f"{f'{rest},'.join(heads.of(mask))}{rest}"


def _starts(free: FreeSlots, counts: list[tuple[int, int]], zone: ZoneInfo | None) -> Iterator[str]:
    for cell, count in counts:
        yield f'{{{_times(cell, free.calendar.slot_duration, zone)},"available":{count}}}'


def _starts_with_ids(free: FreeSlots, zone: ZoneInfo | None) -> Iterator[str]:
    for cell, coaches in free.slots():
        ids = orjson.dumps([coach.coach_id for coach in coaches]).decode()
        times = _times(cell, free.calendar.slot_duration, zone)
        yield f'{{{times},"available":{len(coaches)},"coach_ids":{ids}}}'


@lru_cache(maxsize=16_384)
def _times(cell: int, minutes: int, zone: ZoneInfo | None) -> str:
    """The times of a slot as JSON: of a month's starts each is asked for again and again."""
    start = instant_of(cell)
    end = start + timedelta(minutes=minutes)
    return f'"start_time":"{show_time(start, zone)}","end_time":"{show_time(end, zone)}"'
