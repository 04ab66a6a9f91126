"""One idempotency key, one effect, one answer: for every write but the booking, which claims its key with its time.

Redis is asked first and answers most repeats; Postgres decides. A key is held there while its request is carried out,
so two processes cannot both begin it, whether Redis is there or not. Where Redis cannot tell which bookings are under
way, those that were being committed when the key was held are waited for. The answer is in Postgres before it is given:
written by the effect's own transaction where the operation takes a `Complete`, else right after it. A process that
dies leaves its hold, which ends by itself; then the same request may be taken over, and only the same.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

import msgspec
import uuid_utils

from service.batching import Batcher
from service.claims.marks import KeyMarks, MarkOutcome
from service.claims.messages import Mark
from service.db.gate import GateStore
from service.db.idempotency import Completion, FinalAnswer, KeyHold, KeyRecords
from service.errors import (
    BookingError,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    OutcomeUnknown,
    Unavailable,
)
from service.logs import get_logger
from service.metrics import Metrics
from service.operations.tracking import TrackedTasks

# How long a request waits for a duplicate of itself that is under way.
PATIENCE_S = 5.0
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.02, 0.25
_ATTEMPTS = 4
_MOST_LOOKS = 128

Response = TypeVar("Response")

_log = get_logger("operations.carry_out_once")
_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(FinalAnswer)


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request under an idempotency key; `fingerprint` (32 hex digits) stands for what it asks."""

    org: int
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Replay:
    """The answer that the key has already."""

    answer: FinalAnswer


class CarryOutOnce:
    """Carries requests out once. `hold_s`: how long a request may take before the same one, sent again, takes over."""

    def __init__(
        self,
        *,
        records: KeyRecords,
        marks: KeyMarks,
        gate: GateStore,
        tasks: TrackedTasks,
        metrics: Metrics,
        hold_s: float,
    ) -> None:
        self._records = records
        self._marks = marks
        self._gate = gate
        self._tasks = tasks
        self._hold_s = hold_s
        self._counter = metrics.keyed_requests
        self._chance = random.Random()
        self._under_way: dict[tuple[int, str], asyncio.Event] = {}
        # Each look takes the gate's lock: those who come meanwhile share the next.
        self._looks: Batcher[tuple[int, str], bool] = Batcher(self._are_booked, most=_MOST_LOOKS)

    async def __call__(
        self,
        request: KeyedRequest,
        work: Callable[[KeyHold], Awaitable[Response]],
        answer_of: Callable[[Response], FinalAnswer | None],
    ) -> Response | Replay:
        """What `work` gives, or the answer that an earlier request under the key got.

        `answer_of` is what of a response is kept, None for one that is not. Raises IdempotencyKeyReused,
        IdempotencyInProgress after a wait, Unavailable (nothing was done), OutcomeUnknown (the same key goes on) and
        whatever `work` raises. Goes on to its end when the caller is cancelled.
        """
        return await self._tasks.run(self._once(request, work, answer_of))

    async def _once(
        self,
        request: KeyedRequest,
        work: Callable[[KeyHold], Awaitable[Response]],
        answer_of: Callable[[Response], FinalAnswer | None],
    ) -> Response | Replay:
        """Wait for the same key in this process, if it is asked for here, and then ask the others."""
        give_up = asyncio.get_running_loop().time() + PATIENCE_S
        place, ended = (request.org, request.key), asyncio.Event()
        under_way = self._under_way.setdefault(place, ended)
        if under_way is not ended:
            # A crowd of duplicates would slow down the one they wait for.
            with suppress(TimeoutError):
                await asyncio.wait_for(under_way.wait(), PATIENCE_S)
        try:
            return await self._ask(request, give_up, work, answer_of)
        finally:
            if under_way is ended:
                del self._under_way[place]
                ended.set()

    async def _ask(
        self,
        request: KeyedRequest,
        give_up: float,
        work: Callable[[KeyHold], Awaitable[Response]],
        answer_of: Callable[[Response], FinalAnswer | None],
    ) -> Response | Replay:
        owner, pause = UUID(int=uuid_utils.uuid7().int), _FIRST_LOOK_S
        clock = asyncio.get_running_loop().time
        while True:
            # Looked at before the key is, so that the last look is never an early one.
            last = clock() >= give_up
            try:
                found = await self._begin(request, owner, insist=last)
            except BaseException:
                await self._free_mark(request, owner)
                raise
            if isinstance(found, KeyHold):
                return await self._carry_out(request, found, work, answer_of)
            if found is not None:
                self._counter.labels("replayed").inc()
                return Replay(found)
            if last:
                await self._free_mark(request, owner)
                self._counter.labels("in_progress").inc()
                raise IdempotencyInProgress("a request with this idempotency key is still being carried out")
            await asyncio.sleep(pause * self._chance.uniform(0.5, 1))
            pause = min(pause * 1.5, _LONGEST_LOOK_S)

    async def _begin(self, request: KeyedRequest, owner: UUID, *, insist: bool) -> KeyHold | FinalAnswer | None:
        """The hold, or the answer the key has; None while another request holds it. Raises IdempotencyKeyReused.

        `insist`: do not take Redis' word for it that a request is under way; whoever set the mark may have died.
        """
        asked = True
        try:
            outcome, kept = await self._marks.begin(request.org, Mark(request.key, request.fingerprint, owner.hex))
        except Unavailable:
            asked, outcome, kept = False, MarkOutcome.BEGUN, b""  # Postgres decides
        if outcome is MarkOutcome.IN_PROGRESS:
            return await self._look(request) if insist else None
        if outcome is MarkOutcome.REUSED:
            raise self._reused()
        if outcome is MarkOutcome.REPLAY:
            return _decoder.decode(kept)
        fingerprint = bytes.fromhex(request.fingerprint)
        try:
            hold = await self._records.begin(request.org, request.key, fingerprint, owner, self._hold_s)
        except OutcomeUnknown:
            return None  # nothing was carried out yet; the same owner may begin again
        if hold is None:
            return await self._look(request)
        if not asked:
            await self._look_beside(hold)
        return hold

    async def _look_beside(self, hold: KeyHold) -> None:
        """Give the hold up if a booking has the key. Raises IdempotencyKeyReused then, or Unavailable.

        It may have been claimed in Redis before that was away, and its commit begun before the hold could be seen.
        """
        try:
            if await self._looks.submit((hold.org, hold.key)):
                raise self._reused()
        except BaseException:  # cancelled too: who has not begun holds no key
            await self._end_hold(hold, may_have_happened=hold.operation != hold.owner)
            raise

    async def _are_booked(self, keys: list[tuple[int, str]]) -> list[bool]:
        """Of each key that is held whether a booking has it that was begun before."""
        await self._gate.wait_for_commits()
        booked = await self._records.booked(keys)
        return [key in booked for key in keys]

    async def _look(self, request: KeyedRequest) -> FinalAnswer | None:
        """The answer that Postgres has for the key; None when it has none yet. Raises IdempotencyKeyReused."""
        record = await self._records.find(request.org, request.key)
        if record is None or not record.over:
            return None
        if record.fingerprint.hex() != request.fingerprint:
            raise self._reused()
        if record.answer is not None:
            await self._keep_in_redis(request, record.answer)
        return record.answer

    def _reused(self) -> IdempotencyKeyReused:
        self._counter.labels("reused").inc()
        return IdempotencyKeyReused("this idempotency key was used for a different request")

    async def _carry_out(
        self,
        request: KeyedRequest,
        hold: KeyHold,
        work: Callable[[KeyHold], Awaitable[Response]],
        answer_of: Callable[[Response], FinalAnswer | None],
    ) -> Response | Replay:
        try:
            response = await work(hold)
        except BookingError as problem:
            # A hold that was lost is somebody else's to end; freeing finds nothing then. Who took over and is told that
            # nobody can be asked knows no more than before of what was done already.
            taken_over = hold.operation != hold.owner
            unknown = isinstance(problem, OutcomeUnknown) or (taken_over and isinstance(problem, Unavailable))
            await self._end(request, hold, may_have_happened=unknown)
            raise
        except BaseException:
            await self._end(request, hold, may_have_happened=True)
            raise
        answer = answer_of(response)
        if answer is None:
            await self._end(request, hold, may_have_happened=False)
            return response
        given = await self._complete(request, Completion(hold, answer))
        await self._keep_in_redis(request, given)
        if given != answer:
            self._counter.labels("replayed").inc()
            return Replay(given)
        self._counter.labels("carried_out").inc()
        return response

    async def _complete(self, request: KeyedRequest, completion: Completion) -> FinalAnswer:
        """The answer the key has now: ours, unless the request was taken over. Raises OutcomeUnknown."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                if await self._records.complete(completion):
                    return completion.answer
                # By the effect's own transaction, by an attempt whose reply was lost, or by who took over.
                record = await self._records.find(request.org, request.key)
            except (Unavailable, OutcomeUnknown) as problem:
                _log.warning("answer not kept yet", attempt=attempt, error=problem.message)
                await asyncio.sleep(0.05 * 2**attempt)
                continue
            if record is not None and record.answer is not None:
                return record.answer
            break
        await self._end(request, completion.hold, may_have_happened=True)
        raise OutcomeUnknown("the answer could not be kept; the same key will tell")

    async def _end(self, request: KeyedRequest, hold: KeyHold, *, may_have_happened: bool) -> None:
        """End a hold without an answer, in Postgres first: a free mark in Redis must find a free key there."""
        self._counter.labels("unknown" if may_have_happened else "refused").inc()
        await self._end_hold(hold, may_have_happened=may_have_happened)
        await self._free_mark(request, hold.owner)

    async def _end_hold(self, hold: KeyHold, *, may_have_happened: bool) -> None:
        try:
            await (self._records.leave(hold) if may_have_happened else self._records.free(hold))
        except (Unavailable, OutcomeUnknown) as problem:
            _log.warning("idempotency key not ended", error=problem.message)

    async def _free_mark(self, request: KeyedRequest, owner: UUID) -> None:
        try:
            await self._marks.free(request.org, request.key, owner.hex)
        except Unavailable as problem:
            _log.info("idempotency mark not freed", error=problem.message)

    async def _keep_in_redis(self, request: KeyedRequest, answer: FinalAnswer) -> None:
        try:
            await self._marks.answer(request.org, request.key, request.fingerprint, _encode(answer))
        except Unavailable as problem:
            _log.info("answer not kept in Redis", error=problem.message)
