"""A small organization on an empty Redis: what the scripts need to be asked anything, without Postgres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from redis.asyncio import Redis

from service.claims.breaker import GateBreaker
from service.claims.gate import Gate
from service.claims.grid import GridStore
from service.claims.keys import Keys, Shards
from service.claims.messages import Admission, Mark, Release, SlotClaim
from service.claims.scripts import ClaimReply, DeriveOutcome, PublishOutcome, ReleaseOutcome, Scripts
from service.domain.assignment import Strategy
from service.domain.calendar import Calendar, Coach, Roster
from service.domain.grid import CELLS_PER_DAY, Placement, day_of, row_bytes
from service.domain.plane import plane_of

ORG = 1
TODAY = day_of(datetime.now(UTC))
DAY = TODAY + 2
OPEN_ALL_DAY = (1 << CELLS_PER_DAY) - 1
CLAIM_TTL_MS = 10_000
EPOCH = 7


def coach(column: int, *, score: int = 500_000, zone: str = "UTC", limit: int = 10) -> Coach:
    """A coach in a column."""
    return Coach(column, f"coach-{column}", f"Coach {column}", f"{column}@example.com", None, zone, score, limit, True)


def roster_of(coaches: Sequence[Coach], *teams: tuple[int, ...], version: int = 1) -> Roster:
    """A roster whose calendars 1, 2, … have the given teams (none given: one calendar with everybody)."""
    everybody = tuple(c.column for c in coaches)
    calendars = tuple(
        Calendar(number, f"cal-{number}", "", 30, 15, None, 0, 0, 0, 30, Strategy.BALANCED, team)
        for number, team in enumerate(teams or (everybody,), 1)
    )
    return Roster(
        org=ORG,
        name="demo",
        version=version,
        width=row_bytes(max(everybody) + 1),
        coaches=tuple(coaches),
        calendars=calendars,
        everyone=replace(calendars[0], number=None),
        zones=tuple(sorted({c.timezone for c in coaches})),
    )


def at(cell: int, cells: int = 6, *, day: int = DAY, before: int = 0, after: int = 0) -> Placement:
    """The placement of `cells` cells from the `cell`-th of a day, with buffers in cells."""
    start = day * CELLS_PER_DAY + cell
    return Placement(start, start + cells, start - before, start + cells + after)


def identity(wish: SlotClaim, column: int) -> str:
    """How a committed claim is known in what Postgres says."""
    placement = wish.placement
    name = wish.token if wish.own is None else wish.own.appointment
    return f"{name}:{column}:{placement.occupied_start}:{placement.occupied_end}"


@dataclass
class World:
    """The gate and the grid of one organization on one server."""

    redis: Redis
    scripts: Scripts
    grid: GridStore
    gate: Gate
    keys: Keys
    roster: Roster

    @classmethod
    def on(cls, redis: Redis, scripts: Scripts) -> World:
        """Three coaches, scores falling from column 0, two appointments a day each, nothing published."""
        shards = Shards(1)
        coaches = [
            coach(0, score=900_000, limit=2),
            coach(1, score=800_000, limit=2),
            coach(2, score=700_000, limit=2),
        ]
        breaker = GateBreaker()
        breaker.close(EPOCH)
        return cls(
            redis,
            scripts,
            GridStore(redis, scripts, shards, breaker),
            Gate(scripts, shards, breaker, claim_ttl_ms=CLAIM_TTL_MS, answer_ttl_ms=60_000),
            shards.of(ORG),
            roster_of(coaches),
        )

    async def emptied(self) -> None:
        """Nothing left but the epoch."""
        await self.redis.flushall()
        await self.redis.set(self.keys.epoch, str(EPOCH))

    async def publish(self, roster: Roster | None = None, deficits: Sequence[int] = ()) -> PublishOutcome:
        """Publish a roster (and decide by it from now on)."""
        self.roster = roster or self.roster
        owed = [*deficits, *[0] * (self.roster.width * 8 - len(deficits))]
        outcome, _ = await self.grid.publish(self.roster, owed, range(DAY - 3, DAY + 4))
        return outcome

    async def derive(
        self,
        day: int = DAY,
        *,
        open_cells: Mapping[int, int] | None = None,
        occupied: Mapping[int, int] | None = None,
        counts: Sequence[int] = (),
        known: Sequence[str] = (),
        nonce: str | None = None,
    ) -> DeriveOutcome:
        """Create a day; without `open_cells` everybody works around the clock."""
        if nonce is None:
            nonce = await self.grid.mark_day(ORG, day)
        if open_cells is None:
            open_cells = {c.column: OPEN_ALL_DAY for c in self.roster.coaches}
        width = self.roster.width
        return await self.grid.derive_day(
            self.roster,
            day,
            nonce,
            open_plane=plane_of(open_cells, width),
            occupied=plane_of(occupied or {}, width),
            counts=[*counts, *[0] * (width * 8 - len(counts))],
            known=known,
        )

    async def ready(self) -> World:
        """Published, with the day and its neighbours derived."""
        await self.publish()
        for day in (DAY - 1, DAY, DAY + 1):
            await self.derive(day)
        return self

    def wish(self, placement: Placement, **changes: Any) -> SlotClaim:
        """A wish of the first calendar for a placement."""
        fields: dict[str, Any] = {
            "org": ORG,
            "version": self.roster.version,
            "width": self.roster.width,
            "calendar_number": 1,
            "token": uuid4().hex,
            "placement": placement,
            "zones": ((None, placement.start // CELLS_PER_DAY),),
            "strategy": Strategy.BALANCED,
            "column": -1,
            "draws": (0,),
            "idempotency_key": None,
        }
        return SlotClaim(**{**fields, **changes})

    async def claim(self, wish: SlotClaim, fingerprint: str = "a" * 32) -> ClaimReply:
        """Ask for a time, with the wish's idempotency key if it has one."""
        key = wish.idempotency_key
        mark = None if key is None else Mark(key, fingerprint, wish.token)
        return await self.gate.admit(Admission(ORG, mark=mark, claim=wish))

    async def release(self, wish: SlotClaim, local_day: int | None = None) -> ReleaseOutcome:
        """Free what a wish claimed."""
        day = wish.zones[0][1] if local_day is None else local_day
        return await self.gate.release(Release(ORG, wish.token, wish.placement, day, wish.idempotency_key))

    async def snapshot(self) -> dict[str, Any]:
        """Every key with its value, but for the roster's revision and its claims, which only ever count up."""
        found: dict[str, Any] = {}
        names: Any = await self.redis.keys()
        for name in names:
            key: str = name.decode()
            kind = await self.redis.type(key)
            if kind == b"string":
                found[key] = await self.redis.get(key)
            elif kind == b"hash":
                found[key] = await self.redis.hgetall(key)  # type: ignore[misc]
                found[key].pop(b"revision", None)
                found[key].pop(b"claims", None)
            elif kind == b"set":
                found[key] = await self.redis.smembers(key)  # type: ignore[misc]
            elif kind == b"stream":
                found[key] = [fields for _, fields in await self.redis.xrange(key) or ()]
            else:
                found[key] = await self.redis.zrange(key, 0, -1)
        return found

    async def revision(self) -> int:
        """The roster's revision."""
        return int(await self.redis.hget(self.keys.roster(ORG), "revision") or 0)  # type: ignore[misc]
