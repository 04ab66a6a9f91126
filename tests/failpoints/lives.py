"""What is asked for so that a step is come by, and what must have come of it in the end, once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from service.failpoints import Step
from tests.api.client import Answer
from tests.failpoints.world import Ask, World

CREATED = "appointment.created"


@dataclass(frozen=True, slots=True)
class Errand:
    """A request, and what must be true when it was answered.

    `event_id` is that of the event it makes, where its appointment was there before; `wanted` is the time that it
    takes, `left` the one that it frees.
    """

    ask: Ask
    check: Callable[[Answer], Awaitable[None]]
    event_id: str | None = None
    wanted: dict[str, str] | None = None
    left: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Life:
    """The steps something goes through, and how to send it there."""

    steps: tuple[Step, ...]
    begin: Callable[[World], Awaitable[Errand]]


def wish_for(slot: dict[str, str]) -> dict[str, Any]:
    return {
        "calendar_id": "cal-1",
        "coach_id": slot["coach_id"],
        "start_time": slot["start_time"],
        "contact_email": f"{uuid4().hex}@example.com",
    }


async def book_some(world: World, count: int) -> None:
    """Make the appointments that the errands are about, and let them come to rest."""
    slots = [world.slots.pop() for _ in range(count)]
    asks = [Ask("POST", "/api/appointments", wish_for(slot)) for slot in slots]
    answers = await asyncio.gather(*(world.insist(ask) for ask in asks))
    assert {answer.status for answer in answers} == {201}
    world.appointments = [(slot, answer.json) for slot, answer in zip(slots, answers, strict=True)]
    await world.at_rest()


async def booking(world: World) -> Errand:
    """Somebody books one coach at one time."""
    slot = world.slots.pop()
    ask = Ask("POST", "/api/appointments", wish := wish_for(slot))

    async def check(answer: Answer) -> None:
        assert answer.status == 201, answer.raw
        assert answer.json["coach_id"] == slot["coach_id"]
        rows = await world.live(wish["contact_email"])
        assert [(row["id"], row["key"]) for row in rows] == [(answer.json["appointment_id"], ask.key)]
        assert await world.events_of(answer.json["appointment_id"]) == [CREATED]
        assert not await world.is_offered(slot)

    return Errand(ask, check, wanted=slot)


async def cancellation(world: World) -> Errand:
    """An appointment is cancelled."""
    slot, appointment = world.appointments.pop()
    path = f"/api/appointments/{appointment['appointment_id']}/cancel"

    async def check(answer: Answer) -> None:
        assert (answer.status, answer.json["status"]) == (200, "cancelled"), answer.raw
        assert await world.events_of(appointment["appointment_id"]) == [CREATED, "appointment.cancelled"]
        assert not await world.live(appointment["contact_email"])
        assert await world.is_offered(slot)

    ask = Ask("POST", path, {"reason": "no longer needed"})
    return Errand(ask, check, f"{appointment['appointment_id']}.2", left=slot)


async def confirmation(world: World) -> Errand:
    """An appointment is confirmed: only the CRM hears of it, and no time is pending."""
    slot, appointment = world.appointments.pop()
    path = f"/api/appointments/{appointment['appointment_id']}/confirm"

    async def check(answer: Answer) -> None:
        assert (answer.status, answer.json["confirmed_at"] is None) == (200, False), answer.raw
        assert await world.events_of(appointment["appointment_id"]) == [CREATED, "appointment.confirmed"]
        assert not await world.is_offered(slot)

    return Errand(Ask("POST", path, None), check, f"{appointment['appointment_id']}.2")


async def move(world: World) -> Errand:
    """An appointment is moved to another time of its coach."""
    slot, appointment = world.appointments.pop()
    number = max(n for n, other in enumerate(world.slots) if other["coach_id"] == slot["coach_id"])
    goal = world.slots.pop(number)
    path = f"/api/appointments/{appointment['appointment_id']}"

    async def check(answer: Answer) -> None:
        assert (answer.status, answer.json["start_time"]) == (200, goal["start_time"]), answer.raw
        assert answer.json["coach_id"] == slot["coach_id"]
        assert await world.events_of(appointment["appointment_id"]) == [CREATED, "appointment.rescheduled"]
        assert len(await world.live(appointment["contact_email"])) == 1
        assert await world.is_offered(slot)
        assert not await world.is_offered(goal)

    ask = Ask("PATCH", path, {"start_time": goal["start_time"], "coach_id": goal["coach_id"]})
    return Errand(ask, check, f"{appointment['appointment_id']}.2", wanted=goal, left=slot)


async def calendar_event(world: World) -> Errand:
    """The external calendar cancels an appointment."""
    slot, appointment = world.appointments.pop()
    body = {"event_type": "appointment.cancelled", "appointment_id": appointment["appointment_id"]}
    ask = Ask("POST", "/api/webhooks/calendar", body)

    async def check(answer: Answer) -> None:
        assert (answer.status, answer.json) == (200, {"received": True, "event_id": ask.key}), answer.raw

        async def processed() -> bool:
            rows = await world.rows(
                "SELECT state FROM webhook_events WHERE org_id = $1 AND event_id = $2", world.org, ask.key
            )
            return [row["state"] for row in rows] == ["processed"]

        await world.until(processed, what="the event being processed")
        assert await world.events_of(appointment["appointment_id"]) == [CREATED, "appointment.cancelled"]
        await world.at_rest()
        assert await world.is_offered(slot)

    return Errand(ask, check, f"{appointment['appointment_id']}.2")


def _steps(prefix: str) -> tuple[Step, ...]:
    return tuple(step for step in Step if step.startswith(prefix))


LIVES: dict[str, Life] = {
    "booking": Life(_steps("booking"), booking),
    "cancellation": Life(_steps("change"), cancellation),
    "confirmation": Life((Step.CHANGE_COMMITTED, Step.CHANGE_ANNOUNCED), confirmation),
    "move": Life(_steps("move"), move),
    "delivery": Life(_steps("delivery"), confirmation),
    "calendar event": Life(_steps("incoming"), calendar_event),
}
