"""What may happen: each step as data, how it is done in the real service, and what the model says will come of it.

A step is foreseen as the possible outcomes, each with what is answered and the model afterwards. There is more than
one only where two changes are under way at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias
from uuid import UUID

import orjson

from service.domain.appointment import Appointment, Status
from service.errors import BookingError
from service.operations.local_rates import RateSeen
from service.operations.plan_move import MoveWish
from tests.model.conftest import Process, World
from tests.model.model import Model
from tests.model.values import Wish
from tests.wishes import caller, wish

# What was answered (of a refusal: its class), and the model afterwards.
Outcome: TypeAlias = tuple[Any, Model]
BY: dict[str, Any] = {"actor": "tests", "correlation_id": "corr-1"}


class Step(Protocol):
    """Something that happens."""

    async def do(self, world: World, process: Process) -> Any:
        """Do it, and what was answered. Raises what the service raises."""
        ...

    def foresee(self, model: Model) -> list[Outcome]:
        """What may come of it; the model given may be changed. Raises what the service must raise."""
        ...


async def done(step: Step, world: World, process: Process) -> Any:
    """What was answered, a refusal too."""
    try:
        return await step.do(world, process)
    except BookingError as refusal:
        return type(refusal)


def foreseen(step: Step, model: Model) -> list[Outcome]:
    """Everything that may come of a step, a refusal too."""
    try:
        return step.foresee(model.copy())
    except BookingError as refusal:
        return [(type(refusal), model)]


@dataclass(frozen=True)
class Book:
    """Book in a calendar; the appointment gets the number."""

    number: int
    calendar: str
    wish: Wish

    async def do(self, world: World, process: Process) -> Any:
        more = {"end_time": self.wish.end, "coach_id": self.wish.coach}
        assert self.wish.start is not None
        request = wish(self.wish.start, self.calendar, self.number, **more)
        booked = await process.services.book(request, caller(world.org), RateSeen())
        world.ids[self.number] = UUID(orjson.loads(booked.body)["appointment_id"])
        return orjson.loads(booked.body)["coach_id"]

    def foresee(self, model: Model) -> list[Outcome]:
        model.book(self.number, self.calendar, self.wish)
        return [(model.booked[self.number].place.coach, model)]


@dataclass(frozen=True)
class Move:
    """Move an appointment, or give it to somebody else."""

    number: int
    wish: Wish

    async def do(self, world: World, process: Process) -> Any:
        return _where(await _moved(world, process, self.number, self.wish))

    def foresee(self, model: Model) -> list[Outcome]:
        model.move(self.number, self.wish)
        return [(where_in(model, self.number), model)]


@dataclass(frozen=True)
class MoveAtOnce:
    """Two moves at once: two appointments that swap their times, mostly. One goes through another process."""

    moves: tuple[Move, Move]

    async def do(self, world: World, process: Process) -> Any:
        results = await asyncio.gather(
            *(done(move, world, world.processes[n]) for n, move in enumerate(self.moves)), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return list(results)

    def foresee(self, model: Model) -> list[Outcome]:
        wishes = {move.number: move.wish for move in self.moves}
        return [([said[number] for number in wishes], after) for said, after in interleaved(model, wishes)]


def interleaved(
    model: Model, wishes: Mapping[int, Wish], said: Mapping[int, Any] | None = None
) -> Iterator[tuple[Mapping[int, Any], Model]]:
    """Everything that may come of moves at once: each is claimed at some moment, and frees what it left later."""
    said = said or {}
    if len(said) == len(wishes) and not model.leaving:
        yield said, model
    for number in model.leaving:
        after = model.copy()
        after.free_left(number)
        yield from interleaved(after, wishes, said)
    for number in wishes.keys() - said.keys():
        after = model.copy()
        try:
            after.claim_move(number, wishes[number])
            answer: Any = where_in(after, number)
        except BookingError as refusal:
            answer = type(refusal)
        yield from interleaved(after, wishes, {**said, number: answer})


@dataclass(frozen=True)
class End:
    """Cancel an appointment, or note how it went."""

    number: int
    status: Status

    async def do(self, world: World, process: Process) -> Any:
        change, one = process.services.change, world.ids[self.number]
        if self.status is Status.CANCELLED:
            return (await change.cancel(world.org, one, reason=None, **BY)).status
        return (await change.finish(world.org, one, self.status, **BY)).status

    def foresee(self, model: Model) -> list[Outcome]:
        model.end(self.number, self.status.value)
        return [(self.status, model)]


@dataclass(frozen=True)
class Confirm:
    """Confirm an appointment."""

    number: int

    async def do(self, world: World, process: Process) -> Any:
        return (await process.services.change.confirm(world.org, world.ids[self.number], **BY)).confirmed_at is not None

    def foresee(self, model: Model) -> list[Outcome]:
        model.confirm(self.number)
        return [(True, model)]


async def _moved(world: World, process: Process, number: int, wish: Wish) -> Appointment:
    move = MoveWish(start_time=wish.start, end_time=wish.end, coach_id=wish.coach, others_only=wish.others_only)
    return await process.services.move(world.org, world.ids[number], move, **BY)


def _where(appointment: Appointment) -> Any:
    return appointment.coach_id, appointment.start_time, appointment.end_time


def where_in(model: Model, number: int) -> Any:
    place = model.booked[number].place
    return place.coach, *place.time
