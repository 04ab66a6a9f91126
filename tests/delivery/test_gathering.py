"""What nobody waits for is done together: one call for what comes in a moment, at once when it is enough."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from service.batching import Batcher
from service.delivery.consume import MOST_READ, consume
from service.delivery.stream import Entry, Stream
from tests.servers import eventually

NEVER_S = 3600.0


class _Calls:
    """Remembers the batches it was called with."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.held: asyncio.Event | None = None

    async def __call__(self, items: list[int]) -> Sequence[int]:
        self.batches.append(items)
        if self.held is not None:
            await self.held.wait()
        return items


@pytest.fixture
async def forward(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the loop's clock, which stands still from now on however long the machine takes, by so many seconds."""
    loop = asyncio.get_running_loop()
    now = loop.time()

    def move(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(loop, "time", lambda: now)
    return move


async def test_what_comes_one_after_another_is_one_call(forward: Callable[[float], None]) -> None:
    calls = _Calls()
    batcher: Batcher[int, int] = Batcher(calls, most=10, gathering_s=0.05, enough=5)
    answers: list[asyncio.Future[int]] = []
    for number in range(3):
        answers.append(batcher.submit(number))
        await asyncio.sleep(0)  # a turn of the loop, which is all that a batch waits for elsewhere
    assert calls.batches == []
    forward(0.05)
    assert await asyncio.gather(*answers) == [0, 1, 2]
    assert calls.batches == [[0, 1, 2]]


async def test_enough_is_not_kept_waiting() -> None:
    calls = _Calls()
    batcher: Batcher[int, int] = Batcher(calls, most=10, gathering_s=NEVER_S, enough=3)
    first = [batcher.submit(number) for number in range(2)]
    await asyncio.sleep(0.01)
    assert calls.batches == []
    assert await asyncio.gather(*first, batcher.submit(2)) == [0, 1, 2]
    assert calls.batches == [[0, 1, 2]]


async def test_the_last_for_now_is_not_kept_waiting_and_takes_those_before_it_along() -> None:
    calls = _Calls()
    more = True
    batcher: Batcher[int, int] = Batcher(calls, most=10, gathering_s=NEVER_S, enough=10, more_to_come=lambda: more)
    first = [batcher.submit(number) for number in range(2)]
    await asyncio.sleep(0.01)
    assert calls.batches == []
    more = False
    assert await asyncio.gather(*first, batcher.submit(2), batcher.submit(3)) == [0, 1, 2, 3]
    assert calls.batches == [[0, 1, 2, 3]], "what comes in the same turn of the loop joins it"


async def test_the_last_that_came_during_a_call_follows_it_at_once() -> None:
    calls = _Calls()
    calls.held = asyncio.Event()
    batcher: Batcher[int, int] = Batcher(
        calls, most=10, gathering_s=NEVER_S, enough=10, more_to_come=lambda: not calls.batches
    )
    more = [batcher.submit(0)]
    await asyncio.sleep(0.01)
    assert calls.batches == []
    calls.batches.append([])
    more.append(batcher.submit(1))
    await asyncio.sleep(0.01)
    more.append(batcher.submit(2))
    calls.held.set()
    assert await asyncio.gather(*more) == [0, 1, 2]
    assert calls.batches == [[], [0, 1], [2]]


async def test_who_is_hurried_waits_no_longer_and_is_told_of_once() -> None:
    calls = _Calls()
    told: list[int] = []
    batcher: Batcher[int, int] = Batcher(
        calls, most=10, gathering_s=NEVER_S, enough=10, done=lambda: told.append(len(calls.batches))
    )
    batcher.hurry()
    first = [batcher.submit(number) for number in (0, 1)]
    batcher.hurry()
    assert (await asyncio.gather(*first), batcher.busy) == ([0, 1], False)
    assert (calls.batches, told) == ([[0, 1]], [1])


async def test_enough_that_came_during_a_call_follows_it_at_once() -> None:
    calls = _Calls()
    calls.held = asyncio.Event()
    batcher: Batcher[int, int] = Batcher(calls, most=10, gathering_s=NEVER_S, enough=2)
    first = [batcher.submit(number) for number in (0, 1)]
    await asyncio.sleep(0.01)
    later = [batcher.submit(number) for number in (2, 3, 4)]
    calls.held.set()
    assert await asyncio.gather(*first, *later) == [0, 1, 2, 3, 4]
    assert calls.batches == [[0, 1], [2, 3, 4]]


async def test_too_little_that_came_during_a_call_is_gathered_again(forward: Callable[[float], None]) -> None:
    calls = _Calls()
    calls.held = asyncio.Event()
    batcher: Batcher[int, int] = Batcher(calls, most=10, gathering_s=0.02, enough=2)
    first = [batcher.submit(number) for number in (0, 1)]
    await eventually(lambda: calls.batches == [[0, 1]], every_s=0, what="the call")
    left = batcher.submit(2)
    calls.held.set()
    await asyncio.gather(*first)
    await asyncio.sleep(0)
    assert calls.batches == [[0, 1]]
    forward(0.02)
    assert await left == 2
    assert calls.batches == [[0, 1], [2]]


async def test_no_call_has_more_than_the_most_and_no_more_are_made_at_a_time_than_there_are_lanes() -> None:
    calls = _Calls()
    calls.held = asyncio.Event()
    batcher: Batcher[int, int] = Batcher(calls, most=2, lanes=2)
    answers = [batcher.submit(number) for number in range(7)]
    await asyncio.sleep(0.01)
    assert (calls.batches, len(batcher)) == ([[0, 1], [2, 3]], 3)
    batcher.hurry()
    await asyncio.sleep(0)
    assert len(calls.batches) == 2
    calls.held.set()
    assert await asyncio.gather(*answers) == list(range(7))
    assert calls.batches == [[0, 1], [2, 3], [4, 5], [6]]


async def test_a_call_that_fails_or_forgets_somebody_is_told_to_its_batch_and_the_next_goes_on() -> None:
    results: list[Sequence[int]] = [[1], [3]]

    async def call(items: list[int]) -> Sequence[int]:
        if items == [0]:
            raise ZeroDivisionError
        return results.pop(0)

    batcher: Batcher[int, int] = Batcher(call, most=10)
    with pytest.raises(ZeroDivisionError):
        await batcher.submit(0)
    told = await asyncio.gather(batcher.submit(1), batcher.submit(2), return_exceptions=True)
    assert (told[0], type(told[1])) == (1, ValueError)
    assert await batcher.submit(3) == 3


async def test_who_goes_away_takes_nobody_along() -> None:
    calls = _Calls()
    calls.held = asyncio.Event()
    batcher: Batcher[int, int] = Batcher(calls, most=10)
    gone, left = batcher.submit(0), batcher.submit(1)
    await asyncio.sleep(0)
    gone.cancel()
    calls.held.set()
    assert await left == 1
    assert await batcher.submit(2) == 2


class _Pages:
    """A stream that has pages, and what takes them over."""

    def __init__(self, *sizes: int) -> None:
        self.left = list(sizes)
        self.taken: list[int] = []

    async def read(self, count: int, block_ms: int) -> list[Entry]:
        if not self.left:
            await asyncio.sleep(block_ms / 1000)
            return []
        return [Entry(f"{number}-0", {}) for number in range(min(count, self.left.pop(0)))]

    async def room(self) -> int:
        return MOST_READ

    async def take(self, stream: Stream, entries: list[Entry]) -> None:
        self.taken.append(len(entries))

    async def drain(self, timeout_s: float) -> int:
        return 0


@pytest.mark.parametrize(
    ("pages", "taken"),
    [
        pytest.param((MOST_READ, MOST_READ, 1, 1), [MOST_READ, MOST_READ, 1], id="full ones follow each other"),
        pytest.param((1, 1), [1], id="after a part of one more may come"),
    ],
)
async def test_a_page_that_is_not_full_is_followed_by_a_moment(pages: tuple[int, ...], taken: list[int]) -> None:
    work = _Pages(*pages)
    reading = asyncio.ensure_future(consume(cast("Any", work), work, asyncio.Event(), gathering_s=NEVER_S))

    async def read_so_far() -> bool:
        return work.taken == taken

    await eventually(read_so_far, what="the pages that are read together")
    await asyncio.sleep(0.05)
    assert work.taken == taken
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
