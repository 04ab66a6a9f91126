"""The gate: every request waiting in one moment passes it in one script call.

`Gate.admit` counts a read, `Gate.claim` counts a write, begins its idempotency key and takes its slot,
`Gate.still_taken` says of refusals whether they hold, `Gate.settle` and `Gate.release` end what a claim began.
Callers hand over domain values; the packing into the script's arrays happens here and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from service.batching import Batcher
from service.claims.breaker import GateBreaker, Trip
from service.claims.keys import Keys, Shards
from service.claims.messages import Admission, OwnTime, Rate, Refused, Release, Settlement
from service.claims.scripts import (
    ClaimOutcome,
    ClaimReply,
    ReleaseOutcome,
    Scripts,
    SettleOutcome,
    StillTakenOutcome,
    StillTakenReply,
)
from service.domain.grid import CELLS_PER_DAY, Placement
from service.errors import GateClosed, ItemBroken

MOST_IN_ONE_CALL = 128
# How long a settlement that nobody waits for waits for others: a few times as many share a call.
GATHERING_S = 0.02

# What is claimed while others commit would wait for them before its own commit: it waits here instead, for company.
# No longer than this, and not beyond so many.
CLAIMS_GATHER_S = 0.006
ENOUGH_CLAIMS = 64

Told = Callable[["asyncio.Future[SettleOutcome]"], object]


class _KeyList:
    """Numbers the keys of one call, each once, from 1 as Lua counts."""

    def __init__(self, *first: str) -> None:
        self.names = list(first)
        self._index = {name: number for number, name in enumerate(first, 1)}

    def __call__(self, name: str) -> int:
        number = self._index.get(name)
        if number is None:
            self.names.append(name)
            number = self._index[name] = len(self.names)
        return number


class Gate:
    """Batches admissions, settlements and releases, one batcher a shard and a kind."""

    def __init__(
        self,
        scripts: Scripts,
        shards: Shards,
        breaker: GateBreaker,
        *,
        claim_ttl_ms: int,
        answer_ttl_ms: int,
        observe: Callable[[str, int], None] = lambda _kind, _size: None,
        most: int = MOST_IN_ONE_CALL,
        committing: Callable[[], bool] = lambda: False,
    ) -> None:
        """`observe` is told the kind and size of each batch; `committing` says whether claims of before are."""
        self._scripts = scripts
        self._shards = shards
        self._breaker = breaker
        self._claim_ttl_ms = claim_ttl_ms
        self._answer_ttl_ms = answer_ttl_ms
        self._admissions: dict[Keys, Batcher[Admission, ClaimReply]] = {}
        self._settlements: dict[Keys, Batcher[Settlement, SettleOutcome]] = {}
        self._releases: dict[Keys, Batcher[Release, ReleaseOutcome]] = {}
        self._gathered: list[tuple[Settlement, Told]] = []
        for keys in shards.all:
            self._admissions[keys] = Batcher(
                lambda items, keys=keys: self._admit(keys, items),
                most=most,
                gathering_s=CLAIMS_GATHER_S,
                enough=min(ENOUGH_CLAIMS, most),
                more_to_come=committing,
                observe=lambda size: observe("claim", size),
            )
            self._settlements[keys] = Batcher(
                lambda items, keys=keys: self._settle(keys, items),
                most=most,
                observe=lambda size: observe("settle", size),
            )
            self._releases[keys] = Batcher(
                lambda items, keys=keys: self._release(keys, items),
                most=most,
                observe=lambda size: observe("release", size),
            )

    async def admit(self, admission: Admission) -> ClaimReply:
        """The script's reply to one request.

        Raises GateClosed when Redis does not answer, or its grid is not to be trusted any more, and ItemBroken
        when the script could not evaluate it.
        """
        reply = await self._admissions[self._shards.of(admission.org)].submit(admission)
        if reply.outcome is ClaimOutcome.SUSPECT:
            self._breaker.trip(Trip.SUSPECT)
            raise GateClosed("the grid is not of this epoch")
        if reply.outcome is ClaimOutcome.BROKEN:
            raise ItemBroken(f"the gate could not evaluate the request: {_text(reply.first)}")
        return reply

    async def still_taken(self, keys: Keys, items: Sequence[Refused]) -> list[StillTakenReply]:
        """Whether refusals of one shard still hold, each counted; of a key that Redis knows the outcome is `freed`.

        Raises GateClosed or Unavailable when Redis does not answer.
        """
        epoch = self._breaker.epoch
        groups: dict[tuple[int, int, int, int, Rate | None], list[int]] = {}
        for place, item in enumerate(items):
            groups.setdefault((item.org, item.version, item.epoch, item.freed, item.rate), []).append(place)
        names, packed = [keys.epoch], list[object]()
        # A mark is found again by its place among those of its item.
        marked: list[list[int]] = []
        for (org, version, told_in, freed, rate), places in groups.items():
            counted: object = False
            if rate is not None:
                names.append(keys.rate(rate.key_id))
                counted = [len(names), rate.limit, rate.window_ms, len(places)]
            names.append(keys.roster(org))
            roster, first = len(names), len(names) + 1
            keyed = [place for place in places if items[place].key is not None]
            names += [keys.answer(org, items[place].key or "") for place in keyed]
            marked.append(keyed)
            packed.append([counted, roster, version, told_in, freed, first, len(names)])
        said = await self._breaker.ask(self._scripts.still_taken(names, packed, epoch))
        if any(reply.outcome is StillTakenOutcome.SUSPECT for reply, _ in said):
            self._breaker.trip(Trip.SUSPECT)
        replies = [said[0][0]] * len(items)
        for ((*_, rate), places), keyed, (reply, marks) in zip(groups.items(), marked, said, strict=True):
            limit = 0 if rate is None else rate.limit
            count = reply.rate_count - len(places)
            for place in places:
                count += 1
                outcome = StillTakenOutcome.LIMITED if 0 < limit < count else reply.outcome
                replies[place] = StillTakenReply(outcome, count, reply.rate_reset_ms, reply.revision)
            for mark in marks:
                known = replies[keyed[mark]]
                if known.outcome is StillTakenOutcome.TAKEN:
                    replies[keyed[mark]] = msgspec.structs.replace(known, outcome=StillTakenOutcome.FREED)
        return replies

    def stop_gathering(self) -> None:
        """What was committed is; claims that waited for it wait no longer."""
        for admissions in self._admissions.values():
            admissions.hurry()

    @property
    def epoch(self) -> int | None:
        """The epoch claims are made in; None while Redis is not asked."""
        return self._breaker.epoch if self._breaker.closed else None

    @property
    def behind(self) -> bool:
        """Whether something may have been changed without Redis that the grid does not show yet."""
        return self._breaker.behind

    def fall_behind(self) -> None:
        """Something was changed without Redis: let its grid be told."""
        self._breaker.fall_behind()

    async def settle(self, settlement: Settlement) -> SettleOutcome:
        """Settle one committed change. Raises Unavailable."""
        return await self._settlements[self._shards.of(settlement.org)].submit(settlement)

    def settle_soon(self, settlement: Settlement, told: Told) -> None:
        """Settle one committed change in a moment, with whatever else comes until then; `told` gets the outcome."""
        self._gathered.append((settlement, told))
        if len(self._gathered) == 1:
            asyncio.get_running_loop().call_later(GATHERING_S, self._settle_gathered)

    def _settle_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        for settlement, told in gathered:
            self._settlements[self._shards.of(settlement.org)].submit(settlement).add_done_callback(told)

    async def release(self, release: Release) -> ReleaseOutcome:
        """Free one token's time. Raises Unavailable."""
        return await self._releases[self._shards.of(release.org)].submit(release)

    async def note_release(
        self,
        org: int,
        token: str,
        appointment: str,
        column: int,
        placement: Placement,
        local_day: int,
        width: int,
        considered: bytes,
    ) -> None:
        """Note that an appointment's time will be freed by the commit that follows. Raises Unavailable."""
        entry = [
            self._claim_ttl_ms,
            org,
            appointment,
            column,
            placement.occupied_start,
            placement.occupied_end - placement.occupied_start,
            local_day,
            width,
        ]
        with self._breaker.asking():
            await self._scripts.note_release(self._shards.of(org).pending, token, entry, considered)

    async def drain(self) -> None:
        """Wait until every batch has come back."""
        self._settle_gathered()
        for batchers in (self._admissions, self._settlements, self._releases):
            for batcher in batchers.values():
                await batcher.drain()

    async def _admit(self, keys: Keys, items: list[Admission]) -> Sequence[ClaimReply]:
        epoch = self._breaker.epoch
        names = _KeyList(keys.pending, keys.epoch)
        # Who polls asks with few keys: what is read in one moment is one item for each, which takes the script 0.6 of
        # the time for 16 reads and 0.4 for 32.
        groups = _alike(items)
        packed = [self._pack_admission(keys, names, items[places[0]], len(places)) for places in groups]
        replies = await self._breaker.ask(self._scripts.claim_slot(names.names, self._claim_ttl_ms, packed, epoch))
        if len(groups) == len(items):
            return replies
        by_place: dict[int, ClaimReply] = {}
        for places, reply in zip(groups, replies, strict=True):
            for behind, place in enumerate(reversed(places)):
                by_place[place] = reply if len(places) == 1 else _one_of(reply, behind, items[place].rate)
        return [by_place[place] for place in range(len(items))]

    def _pack_admission(self, keys: Keys, name: _KeyList, item: Admission, times: int) -> list[object]:
        rate: object = False
        if item.rate is not None:
            rate = [name(keys.rate(item.rate.key_id)), item.rate.limit, item.rate.window_ms, times]
        mark: object = False
        if item.mark is not None:
            mark = [
                name(keys.answer(item.org, item.mark.key)),
                item.mark.fingerprint,
                # The mark outlives the claim: whoever settles or releases the claim removes it first.
                self._claim_ttl_ms * 4,
                item.mark.owner,
            ]
        claim = item.claim
        if claim is None:
            return [rate, mark, False, name(keys.roster(item.org))]
        org = claim.org
        segments = [
            [
                name(keys.open(org, part.day)),
                name(keys.occupied(org, part.day)),
                part.first,
                part.count,
                part.open_first,
                part.open_count,
            ]
            for part in claim.placement.segments()
        ]
        dates = [
            [False if zone is None else f"zone:{zone}", name(keys.full(org, day)), name(keys.counts(org, day)), day]
            for zone, day in claim.zones
        ]
        return [
            rate,
            mark,
            [
                org,
                name(keys.roster(org)),
                claim.version,
                claim.width,
                f"calendar:{claim.calendar_number}",
                claim.token,
                segments,
                dates,
                claim.strategy.value,
                claim.column,
                claim.draws,
                name(keys.scores(org)),
                name(keys.limits(org)),
                name(keys.deficits(org)),
                claim.placement.occupied_start,
                claim.idempotency_key or "",
                False if claim.own is None else _pack_own(claim.own, claim.placement),
            ],
            False,
        ]

    async def _settle(self, keys: Keys, items: list[Settlement]) -> Sequence[SettleOutcome]:
        name = _KeyList(keys.pending, keys.repairs)
        packed: list[object] = []
        heard: dict[tuple[str, ...], list[list[int]]] = {}  # nearly every change is heard of by the same
        for item in items:
            streams = heard.get(item.streams)
            if streams is None:
                streams = [[name(keys.stream(stream)), name(keys.way(stream))] for stream in item.streams]
                heard[item.streams] = streams
            answer: object = False
            if item.answer is not None:
                answer = [
                    name(keys.answer(item.org, item.answer.key)),
                    name(keys.stream("idempotency")),
                    item.answer.key,
                    item.org,
                    item.answer.fingerprint,
                    item.answer.status,
                    item.answer.appointment_id,
                    f"d{item.answer.fingerprint}{item.answer.body.decode()}",
                ]
            packed.append([item.token or False, item.event or False, streams, answer])
        return await self._breaker.ask(self._scripts.settle_claim(name.names, self._answer_ttl_ms, packed))

    async def _release(self, keys: Keys, items: list[Release]) -> Sequence[ReleaseOutcome]:
        name = _KeyList(keys.pending, keys.repairs)
        packed: list[object] = []
        for item in items:
            org = item.org
            segments = [
                [name(keys.occupied(org, day)), first, count]
                for day, first, count in (item.placement.occupied_runs(item.keeping) if item.frees else ())
            ]
            mark = name(keys.answer(org, item.idempotency_key)) if item.idempotency_key else False
            packed.append(
                [
                    item.token,
                    name(keys.roster(org)),
                    segments,
                    name(keys.full(org, item.local_day)) if item.counted and item.frees else False,
                    name(keys.counts(org, item.local_day)),
                    name(keys.limits(org)),
                    name(keys.deficits(org)),
                    mark,
                    item.side.value,
                    item.frees,
                ]
            )
        return await self._breaker.ask(self._scripts.release_claim(name.names, packed))


def _alike(items: Sequence[Admission]) -> list[list[int]]:
    """The places of the items that are one for the script: reads that count against the same key, no write between."""
    groups: list[list[int]] = []
    reads: dict[tuple[int, Rate], list[int]] = {}
    for place, item in enumerate(items):
        if item.rate is None:
            groups.append([place])
            continue
        key = item.org, item.rate
        if item.claim is not None or item.mark is not None:
            reads.pop(key, None)
            groups.append([place])
            continue
        together = reads.get(key)
        if together is None:
            together = reads[key] = []
            groups.append(together)
        together.append(place)
    return groups


def _one_of(reply: ClaimReply, behind: int, rate: Rate | None) -> ClaimReply:
    """The reply to one of several reads that were counted together, `behind` of them after it."""
    count = reply.rate_count - behind
    over = rate is not None and 0 < rate.limit < count
    return msgspec.structs.replace(reply, outcome=ClaimOutcome.LIMITED if over else reply.outcome, rate_count=count)


def _pack_own(own: OwnTime, wanted: Placement) -> list[object]:
    """What an appointment holds, and which rows of the wanted segments (numbered from 1) those are."""
    overlaps: list[list[int]] = []
    for number, part in enumerate(wanted.segments(), 1):
        begin = part.day * CELLS_PER_DAY + part.first
        first = max(own.placement.occupied_start - begin, 0)
        last = min(own.placement.occupied_end - begin, part.count)
        if first < last:
            overlaps.append([number, first, last])
    cells = own.placement.occupied_end - own.placement.occupied_start
    return [
        own.appointment,
        own.column,
        own.placement.occupied_start,
        cells,
        own.local_day,
        own.considered.hex(),
        own.search.value,
        overlaps,
    ]


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
