"""The four kinds of users. How often each comes is its weight; the shape says how many there are."""

from __future__ import annotations

import functools
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from locust.contrib.fasthttp import FastHttpSession

from loadtest.load.api import quoted
from loadtest.load.ledger import Entry, State
from loadtest.load.outcomes import Answer, Kind, Refused
from loadtest.load.truths import fields, hold, instant, is_appointment, is_availability, is_booking, is_list, is_replay
from loadtest.load.visitor import Visitor
from loadtest.load.world import Calendar

BOOK = "POST /api/appointments"
ONE = "/api/appointments/{id}"
LOOKED_AT_DAYS = 3


class Booker(Visitor):
    """Looks for a free start and books it, each booking under a key of its own; then sees it in what is listed."""

    weight = 3
    kind = "booker"

    def visit(self) -> None:
        """Availability, booking, and that it can be read at once."""
        found = self.find()
        if found is None:
            return
        calendar, start = found
        key, entry = self.new_entry(calendar.calendar_id, start)
        if self.book(calendar, key, entry):
            self.look(calendar, entry)

    def find(self) -> tuple[Calendar, str] | None:
        """A calendar and a start that is free, or one of the few of a sale; None when there was none."""
        run = self.run_of
        if run.few:
            return run.world.few, self.chance.choice(run.few)
        calendar = self.chance.choice(run.world.calendars)
        last = max(1, calendar.max_days_ahead - LOOKED_AT_DAYS)
        day = (datetime.now(UTC) + timedelta(days=self.chance.randint(1, last))).date()
        answer = self.read(
            f"/api/availability?calendar_id={quoted(calendar.calendar_id)}&days={LOOKED_AT_DAYS}&from={day}&group_by=start",
            name="GET /api/availability group_by=start",
            check=functools.partial(is_availability, calendar=calendar, by_start=True),
        )
        slots = answer.body["slots"]
        return (calendar, self.chance.choice(slots)["start_time"]) if slots else None

    def book(self, calendar: Calendar, key: str, entry: Entry) -> bool:
        """Ask for it until the outcome is known; whether it is booked. Raises Refused or Broken."""
        return self.note_booking(entry, self.send(calendar, key, entry))

    def send(self, calendar: Calendar, key: str, entry: Entry, *, in_doubt: bool = False) -> Answer | None:
        """The request of an entry, under its key; what nobody carried out is noted as refused."""
        wish = wish_of(entry)
        try:
            return self.write(
                "POST",
                "/api/appointments",
                name=BOOK,
                key=key,
                expected=(201,),
                body=wish,
                check=functools.partial(is_booking, calendar=calendar, wish=wish),
                in_doubt=in_doubt,
            )
        except Refused:
            entry.state = State.REFUSED
            raise

    def look(self, calendar: Calendar, entry: Entry) -> None:
        """One's own booking is there at once, by its id and in the list of its contact."""

        def is_listed(answer: Answer) -> None:
            rows = fields(answer)["appointments"]
            ids = [row["appointment_id"] for row in rows]
            hold(ids == [entry.appointment_id], "a booking is listed at once, for its contact alone", ids)

        def is_there(answer: Answer) -> None:
            is_appointment(answer, calendar, entry.start_time, "scheduled", 1)

        if self.chance.random() < 0.5:
            self.read(f"/api/appointments/{entry.appointment_id}", name=f"GET {ONE}", check=is_there)
        else:
            path = f"/api/appointments?contact_email={quoted(entry.contact_email)}"
            self.read(path, name="GET /api/appointments contact_email", check=is_listed)


class Rebooker(Booker):
    """Books and asks again with the same key, one to three times; every other time it did not wait for the answer.

    Whoever asks again must get the very same bytes, and be told that it is a replay.
    """

    weight = 2
    kind = "rebooker"
    # Shorter than most bookings take: the answer is lost on the way as it is when a connection breaks.
    hurry_s = 0.003

    def on_start(self) -> None:
        """As everybody, with a second set of connections that does not wait."""
        super().on_start()
        self.hasty = FastHttpSession(
            base_url=self.host,
            request_event=self.environment.events.request,
            user=self,
            network_timeout=self.hurry_s,
            connection_timeout=self.connection_timeout,
            max_retries=0,
        )

    def visit(self) -> None:
        """Availability, booking, the same again."""
        found = self.find()
        if found is None:
            return
        calendar, start = found
        key, entry = self.new_entry(calendar.calendar_id, start)
        wish = wish_of(entry)
        hasty = self.chance.random() < 0.5
        if hasty:
            self._send_and_leave(key, entry)
        first = self.send(calendar, key, entry, in_doubt=hasty)
        if not self.note_booking(entry, first) or first is None:
            return
        for _ in range(self.chance.randint(1, 3)):
            again = self.write(
                "POST",
                "/api/appointments",
                name=f"{BOOK} again",
                key=key,
                expected=(201,),
                body=wish,
                check=functools.partial(is_replay, first=first),
                in_doubt=True,
            )
            hold(again is None or again.status == 201, "a key that booked is answered with its booking", again)

    def _send_and_leave(self, key: str, entry: Entry) -> None:
        self.ask(
            "POST",
            "/api/appointments",
            name=BOOK,
            expected=(201,),
            headers={"Idempotency-Key": key},
            body=wish_of(entry),
            session=self.hasty,
        )


class Canceller(Booker):
    """Books, then changes its mind with If-Match: cancels, or moves to another start and sometimes cancels then.

    A change that names a version which has passed must be refused with 412 and change nothing.
    """

    weight = 2
    kind = "canceller"

    def visit(self) -> None:
        """Availability, booking, cancelling or moving."""
        found = self.find()
        if found is None:
            return
        calendar, start = found
        key, entry = self.new_entry(calendar.calendar_id, start)
        if not self.book(calendar, key, entry):
            return
        if self.chance.random() < 0.5:
            self._cancel(calendar, entry, 1)
        elif self._move(calendar, entry):
            self._ask_with_a_passed_version(entry)
            if self.chance.random() < 0.5:
                self._cancel(calendar, entry, 2)

    def _cancel(self, calendar: Calendar, entry: Entry, version: int) -> None:
        start = entry.start_time

        def is_cancelled(answer: Answer) -> None:
            is_appointment(answer, calendar, start, "cancelled", version + 1)

        self._change(entry, State.CANCELLED, "DELETE", version, None, is_cancelled)

    def _move(self, calendar: Calendar, entry: Entry) -> bool:
        """Whether it was moved; a start that somebody else was quicker at leaves it as it was."""
        other = self._other_start(calendar, entry)
        if other is None:
            return False

        def is_moved(answer: Answer) -> None:
            is_appointment(answer, calendar, other, "scheduled", 2)

        return self._change(entry, State.BOOKED, "PATCH", 1, {"start_time": other}, is_moved)

    def _other_start(self, calendar: Calendar, entry: Entry) -> str | None:
        day = instant(entry.start_time).astimezone(UTC).date()
        answer = self.read(
            f"/api/availability?calendar_id={quoted(calendar.calendar_id)}&days=1&from={day}&group_by=start",
            name="GET /api/availability group_by=start",
            check=functools.partial(is_availability, calendar=calendar, by_start=True),
        )
        starts = [slot["start_time"] for slot in answer.body["slots"] if slot["start_time"] != entry.start_time]
        return self.chance.choice(starts) if starts else None

    def _change(
        self, entry: Entry, then: State, method: str, version: int, body: dict[str, Any] | None, check: Any
    ) -> bool:
        entry.state = State.CHANGING
        try:
            answer = self.write(
                method,
                f"/api/appointments/{entry.appointment_id}",
                name=f"{method} {ONE}",
                key=f"load-{uuid.uuid4()}",
                check=check,
                body=body,
                headers={"If-Match": f'"v{version}"'},
            )
        except Refused:
            entry.state = State.BOOKED
            raise
        if answer is None:
            return False
        if answer.status != 200:
            entry.state = State.BOOKED
            return False
        entry.says(then, answer.body)
        return True

    def _ask_with_a_passed_version(self, entry: Entry) -> None:
        answer, judged = self.ask(
            "DELETE",
            f"/api/appointments/{entry.appointment_id}",
            name=f"DELETE {ONE}",
            expected=(412,),
            headers={"If-Match": '"v1"'},
        )
        if judged.kind is not Kind.DONE:
            raise Refused(answer.retry_after_s or 0.0)


class Browser(Visitor):
    """Looks at availability by coach and by start and at lists, and keeps entity tags as a browser's cache does."""

    weight = 4
    kind = "browser"

    def on_start(self) -> None:
        """As everybody, with a calendar and a coach of one's own to look at again and again."""
        super().on_start()
        self.calendar = self.chance.choice(self.run_of.world.calendars)
        self.coach_id = self.chance.choice(self.calendar.coach_ids)
        self.tags: dict[str, str] = {}

    def visit(self) -> None:
        """Both forms of availability, one of them reloaded at once, and a list to its second page."""
        base = f"/api/availability?calendar_id={quoted(self.calendar.calendar_id)}"
        self._look(f"{base}&coach_id={quoted(self.coach_id)}", "GET /api/availability", by_start=False)
        for _ in range(2):
            self._look(f"{base}&group_by=start", "GET /api/availability group_by=start", by_start=True)
        path = f"/api/appointments?calendar_id={quoted(self.calendar.calendar_id)}&status=scheduled&limit=20"
        check = functools.partial(is_list, calendar=self.calendar, status="scheduled")
        page = self.read(path, name="GET /api/appointments", check=check).body
        if page["next_cursor"] is not None:
            self.read(f"{path}&cursor={quoted(page['next_cursor'])}", name="GET /api/appointments", check=check)

    def _look(self, path: str, name: str, *, by_start: bool) -> None:
        check = functools.partial(is_availability, calendar=self.calendar, by_start=by_start)
        known = {"If-None-Match": self.tags[path]} if path in self.tags else None
        answer = self.read(path, name=name, check=check, headers=known)
        if "etag" in answer.headers:
            self.tags[path] = answer.headers["etag"]


def wish_of(entry: Entry) -> dict[str, str]:
    """The body that asks for an entry of the ledger."""
    return {
        "calendar_id": entry.calendar_id,
        "start_time": entry.start_time,
        "contact_email": entry.contact_email,
    }
