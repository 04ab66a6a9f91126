"""Reminding contacts, a while before their appointments: one reminder for each appointment and start.

A reminder is an event like any other change, written in one statement that counts the version up and notes of which
start it was. Of several workers that find the same appointment, and of a reminder and a cancellation at the same
moment, one comes first and the others find that the appointment has moved on. So it is not needed that one alone
does this, nor that Redis is there.

Who was told of a start later than a reminder of it would have been due, by a booking or a move, gets none: that
message has just said so.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import msgspec

from service.clock import Clock
from service.db.appointments import AppointmentStore, Change, ChangeOutcome
from service.db.notifications import DueReminder, NotificationStore
from service.domain.appointment import Appointment, render
from service.domain.event import EventType
from service.logs import get_logger
from service.operations.settle_change import SettleChange

ACTOR = "reminders"
BATCH = 100

_log = get_logger("operations.remind")


class Remind:
    """One round over everybody who is due."""

    def __init__(
        self,
        *,
        store: NotificationStore,
        appointments: AppointmentStore,
        settle: SettleChange,
        clock: Clock,
        before: timedelta,
    ) -> None:
        self._store = store
        self._appointments = appointments
        self._settle = settle
        self._clock = clock
        self._before = before

    async def __call__(self) -> int:
        """Remind, in small batches, of what starts within `before`; how many reminders that made.

        Raises Unavailable or OutcomeUnknown; what was not done then is done in the next round.
        """
        made = 0
        while True:
            now = self._clock.now()
            due = await self._store.due(now, now + self._before, BATCH)
            just_told = [one.appointment for one in due if self._just_told(one)]
            if just_told:
                await self._store.need_none(just_told)
            for one in due:
                if not self._just_told(one) and await self._remind(one.appointment):
                    made += 1
            if len(due) < BATCH:
                break
        if made:
            _log.info("reminders made", reminders=made)
        return made

    def _just_told(self, one: DueReminder) -> bool:
        return one.told_at > one.appointment.start_time - self._before

    async def _remind(self, before: Appointment) -> bool:
        after = msgspec.structs.replace(before, version=before.version + 1, updated_at=self._clock.now())
        change = Change(
            after=after,
            type=EventType.REMINDER,
            token=None,
            actor=ACTOR,
            correlation_id=str(uuid4()),
            reason=None,
            data=render(after),
        )
        if await self._appointments.change(change) is not ChangeOutcome.DONE:
            # Somebody changed it at this moment; where it still stands, the next round finds it.
            return False
        await self._settle.announce(after, EventType.REMINDER)
        return True
