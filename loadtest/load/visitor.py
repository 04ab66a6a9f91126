"""What every user does: begin journeys when they are due, ask, judge each answer, and be patient when asked to.

Locust measures a request from when it is sent. A user that waits for a slow answer sends nothing meanwhile, so a
standstill would show in one request of each user and in none of those it kept from being sent. Therefore a journey is
due every `pace_s` seconds whether or not the one before it has ended, late ones follow at once, and each is measured
from the moment it was due, under the type JOURNEY.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Collection
from typing import Any

import gevent
from locust import FastHttpUser, task
from locust.contrib.fasthttp import FastHttpSession
from locust.user.task import LOCUST_STATE_STOPPING

from loadtest.load.ledger import Entry, State
from loadtest.load.outcomes import Answer, Broken, Judged, Kind, Refused, judge
from loadtest.load.run import Run, Runs
from loadtest.load.thresholds import JOURNEY

Check = Callable[[Answer], None]
WRITE_TRIES = 6
# When nothing says how long to wait before asking again.
PAUSE_S = 0.2
SLICE_S = 0.1


class Visitor(FastHttpUser):
    """A user with a key. `kind` names it in the report."""

    abstract = True
    network_timeout = 15.0
    connection_timeout = 10.0
    kind = ""

    def on_start(self) -> None:
        """Wait for the doors; then begin at a moment of one's own, but all at once where the doors were shut."""
        self.chance = random.Random()
        runs: Runs = self.environment.booking_runs  # type: ignore[attr-defined]  # set in the locustfile
        self.run_of: Run = runs.current
        self.pace_s: float = self.environment.parsed_options.pace
        self.headers = {"X-API-Key": self.environment.parsed_options.key}
        shut = not self.run_of.doors.is_set()
        self.run_of.doors.wait()
        self._due = time.perf_counter() + (0 if shut else self.chance.random() * self.pace_s)
        gevent.sleep(max(0.0, self._due - time.perf_counter()))

    def wait_time(self) -> float:
        """Seconds until the next journey is due; none when it is late."""
        return max(0.0, self._due - time.perf_counter())

    @task
    def journey(self) -> None:
        """One journey, measured from when it was due; one that the service refused is due anew after its patience."""
        try:
            self.visit()
        except Refused as refused:
            self._due = time.perf_counter() + refused.after_s
            return
        except Broken as broken:
            self.run_of.broken[broken.promise] += 1
        took_ms = (time.perf_counter() - self._due) * 1000
        self.environment.events.request.fire(
            request_type=JOURNEY,
            name=self.kind,
            response_time=took_ms,
            response_length=0,
            exception=None,
            context={},
        )
        self._due += self.pace_s

    def visit(self) -> None:
        """The requests of one journey. Raises Refused or Broken."""
        raise NotImplementedError

    def ask(
        self,
        method: str,
        path: str,
        *,
        name: str,
        expected: Collection[int] = (200,),
        check: Check | None = None,
        headers: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
        session: FastHttpSession | None = None,
    ) -> tuple[Answer, Judged]:
        """One request, reported under its name and outcome; with a `session` that does not wait, none is lost.

        Raises Broken when the answer is a failure or `check` finds it wrong.
        """
        with (session or self.client).request(
            method, path, name=name, json=body, headers=self.headers | (headers or {}), catch_response=True
        ) as response:
            found = {} if response.headers is None else {key.lower(): value for key, value in response.headers.items()}
            answer = Answer(response.status_code, found, response.content or b"")
            judged = judge(answer, expected)
            try:
                if judged.kind is Kind.FAILURE:
                    raise Broken("an answer is one that was to be expected", judged.why)
                if judged.kind is Kind.DONE and check is not None:
                    check(answer)
            except Broken as broken:
                response.failure(str(broken))
                # Not raised in here: Locust would take it for an error of ours.
                failed: Broken | None = broken
            else:
                failed = None
                if judged.kind is Kind.LOST and session is None:
                    response.failure(f"no answer: {getattr(response, 'error', None)!r}")
                else:
                    label = " [not waited for]" if judged.kind is Kind.LOST else judged.label
                    response.request_meta["name"] = name + label
                    response.success()
        if failed is not None:
            raise failed
        return answer, judged

    def read(self, path: str, *, name: str, check: Check, headers: dict[str, str] | None = None) -> Answer:
        """A GET that answers 200 or, asked with If-None-Match, 304. Raises Refused or Broken."""
        expected = (200, 304) if headers and "If-None-Match" in headers else (200,)

        def checked(answer: Answer) -> None:
            if answer.status == 200:
                check(answer)

        answer, judged = self.ask("GET", path, name=name, expected=expected, check=checked, headers=headers)
        if judged.kind is not Kind.DONE:
            raise Refused(answer.retry_after_s or PAUSE_S)
        return answer

    def write(
        self,
        method: str,
        path: str,
        *,
        name: str,
        key: str,
        check: Check,
        expected: Collection[int] = (200,),
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        in_doubt: bool = False,
    ) -> Answer | None:
        """A change under an idempotency key, asked again with that key until its outcome is known.

        None when it is still unknown at the end; `in_doubt` when something was sent under the key before. An answer
        409 is returned like any other. Raises Refused, when nothing was carried out, or Broken.
        """
        sent = {"Idempotency-Key": key, **(headers or {})}
        for _ in range(WRITE_TRIES):
            answer, judged = self.ask(method, path, name=name, expected=expected, check=check, headers=sent, body=body)
            patience = answer.retry_after_s or PAUSE_S
            if judged.asks_again:
                in_doubt = True
            elif judged.kind is Kind.DONE or answer.status == 409:
                return answer
            elif not in_doubt:
                raise Refused(patience)
            if not self._rest(patience):
                break
        return None

    def _rest(self, seconds: float) -> bool:
        """Wait as the service asked; False when the load ends before."""
        until = time.perf_counter() + seconds
        while (left := until - time.perf_counter()) > 0:
            if self._state == LOCUST_STATE_STOPPING:
                return False
            gevent.sleep(min(left, SLICE_S))
        return True

    def new_entry(self, calendar_id: str, start_time: str) -> tuple[str, Entry]:
        """A booking to be asked for: its idempotency key and its line in the ledger."""
        key = f"load-{uuid.uuid4()}"
        ledger = self.run_of.ledger
        email = f"{self.kind}-{uuid.uuid4().hex[:12]}@{ledger.domain}"
        return key, ledger.begin(key, email, calendar_id, start_time)

    def note_booking(self, entry: Entry, answer: Answer | None) -> bool:
        """Write what an answer says into the ledger; whether it is booked."""
        if answer is None:
            return False
        if answer.status != 201:
            entry.state = State.REFUSED
            return False
        entry.says(State.BOOKED, answer.body)
        self.run_of.booked[self.kind] += 1
        return True
