"""One idempotency key, one effect, one answer: at the same time, later, and after Redis lost everything."""

from __future__ import annotations

import uuid
from collections import Counter

import pytest

from tests.api.client import Client, all_at_once, assert_problem, booking
from tests.api.stack import Stack
from tests.servers import eventually


def fresh_key() -> str:
    return uuid.uuid4().hex


async def made_with(stack: Stack, key: str) -> int:
    return await stack.value("SELECT count(*) FROM appointments WHERE idempotency_key = $1", key)


async def test_50_at_once_make_one_appointment_and_get_one_answer(api: Client, stack: Stack) -> None:
    key, wish = fresh_key(), booking((await api.starts())[20])

    answers = await all_at_once(api.book(wish, key=key) for _ in range(50))

    assert Counter(answer.status for answer in answers) == {201: 50}
    assert len({answer.raw for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert {answer.headers["Location"] for answer in answers} == {
        f"/api/appointments/{answers[0].json['appointment_id']}"
    }
    assert {answer.headers["ETag"] for answer in answers} == {'"v1"'}
    assert await made_with(stack, key) == 1


async def test_a_key_stands_for_one_request(api: Client) -> None:
    key, starts = fresh_key(), await api.starts()
    assert (await api.book(booking(starts[21]), key=key)).status == 201
    for other in (booking(starts[21], person=7), booking(starts[25]), booking(starts[21], notes="more")):
        assert_problem(await api.book(other, key=key), 422, "IDEMPOTENCY_KEY_REUSED")


async def test_two_requests_race_for_one_key_and_one_of_them_has_it(api: Client, stack: Stack) -> None:
    key, starts = fresh_key(), await api.starts()
    wishes = [booking(starts[30 + number % 2], person=number % 2) for number in range(20)]

    answers = await all_at_once(api.book(wish, key=key) for wish in wishes)

    assert Counter(answer.status for answer in answers) == {201: 10, 422: 10}
    assert len({answer.raw for answer in answers if answer.status == 201}) == 1
    assert await made_with(stack, key) == 1


async def test_the_order_of_fields_and_the_white_space_are_no_other_request(api: Client) -> None:
    key, wish = fresh_key(), booking((await api.starts())[22])
    first = await api.book(wish, key=key)
    spaced = (
        b"{ " + b" , ".join(f'"{name}" : "{value}"'.encode() for name, value in reversed(list(wish.items()))) + b" }"
    )
    again = await api("POST", "/api/appointments", raw=spaced, headers={"Idempotency-Key": key})
    assert (again.status, again.raw) == (201, first.raw)


@pytest.mark.parametrize("name", ["Idempotency-Key", "X-Idempotency-Key"])
async def test_a_key_is_the_same_quoted_or_bare_under_either_name(api: Client, name: str) -> None:
    key, wish = fresh_key(), booking((await api.starts())[23])
    first = await api.book(wish, key=key)
    for text in (key, f'"{key}"', f"  {key} "):
        again = await api("POST", "/api/appointments", wish, headers={name: text})
        assert (again.status, again.raw) == (201, first.raw)
        assert again.headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("key", ["", '""', "with space", "x" * 256, "tab\there", "umlaut-ü", '"'])
async def test_a_key_of_other_characters_is_refused(api: Client, key: str) -> None:
    wish = booking((await api.starts())[24])
    answer = await api("POST", "/api/appointments", wish, headers={"Idempotency-Key": key})
    if key == '"':  # one visible character, and no pair of quotes
        assert answer.status == 201
        return
    problem = assert_problem(answer, 400, "VALIDATION_ERROR")
    assert [field["field"] for field in problem["details"]["fields"]] == ["Idempotency-Key"]


async def test_a_refused_request_leaves_its_key_free_for_another(api: Client) -> None:
    key, starts = fresh_key(), await api.starts("cal-3", coaches=2)
    for person in range(2):
        assert (await api.book(booking(starts[0], "cal-3", person))).status == 201
    assert_problem(await api.book(booking(starts[0], "cal-3", 2), key=key), 409, "SLOT_UNAVAILABLE")
    assert_problem(await api.book(booking(starts[0], "cal-99", 2), key=key), 404, "NOT_FOUND")
    other = await api.book(booking(starts[4], "cal-3", 3), key=key)
    assert other.status == 201
    assert "Idempotent-Replayed" not in other.headers


async def test_the_answer_outlives_redis(api: Client, stack: Stack) -> None:
    key, starts = fresh_key(), await api.starts()
    first = await api.book(booking(starts[26]), key=key)
    assert first.status == 201
    async with stack.redis() as redis:
        await redis.flushall()
    answers = await all_at_once(api.book(booking(starts[26]), key=key) for _ in range(10))
    assert {(answer.status, answer.raw) for answer in answers} == {(201, first.raw)}
    assert all(answer.headers["Idempotent-Replayed"] == "true" for answer in answers)
    assert_problem(await api.book(booking(starts[27]), key=key), 422, "IDEMPOTENCY_KEY_REUSED")
    assert await made_with(stack, key) == 1
    # The time the refused request claimed on the way is free again, and nothing is left of it.
    await eventually(lambda: nothing_pending(stack), what="no claim being pending")
    assert starts[27] in await api.starts()


@pytest.mark.parametrize("lost", [False, True], ids=["redis-knows", "redis-lost"])
async def test_a_replay_is_answered_whatever_the_rules_say_by_now(api: Client, stack: Stack, lost: bool) -> None:
    """The notice of the calendar grows past the start: a new request is refused, the old one answered as before."""
    key, wish = fresh_key(), booking((await api.starts("cal-2"))[8], "cal-2")
    first = await api.book(wish, key=key)
    assert first.status == 201
    notice = "UPDATE calendars SET min_notice_minutes = $1 WHERE calendar_id = 'cal-2'"
    seen = "UPDATE organizations SET roster_version = roster_version + 1 WHERE name = 'demo'"
    try:
        await stack.rows(notice, 60 * 24 * 30)
        await stack.rows(seen)
        async with stack.redis() as redis:
            # Both API processes must see the new roster: its publication is what tells them.
            await redis.delete(*[name async for name in redis.scan_iter("{s0}:roster:*")])
            if lost:
                await redis.flushall()
        await eventually(lambda: too_soon(api, wish), what="the new notice")
        for _ in range(8):
            again = await api.book(wish, key=key)
            assert (again.status, again.raw, again.headers["Idempotent-Replayed"]) == (201, first.raw, "true")
    finally:
        await stack.rows(notice, 120)
        await stack.rows(seen)
        async with stack.redis() as redis:
            await redis.delete(*[name async for name in redis.scan_iter("{s0}:roster:*")])
        await eventually(lambda: offered_again(api), what="the old notice")


async def nothing_pending(stack: Stack) -> bool:
    return await stack.pending() == 0


async def too_soon(api: Client, wish: dict[str, str]) -> bool:
    answers = [await api.book({**wish, "contact_email": "new@example.com"}) for _ in range(8)]
    return {answer.status for answer in answers} == {400}


async def offered_again(api: Client) -> bool:
    return all([await api.starts("cal-2") for _ in range(4)])
