"""Whether everything that a run was told is so, asked of the public API after the load; and `booking verify`, where it
can be reached.

`python -m loadtest.load.verify --host URL --ledger FILE` asks again, with the key in `KEY`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from loadtest.load.api import Api, Unanswered
from loadtest.load.ledger import Entry, Ledger, State
from loadtest.load.truths import instant

DRAIN_S = 60.0
# Claims of a process that was told to wait are settled within seconds; until then Redis holds more than Postgres.
AGREES_WITHIN_S = 20.0
_LOOK_S = 0.5
_SHOWN = 5
DESTINATIONS = ("crm", "notifications")


@dataclass
class Verified:
    """What was counted, and what is wrong: a sentence each."""

    counted: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.wrong

    def lines(self) -> list[str]:
        """The same for a person."""
        told = [f"verify: {name}: {count}" for name, count in self.counted.items()]
        wrong = [f"WRONG: {what}" for what in self.wrong]
        return [*told, *wrong, "verify: everything is as it was told" if self.holds else "verify: it does NOT hold"]


def verify(api: Api, ledger: Ledger, *, drain_s: float = DRAIN_S) -> Verified:
    """Hold what the API shows to the ledger; waits up to `drain_s` for deliveries. Raises Unanswered."""
    found = Verified()
    # Everything booked here lies ahead; what is long over need not be read.
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date()
    rows = list(api.pages("/api/appointments", "appointments", **{"from": str(yesterday)}))
    found.wrong += promises(ledger, rows)
    found.wrong += overlaps(rows)
    ours = [row for row in rows if row["contact_email"].endswith(f"@{ledger.domain}")]
    found.counted = {
        "answered 201 and there": len(ledger.of(State.BOOKED, State.CANCELLED, State.CHANGING)),
        "of them cancelled": len(ledger.of(State.CANCELLED)),
        "with an outcome nobody knows": len(ledger.of(State.UNKNOWN, State.CHANGING)),
        "this run's in the list": len(ours),
        "appointments looked through for overlaps": len(rows),
    }
    states, wrong = deliveries(api, [row["appointment_id"] for row in ours], drain_s)
    found.counted |= {f"deliveries {state}": count for state, count in sorted(states.items())}
    found.wrong += wrong
    return found


def promises(ledger: Ledger, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What of the ledger is not in the list as it was told, and what is in the list without having been told."""
    rows = list(rows)
    by_id = {row["appointment_id"]: row for row in rows}
    if len(by_id) != len(rows):
        return ["the list shows an appointment twice"]
    wrong: list[str] = []
    told: set[str] = set()
    for entry in ledger.of(State.BOOKED, State.CANCELLED, State.CHANGING):
        if entry.appointment_id in told:
            wrong.append(f"{entry.appointment_id} was the answer to two keys")
        told.add(entry.appointment_id)
        wrong += _differs(entry, by_id.get(entry.appointment_id))
    doubtful = Counter(entry.contact_email for entry in ledger.of(State.UNKNOWN))
    for row in rows:
        email = row["contact_email"]
        if not email.endswith(f"@{ledger.domain}") or row["appointment_id"] in told:
            continue
        # Each entry has a contact of its own, so one in doubt explains one row.
        doubtful[email] -= 1
        if doubtful[email] < 0:
            wrong.append(f"{row['appointment_id']} of {email} is there and nobody was told so")
    return _few(wrong)


def _differs(entry: Entry, row: Mapping[str, Any] | None) -> list[str]:
    if row is None:
        return [f"{entry.appointment_id} was answered 201 and is not there"]
    if entry.state is State.CHANGING:
        return []
    status = "cancelled" if entry.state is State.CANCELLED else "scheduled"
    told = (instant(entry.start_time), instant(entry.end_time), entry.coach_id, status)
    shown = (instant(row["start_time"]), instant(row["end_time"]), row["coach_id"], row["status"])
    if told == shown:
        return []
    return [f"{entry.appointment_id} was told as {_words(told)} and is {_words(shown)}"]


def _words(values: Iterable[object]) -> str:
    return " ".join(map(str, values))


def overlaps(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Pairs of one coach's live appointments that overlap."""
    by_coach: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["status"] != "cancelled":
            by_coach.setdefault(row["coach_id"], []).append(row)
    wrong: list[str] = []
    for coach_id, taken in by_coach.items():
        taken.sort(key=lambda row: instant(row["start_time"]))
        wrong += [
            f"{coach_id} has {one['appointment_id']} and {other['appointment_id']} at once, {other['start_time']}"
            for one, other in pairwise(taken)
            if instant(one["end_time"]) > instant(other["start_time"])
        ]
    return _few(wrong)


def deliveries(api: Api, appointment_ids: Sequence[str], within_s: float) -> tuple[Counter[str], list[str]]:
    """Where the deliveries of these appointments stand once all are over or the time is; and what is wrong with them.

    Every booking must be on its way to every destination of every organization, and none may be dead.
    """
    if not appointment_ids:
        return Counter(), []
    deadline = time.monotonic() + within_s
    while True:
        states = _delivery_states(api, set(appointment_ids))
        counted = Counter(states.values())
        if set(counted) <= {"delivered", "dead"} or time.monotonic() > deadline:
            break
        time.sleep(_LOOK_S)
    there = {(appointment_id, destination) for appointment_id, destination, _ in states}
    wrong = [
        f"{appointment_id} has no delivery to {destination}"
        for appointment_id in appointment_ids
        for destination in DESTINATIONS
        if (appointment_id, destination) not in there
    ]
    wrong += [f"the delivery of {' '.join(map(str, which))} is dead" for which, now in states.items() if now == "dead"]
    return counted, _few(wrong)


def _delivery_states(api: Api, appointment_ids: set[str]) -> dict[tuple[str, str, str], str]:
    """State by appointment, destination and event; the newest appointments come first, so not all are read."""
    oldest = min(appointment_ids)
    found: dict[tuple[str, str, str], str] = {}
    for row in api.pages("/api/webhooks/deliveries", "deliveries"):
        appointment_id = row["event_id"].partition(".")[0]
        if appointment_id < oldest:
            break
        if appointment_id in appointment_ids:
            found[appointment_id, row["destination"], row["event_id"]] = row["state"]
    return found


def booking_verify(environment: Mapping[str, str], within_s: float = AGREES_WITHIN_S) -> list[str]:
    """What the service's own verification finds; asked again while Redis and Postgres have not yet come together."""
    deadline = time.monotonic() + within_s
    command = [sys.executable, "-m", "service.cli", "verify"]
    while True:
        ended = subprocess.run(  # noqa: S603 - our own command
            command, env=dict(environment), capture_output=True, text=True, check=False
        )
        if ended.returncode == 0:
            return []
        if time.monotonic() > deadline:
            return [f"booking verify: {line}" for line in (ended.stdout or ended.stderr).splitlines()[-_SHOWN:]]
        time.sleep(_LOOK_S)


def _few(wrong: Sequence[str]) -> list[str]:
    """The first of many, and how many more there are."""
    more = [f"and {len(wrong) - _SHOWN} more of the kind"] if len(wrong) > _SHOWN else []
    return [*wrong[:_SHOWN], *more]


@click.command(help=__doc__)
@click.option("--host", required=True, help="The URL of the service.")
@click.option("--ledger", type=click.Path(path_type=Path, exists=True), required=True, help="ledger.json of the run.")
@click.option("--drain", default=DRAIN_S, show_default=True, help="How many seconds deliveries may take.")
def main(host: str, ledger: Path, drain: float) -> None:
    try:
        with Api(host, os.environ.get("KEY")) as api:
            found = verify(api, Ledger.read(ledger), drain_s=drain)
    except Unanswered as problem:
        raise click.ClickException(str(problem)) from None
    click.echo("\n".join(found.lines()))
    sys.exit(0 if found.holds else 1)


if __name__ == "__main__":
    main()
