"""Who holds a key may complete it, and nobody else; without Redis Postgres alone decides; secrets are not kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from unittest.mock import AsyncMock
from uuid import UUID, uuid4

import msgspec
import orjson
import pytest

from service.api.endpoint import Call, Route
from service.api.response import Response
from service.app import Services
from service.assemble_api import carry_out_once
from service.claims.breaker import GateBreaker
from service.claims.connection import connect
from service.claims.marks import KeyMarks, MarkOutcome
from service.claims.messages import Mark
from service.claims.scripts import Scripts
from service.db.idempotency import Completion, FinalAnswer, KeyHold, KeyRecords
from service.errors import (
    IdempotencyInProgress,
    IdempotencyKeyReused,
    OutcomeUnknown,
    SlotUnavailable,
    Unavailable,
)
from service.operations.carry_out_once import CarryOutOnce, KeyedRequest, Replay
from service.operations.local_rates import RateSeen
from tests.api.client import Client
from tests.api_people.conftest import served
from tests.idempotency.writes import EXAMPLES, counted, difference, time_passes
from tests.servers import free_port
from tests.wishes import caller, free_starts, wish

ANSWER = FinalAnswer(200, {"ETag": '"v1"'}, b"{}")


@pytest.mark.parametrize(
    "name", ["create_coach", "put_appointment", "end_time_off", "create_contact", "change_calendar"]
)
async def test_who_took_so_long_that_the_request_was_taken_over_has_no_effect(
    services: Services, api: Client, second: Client, sql: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write, key = await EXAMPLES[name].ready(api, 0, sql), uuid4().hex
    before, standing, go_on = await counted(sql), asyncio.Event(), asyncio.Event()
    really = CarryOutOnce._carry_out

    async def stands_still(self: CarryOutOnce, *given: Any) -> Any:
        if not standing.is_set():
            standing.set()
            await go_on.wait()
        return await really(self, *given)

    monkeypatch.setattr(CarryOutOnce, "_carry_out", stands_still)
    slow = asyncio.ensure_future(write(api, key))
    await standing.wait()
    await time_passes(sql, services.redis)
    quick = await write(second, key)
    assert 200 <= quick.status < 300, quick.raw
    go_on.set()
    late = await slow
    # What it finds is what the other has done, or that it is not its turn any more; never a second effect.
    assert late.status in (404, 409, quick.status), late.raw
    assert difference(before, await counted(sql)) == EXAMPLES[name].adds
    assert (await write(api, key)).raw == quick.raw


async def test_a_change_is_written_with_its_answer_and_not_at_all_when_the_hold_is_lost(
    services: Services, org: int, api: Client, sql: Any
) -> None:
    path = (await EXAMPLES["confirm_appointment"].ready(api, 0, sql)).path
    appointment_id, records = UUID(path.split("/")[3]), KeyRecords(services.database)
    hold = await records.begin(org, "key-1", b"\0" * 16, uuid4(), 60)
    assert hold is not None
    lost = msgspec.structs.replace(hold, owner=uuid4())
    before = await counted(sql)
    for held in (lost, hold):
        confirm = services.change.confirm(
            org,
            appointment_id,
            actor="tests",
            correlation_id="corr-1",
            complete=lambda _, held=held: Completion(held, ANSWER),
        )
        if held is lost:
            with pytest.raises(IdempotencyInProgress):
                await confirm
            assert difference(before, await counted(sql)) == {}
        else:
            await confirm
    assert difference(before, await counted(sql)) == {"events": 1}
    record = await records.find(org, "key-1")
    assert record is not None
    assert record.answer == ANSWER
    assert not await records.complete(Completion(hold, ANSWER))
    await records.free(hold)
    assert await records.find(org, "key-1") == record, "what fails after it has had its effect loses no answer"


async def test_who_has_lost_its_hold_ends_nothing_of_who_took_over(services: Services, org: int) -> None:
    records, (slow, quick, third) = KeyRecords(services.database), (uuid4() for _ in range(3))
    lost = await records.begin(org, "key-1", b"\0" * 16, slow, 0)
    assert await records.begin(org, "key-1", b"\1" * 16, third, 60) is None, "only the same request takes over"
    held = await records.begin(org, "key-1", b"\0" * 16, quick, 60)
    assert lost is not None
    assert held is not None
    assert held.operation == lost.operation
    await records.free(lost)
    await records.leave(lost)
    assert not await records.complete(Completion(lost, ANSWER))
    assert await records.begin(org, "key-1", b"\0" * 16, third, 60) is None
    assert await records.complete(Completion(held, ANSWER))


async def test_who_was_not_told_that_it_holds_a_key_begins_again(
    services: Services, org: int, once: CarryOutOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, lost = once._records, list[KeyHold | None]()
    begin = records.begin

    async def lose(*given: Any) -> KeyHold | None:
        hold = await begin(*given)
        if not lost:
            lost.append(hold)
            raise OutcomeUnknown("lost")
        return hold

    async def work(hold: KeyHold) -> KeyHold:
        return hold

    monkeypatch.setattr(records, "begin", lose)
    assert await once(KeyedRequest(org, uuid4().hex, "a" * 32), work, lambda _: ANSWER) == lost[0]


@pytest.mark.parametrize("why", ["it is held", "nobody can be asked"])
async def test_a_request_that_was_not_begun_leaves_no_mark_in_the_way_of_the_next(
    services: Services, org: int, once: CarryOutOnce, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    request, done = KeyedRequest(org, uuid4().hex, "a" * 32), list[KeyHold]()

    async def work(hold: KeyHold) -> None:
        done.append(hold)

    with monkeypatch.context() as patch:
        if why == "it is held":
            # By a process that Redis was lost for, and that dies.
            assert await once._records.begin(org, request.key, bytes.fromhex(request.fingerprint), uuid4(), 60)
            patch.setattr("service.operations.carry_out_once.PATIENCE_S", 0.05)
        else:
            patch.setattr(once._records, "begin", AsyncMock(side_effect=Unavailable("away")))
        with pytest.raises(IdempotencyInProgress if why == "it is held" else Unavailable):
            await once(request, work, lambda _: ANSWER)
    assert done == []
    assert await services.redis.get(services.shards.of(org).answer(org, request.key)) is None
    assert once._under_way == {}


async def test_what_somebody_who_died_has_marked_is_answered_by_postgres_in_the_end(
    services: Services, org: int, once: CarryOutOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = KeyedRequest(org, uuid4().hex, "a" * 32)
    hold = await once._records.begin(org, request.key, bytes.fromhex(request.fingerprint), uuid4(), 60)
    assert hold is not None
    assert await once._records.complete(Completion(hold, ANSWER))
    assert await once._marks.begin(org, Mark(request.key, request.fingerprint, uuid4().hex)) == (MarkOutcome.BEGUN, b"")
    monkeypatch.setattr("service.operations.carry_out_once.PATIENCE_S", 0.05)

    async def work(_: KeyHold) -> None:
        raise AssertionError("it was carried out before")

    assert await once(request, work, lambda _: ANSWER) == Replay(ANSWER)


async def test_a_booking_waits_for_a_key_that_is_held_and_not_for_one_that_was_left(
    services: Services, org: int
) -> None:
    records = KeyRecords(services.database)
    hold = await records.begin(org, "key-1", b"\0" * 16, uuid4(), 60)
    assert hold is not None
    request = wish((await free_starts(services, org))[30], idempotency_key="key-1", fingerprint="a" * 32)
    with pytest.raises(IdempotencyInProgress):
        await services.book(request, caller(org), RateSeen())
    await records.leave(hold)
    with pytest.raises(IdempotencyKeyReused):
        await services.book(request, caller(org), RateSeen())
    assert await services.grid.pending() == {}


@pytest.fixture
async def alone(services: Services) -> AsyncIterator[Callable[[], CarryOutOnce]]:
    """Makes the operation as one process has it whose Redis is away."""
    away = connect(f"redis://127.0.0.1:{free_port()}", timeout_s=0.1)
    breaker = GateBreaker()
    breaker.close(1)
    marks = KeyMarks(away, Scripts(away), services.shards, breaker, mark_ttl_ms=1000, answer_ttl_ms=1000)

    def make() -> CarryOutOnce:
        once = carry_out_once(services)
        once._marks = marks
        return once

    yield make
    await away.aclose()


async def test_without_redis_two_processes_carry_a_request_out_once(
    org: int, alone: Callable[[], CarryOutOnce]
) -> None:
    processes, done = [alone(), alone()], list[int]()
    request = KeyedRequest(org, uuid4().hex, "a" * 32)

    async def work(_: KeyHold) -> int:
        await asyncio.sleep(0)
        done.append(1)
        return len(done)

    answers = await asyncio.gather(*(processes[n % 2](request, work, lambda _: ANSWER) for n in range(20)))
    assert done == [1]
    assert sorted(map(repr, answers)) == sorted(["1", *[repr(Replay(ANSWER))] * 19])


async def test_who_cannot_ask_redis_waits_for_commits_and_where_that_fails_has_done_nothing(
    services: Services, org: int, once: CarryOutOnce, alone: Callable[[], CarryOutOnce], monkeypatch: pytest.MonkeyPatch
) -> None:
    wait, done = AsyncMock(side_effect=Unavailable("it took too long")), list[KeyHold]()
    monkeypatch.setattr(services.gate_store, "wait_for_commits", wait)
    without, key = alone(), uuid4().hex

    async def work(hold: KeyHold) -> None:
        done.append(hold)

    with pytest.raises(Unavailable):
        await without(KeyedRequest(org, key, "a" * 32), work, lambda _: ANSWER)
    assert (wait.await_count, len(done)) == (1, 0)
    # Redis tells which bookings are under way. The key was left free, for another request too.
    await once(KeyedRequest(org, key, "b" * 32), work, lambda _: ANSWER)
    assert (wait.await_count, len(done)) == (1, 1)


async def test_who_takes_over_without_redis_waits_for_commits_too_and_leaves_the_key_as_it_was(
    services: Services, org: int, alone: Callable[[], CarryOutOnce], monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = AsyncMock()
    monkeypatch.setattr(services.gate_store, "wait_for_commits", wait)
    without, key, problems = alone(), uuid4().hex, [OutcomeUnknown("lost")]

    async def ask(fingerprint: str) -> None:
        await without(KeyedRequest(org, key, fingerprint * 32), work, lambda _: ANSWER)

    async def work(_: KeyHold) -> None:
        if problems:
            raise problems.pop()

    with pytest.raises(OutcomeUnknown):
        await ask("a")
    wait.side_effect = Unavailable("it took too long")
    with pytest.raises(Unavailable):
        await ask("a")
    with pytest.raises(IdempotencyKeyReused):
        await ask("b")
    wait.side_effect = None
    await ask("a")
    assert wait.await_count == 3


async def test_an_unknown_outcome_goes_on_with_the_same_operation_and_a_refusal_with_another(
    org: int, once: CarryOutOnce
) -> None:
    request, operations = KeyedRequest(org, uuid4().hex, "a" * 32), list[Any]()
    problems: list[Exception] = [OutcomeUnknown("lost"), ZeroDivisionError(), SlotUnavailable("taken")]

    async def work(hold: KeyHold) -> None:
        operations.append(hold.operation)
        if problems:
            raise problems.pop(0)

    for kind in (OutcomeUnknown, ZeroDivisionError, SlotUnavailable):
        with pytest.raises(kind):
            await once(request, work, lambda _: ANSWER)
    assert await once(request, work, lambda _: ANSWER) is None
    first, second, third, fourth = operations
    assert first == second == third
    assert fourth != first


async def test_what_is_answered_without_an_answer_to_keep_leaves_the_key_free(org: int, once: CarryOutOnce) -> None:
    key, done = uuid4().hex, list[Any]()

    async def work(hold: KeyHold) -> int:
        done.append(hold.operation)
        return len(done)

    for number, fingerprint in enumerate("ab", 1):
        assert await once(KeyedRequest(org, key, fingerprint * 32), work, lambda _: None) == number
    assert await once(KeyedRequest(org, key, "c" * 32), work, lambda _: ANSWER) == 3
    assert len(set(done)) == 3


@pytest.mark.parametrize("attempts", [4, 1], ids=["for a moment", "all along"])
@pytest.mark.parametrize("problem", [Unavailable("away"), OutcomeUnknown("lost")])
async def test_an_answer_that_cannot_be_kept_is_not_given(
    org: int, once: CarryOutOnce, monkeypatch: pytest.MonkeyPatch, attempts: int, problem: Exception
) -> None:
    """Unless it is known that it was kept a repeat could be told something else."""
    request, complete = KeyedRequest(org, uuid4().hex, "a" * 32), once._records.complete
    tried, operations = [0], set[UUID]()

    async def not_yet(completion: Completion) -> bool:
        tried[0] += 1
        if tried[0] == 1:
            raise problem
        return await complete(completion)

    async def work(hold: KeyHold) -> int:
        operations.add(hold.operation)
        return tried[0]

    monkeypatch.setattr("service.operations.carry_out_once._ATTEMPTS", attempts)
    monkeypatch.setattr(once._records, "complete", not_yet)
    if attempts > 1:
        assert await once(request, work, lambda _: ANSWER) == 0
    else:
        with pytest.raises(OutcomeUnknown):
            await once(request, work, lambda _: ANSWER)
        # Its hold was left: the same request goes on at once, by the same operation.
        assert await once(request, work, lambda _: ANSWER) == 1
    assert await once(request, work, lambda _: ANSWER) == Replay(ANSWER)
    assert (tried[0], len(operations)) == (2, 1)


async def test_who_was_taken_over_while_it_worked_gives_the_answer_that_is_kept(org: int, once: CarryOutOnce) -> None:
    request = KeyedRequest(org, uuid4().hex, "a" * 32)
    theirs = FinalAnswer(200, {"ETag": '"v2"'}, b"[]")

    async def work(hold: KeyHold) -> None:
        await once._records.leave(hold)
        other = await once._records.begin(org, request.key, hold.fingerprint, uuid4(), 60)
        assert other is not None
        assert await once._records.complete(Completion(other, theirs))

    for _ in range(2):
        assert await once(request, work, lambda _: ANSWER) == Replay(theirs)


async def test_a_mark_is_freed_when_the_key_is_and_not_before(
    org: int, once: CarryOutOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who met a free mark and a held key would wait for nobody."""
    request, free, held = KeyedRequest(org, uuid4().hex, "a" * 32), once._records.free, list[MarkOutcome]()

    async def look(hold: KeyHold) -> None:
        held.append((await once._marks.begin(org, Mark(request.key, request.fingerprint, uuid4().hex)))[0])
        await free(hold)

    async def work(_: KeyHold) -> None:
        raise SlotUnavailable("taken")

    monkeypatch.setattr(once._records, "free", look)
    with pytest.raises(SlotUnavailable):
        await once(request, work, lambda _: ANSWER)
    assert held == [MarkOutcome.IN_PROGRESS]
    begun = await once._marks.begin(org, Mark(request.key, request.fingerprint, uuid4().hex))
    assert begun[0] is MarkOutcome.BEGUN


async def test_redis_forgets_a_mark_and_in_the_end_the_answer_too(
    services: Services, org: int, once: CarryOutOnce
) -> None:
    marks, key = once._marks, uuid4().hex
    name = services.shards.of(org).answer(org, key)
    await marks.begin(org, Mark(key, "a" * 32, uuid4().hex))
    assert marks._mark_ttl_ms // 2 < await services.redis.pttl(name) <= marks._mark_ttl_ms
    await marks.answer(org, key, "a" * 32, b"")
    assert marks._mark_ttl_ms < await services.redis.pttl(name) <= marks._answer_ttl_ms


async def test_a_secret_is_shown_once_and_kept_nowhere(services: Services, api: Client, sql: Any) -> None:
    secret, key = f"whsec_{uuid4().hex}", uuid4().hex

    async def handler(call: Call) -> Response:
        body = orjson.dumps({"endpoint_id": str(call.operation), "secret": secret, "url": "https://example.com"})
        return Response(body, 201, {"Location": "/x"}, "application/json")

    route = Route(
        method="POST",
        path="/api/secrets",
        operation_id="make_secret",
        summary="Make a secret",
        handler=handler,
        scope="admin",
        tag="tests",
        status=201,
        idempotency="optional",
    )
    async with served(services, route) as client:
        first = await client("POST", "/api/secrets", headers={"Idempotency-Key": key})
        answers = [first] + [await client("POST", "/api/secrets", headers={"Idempotency-Key": key}) for _ in range(2)]
        await services.redis.flushall()
        answers.append(await client("POST", "/api/secrets", headers={"Idempotency-Key": key}))
    assert first.json["secret"] == secret
    rest = {name: value for name, value in first.json.items() if name != "secret"}
    assert [answer.json for answer in answers[1:]] == [rest] * 3
    assert {(answer.status, answer.headers["Location"]) for answer in answers} == {(201, "/x")}
    kept = await sql.fetchval("SELECT body FROM idempotency_records WHERE key = $1", key)
    assert orjson.loads(kept) == rest
    for name in [name async for name in services.redis.scan_iter("{s0}:answer:*")]:
        found: Any = await services.redis.get(name)
        assert secret.encode() not in found
