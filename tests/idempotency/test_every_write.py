"""100 duplicates of each kind of write: one effect, one answer, also without Redis, after a restart and a crash."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import AsyncMock
from uuid import uuid4

import orjson
import pytest

from service.app import Services, open_services
from service.db.time_off import TimeOffStore
from service.errors import Unavailable
from service.operations.carry_out_once import CarryOutOnce
from tests.api.client import Answer, Client, all_at_once, assert_problem
from tests.api_people.conftest import served
from tests.idempotency.writes import EXAMPLES, OWN_IDENTITY, Write, counted, difference, kinds, time_passes

KEPT = ("Location", "ETag", "Content-Type")


class Died(Unavailable):
    """The process ended here; a kind of error that is not logged at length."""

    def __init__(self) -> None:
        super().__init__("it died")


def same(answer: Answer, first: Answer) -> bool:
    """Status, bytes but for a secret, and the headers that belong to the answer."""
    headers = all(answer.headers.get(name) == first.headers.get(name) for name in KEPT)
    return headers and (answer.status, _plain(answer)) == (first.status, _plain(first))


def _plain(answer: Answer) -> bytes:
    if b'"secret"' not in answer.raw:
        return answer.raw
    assert "Idempotent-Replayed" not in answer.headers, "a secret is shown once"
    return orjson.dumps({name: value for name, value in answer.json.items() if name != "secret"})


async def test_every_write_takes_a_key_and_has_its_example_here(api: Client) -> None:
    there = await kinds(api)
    takes = {
        name
        for name, operation in there.items()
        if any(one["name"] == "Idempotency-Key" and not one["required"] for one in operation["parameters"])
    }
    assert there.keys() - takes == OWN_IDENTITY, "give its Route idempotency='optional'"
    assert takes == EXAMPLES.keys(), "give it an example in tests/idempotency/writes.py"
    for name in takes:
        assert {"409", "422"} <= there[name]["responses"].keys(), name


async def test_100_duplicates_have_one_effect_and_one_answer_also_after_redis_and_processes_are_gone(
    services: Services, api: Client, second: Client, sql: Any
) -> None:
    given: list[tuple[str, Write, str, Answer]] = []
    for name, example in EXAMPLES.items():
        write, key = await example.ready(api, 0, sql), uuid4().hex
        before = await counted(sql)
        answers = await all_at_once(write((api, second)[n % 2], key) for n in range(100))
        assert difference(before, await counted(sql)) == example.adds, name
        assert 200 <= answers[0].status < 300, (name, answers[0].raw)
        assert all(same(answer, answers[0]) for answer in answers), name
        assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1, name
        given.append((name, write, key, answers[0]))

    await services.redis.flushall()
    before = await counted(sql)
    async with open_services(services.settings) as later, served(later) as third:
        for name, write, key, first in given:
            for answer in await all_at_once(write(third, key) for _ in range(3)):
                assert same(answer, first), (name, answer.raw, first.raw)
                assert answer.headers["Idempotent-Replayed"] == "true", name
    assert difference(before, await counted(sql)) == {}


async def test_a_process_that_dies_after_the_effect_leaves_one_effect_however_often_it_is_asked_again(
    services: Services, api: Client, second: Client, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies before it has said or kept anything of the answer: what Postgres has must be enough."""
    for number, (name, example) in enumerate(EXAMPLES.items()):
        if name == "book_appointment":
            continue  # tests/api/test_crashes.py kills whole processes where it books
        write, key = await example.ready(api, number, sql), uuid4().hex
        before = await counted(sql)
        with monkeypatch.context() as patch:
            patch.setattr(CarryOutOnce, "_carry_out", _dies_after)
            assert (await write(api, key)).status == 503
        assert difference(before, await counted(sql)) == example.adds, name
        await time_passes(sql, services.redis)
        answers = await all_at_once(write((api, second)[n % 2], key) for n in range(4))
        assert 200 <= answers[0].status < 300, (name, answers[0].raw)
        assert all(same(answer, answers[0]) for answer in answers), name
        assert difference(before, await counted(sql)) == example.adds, name


async def _dies_after(
    self: CarryOutOnce, request: object, hold: object, work: Callable[[Any], Awaitable[Any]], answer_of: object
) -> None:
    await work(hold)
    raise Died


async def test_what_went_on_with_an_effect_and_could_not_leaves_it_to_the_same_request_again(
    services: Services, api: Client, second: Client, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The period is there; whether it was the request that was told 503 who set it makes no difference."""
    example, key = EXAMPLES["set_time_off"], uuid4().hex
    write, other, before = await example.ready(api, 0, sql), await example.ready(api, 1, sql), await counted(sql)
    with monkeypatch.context() as patch:
        patch.setattr(CarryOutOnce, "_carry_out", _dies_after)
        assert (await write(api, key)).status == 503
    await time_passes(sql, services.redis)
    with monkeypatch.context() as patch:
        patch.setattr(TimeOffStore, "add", AsyncMock(side_effect=Unavailable("away for a moment")))
        assert_problem(await write(second, key), 503, "SERVICE_UNAVAILABLE")
    assert_problem(await other(second, key), 422, "IDEMPOTENCY_KEY_REUSED")
    assert (await write(api, key)).status == 201
    assert difference(before, await counted(sql)) == example.adds


async def test_a_process_that_dies_before_the_effect_leaves_the_key_to_the_same_request_only(
    services: Services, api: Client, second: Client, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("create_coach", "put_appointment", "set_time_off", "create_contact"):
        example = EXAMPLES[name]
        write, other, key = await example.ready(api, 1, sql), await example.ready(api, 2, sql), uuid4().hex
        with monkeypatch.context() as patch:
            patch.setattr(CarryOutOnce, "_carry_out", _dies_before)
            assert (await write(api, key)).status == 503
        await time_passes(sql, services.redis)
        before = await counted(sql)
        assert_problem(await other(second, key), 422, "IDEMPOTENCY_KEY_REUSED")
        answer = await write(second, key)
        assert 200 <= answer.status < 300, (name, answer.raw)
        assert "Idempotent-Replayed" not in answer.headers, name
        assert difference(before, await counted(sql)) == example.adds, name


async def _dies_before(*_: object) -> None:
    raise Died
