"""A good run, and one violation after the other that is planted in it, with the check that must find it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from tests.faults.final import Final
from tests.faults.story import Story, at


def good() -> Story:
    """Bookings, a move, a cancellation, a replay, refusals with a reason, and a request whose answer was lost."""
    story = Story()
    first = story.booked(9, "c0", 1.0, 1.1, key="k1")
    second = story.booked(9, "c1", 1.0, 1.2)
    story.refuse(story.ask("book", story.wish(9), 2.0, key="k2"), 2.1)
    story.answer(story.ask("book", story.wish(9), 3.0, key="k1"), 3.1, 201, first.body)
    story.refuse(story.ask("book", story.wish(10), 3.2, key="k1"), 3.3, 422, "IDEMPOTENCY_KEY_REUSED")
    story.moved(second, 10, "c1", 4.0, 4.1)
    story.cancelled(first, 5.0, 5.1)
    story.booked(9, "c0", 6.0, None, key="k3")
    story.answer(story.ask("get", {}, 7.0, target=second.body["appointment_id"]), 7.1, 200, story.events[2].data)
    story.answer(story.ask("availability", {}, 8.0), 8.1, 200, {})
    return story


def rows_of(story: Story, **changed: Any) -> Final:
    """The end state with a column of the first row changed."""
    first, *others = story.final().appointments
    return story.final(appointments=(replace(first, **changed), *others))


def overlapping_rows(story: Story) -> Final:
    late = story.booked(9.5, "c0", 9.0, 9.1)
    assert story.rows[late.body["appointment_id"]].occupied[0] < at(9) + timedelta(minutes=35), (
        "only the buffer overlaps"
    )
    return story.final()


def too_many_a_day(story: Story) -> Final:
    story.booked(12, "c0", 9.0, 9.1)
    story.booked(14, "c0", 9.2, 9.3)
    return story.final()


def answered_and_gone(story: Story) -> Final:
    story.answer(story.ask("book", story.wish(12), 9.0), 9.1, 201, {**story.events[0].data, "appointment_id": "lost"})
    return story.final()


def answered_otherwise(story: Story) -> Final:
    booking = story.booked(12, "c0", 9.0, None)
    story.answer(booking, 9.1, 201, {**story.events[-1].data, "coach_id": "c1"})
    return story.final()


def cancelled_by_nobody(story: Story) -> Final:
    booking = story.booked(12, "c0", 9.0, 9.1)
    cancel = story.cancelled(booking, 9.2, 9.3)
    cancel.target = "another"
    return story.final()


def refused_and_done(story: Story) -> Final:
    story.refuse(story.booked(12, "c0", 9.0, None), 9.1, 503, "SERVICE_UNAVAILABLE")
    return story.final()


def made_by_nobody(story: Story) -> Final:
    *events, last = story.events
    return story.final(events=(*events, replace(last, correlation_id="somebody")))


def two_effects_of_a_key(story: Story) -> Final:
    story.booked(12, "c0", 9.0, None, key="k9")
    story.booked(14, "c1", 9.2, None, key="k9")
    return story.final()


def another_answer(story: Story) -> Final:
    replay = story.answer(story.ask("book", story.wish(9), 9.0, key="k1"), 9.1, 201, story.history.operations[0].body)
    replay.raw += b" "
    return story.final()


def another_request_answered(story: Story) -> Final:
    story.answer(story.ask("book", story.wish(12), 9.0, key="k1"), 9.1, 201, story.history.operations[0].body)
    return story.final()


def reused_by_nobody(story: Story) -> Final:
    story.refuse(story.ask("book", story.wish(12), 9.0, key="k8"), 9.1, 422, "IDEMPOTENCY_KEY_REUSED")
    return story.final()


def two_at_once_for_a_while(story: Story) -> Final:
    """Both were answered before the first was cancelled: the rows of the end show nothing."""
    one = story.booked(12, "c0", 9.0, 9.1)
    story.booked(12, "c0", 9.2, 9.3)
    story.cancelled(one, 9.4, 9.5)
    return story.final()


def over_the_limit_for_a_while(story: Story) -> Final:
    one = story.booked(12, "c1", 9.0, 9.1)
    story.booked(14, "c1", 9.2, 9.3)
    story.cancelled(one, 9.4, 9.5)
    return story.final()


def read_of_the_past(story: Story) -> Final:
    """A GET that was sent after the cancellation was answered shows the appointment alive."""
    story.answer(story.ask("get", {}, 9.0, target="a0"), 9.1, 200, story.events[0].data)
    return story.final()


def refused_without_a_reason(story: Story) -> Final:
    story.refuse(story.ask("book", story.wish(15), 9.0), 9.1)
    return story.final()


def refused_for_one_of_two(story: Story) -> Final:
    story.refuse(story.ask("book", story.wish(10), 9.0), 9.1)
    return story.final()


def refused_move_to_free_time(story: Story) -> Final:
    """Overlapping its own old time, and nobody else's."""
    booking = story.booked(12, "c0", 9.0, 9.1)
    wish = {"start_time": at(12.5).isoformat(), "coach_id": "c0"}
    story.refuse(story.ask("move", wish, 9.2, target=booking.body["appointment_id"]), 9.3)
    return story.final()


def refused_twice_for_each_other(story: Story) -> Final:
    story.refuse(story.ask("book", story.wish(15), 9.0), 9.2)
    story.refuse(story.ask("book", story.wish(15), 9.1), 9.3)
    return story.final()


def refused_long_after_the_cancellation(story: Story) -> Final:
    one, other = story.booked(12, "c0", 9.0, 9.1), story.booked(12, "c1", 9.0, 9.1)
    story.cancelled(one, 9.2, 9.3)
    story.refuse(story.ask("book", story.wish(12), 9.31), 9.4)
    assert other.body
    return story.final()


def never_heard(story: Story) -> Final:
    return story.final(receipts={event: times for event, times in story.receipts.items() if event != "a0.1"})


def announced_and_not_there(story: Story) -> Final:
    return story.final(receipts={**story.receipts, "ghost.1": [5.0]})


def announced_too_soon(story: Story) -> Final:
    return story.final(receipts={**story.receipts, "a0.1": [0.5]})


def told_two_things(story: Story) -> Final:
    told = story.bodies["a0.1"] | {("/webhooks/appointment-created", b'{"appointment_id":"a0","coach_id":"c0" }')}
    return story.final(receipt_bodies={**story.bodies, "a0.1": told})


def told_something_else(story: Story) -> Final:
    told = {("/webhooks/appointment-cancelled", b'{"appointment_id":"a0"}')}
    return story.final(receipt_bodies={**story.bodies, "a0.1": told})


def dead_delivery(story: Story) -> Final:
    return story.final(deliveries={**story.final().deliveries, ("a0", 1, "crm"): "dead"})


def counted_less(story: Story) -> Final:
    counts = dict(story.final().metrics)
    series = next(name for name in counts if ("status", "201") in name[1])
    counts[series] -= 1
    return story.final(metrics=counts)


def counted_more(story: Story) -> Final:
    counts = dict(story.final().metrics)
    series = next(name for name in counts if ("status", "201") in name[1])
    counts[series] += 2  # one request has no answer
    return story.final(metrics=counts)


def crashed(story: Story) -> Final:
    story.answer(story.ask("get", {}, 9.0, target="a0"), 9.1, 500, {"error": "INTERNAL_ERROR"})
    return story.final()


def a_gap_in_the_events(story: Story) -> Final:
    return story.final(events=tuple(event for event in story.events if event.event_id != "a0.1"))


PLANTED: tuple[tuple[str, Callable[[Story], Final]], ...] = (
    ("C1", overlapping_rows),
    ("C1", too_many_a_day),
    ("C1", lambda story: rows_of(story, status="scheduled", occupied=(at(9), at(9.5)))),
    ("C1", lambda story: rows_of(story, status="scheduled", local_day=at(30).date())),
    ("C2", answered_and_gone),
    ("C2", answered_otherwise),
    ("C2", cancelled_by_nobody),
    ("C2", lambda story: rows_of(story, version=1)),
    ("C3", refused_and_done),
    ("C3", made_by_nobody),
    ("C4", two_effects_of_a_key),
    ("C4", another_answer),
    ("C4", another_request_answered),
    ("C4", reused_by_nobody),
    ("C4", lambda story: rows_of(story, idempotency_key=None)),
    ("C5", two_at_once_for_a_while),
    ("C5", over_the_limit_for_a_while),
    ("C5", read_of_the_past),
    ("C6", refused_without_a_reason),
    ("C6", refused_for_one_of_two),
    ("C6", refused_move_to_free_time),
    ("C6", refused_twice_for_each_other),
    ("C6", refused_long_after_the_cancellation),
    ("C7", never_heard),
    ("C7", announced_and_not_there),
    ("C7", announced_too_soon),
    ("C7", told_two_things),
    ("C7", told_something_else),
    ("C7", dead_delivery),
    ("C8", lambda story: story.final(leftovers={"pending": 1})),
    ("C9", lambda story: story.final(verify_code=1)),
    ("C9", lambda story: story.final(verify_text="north: 0 overlaps, 1 differences")),
    ("C10", counted_less),
    ("C10", counted_more),
    ("C10", a_gap_in_the_events),
    ("C11", lambda story: story.final(probes=(("GET /readyz", 503, 0.1),))),
    ("C11", lambda story: story.final(probes=(("GET /readyz", 200, 3.0),))),
    ("C11", crashed),
    ("C11", lambda story: story.final(probes=())),
    ("C11", lambda story: story.final(activity=({"state": "active", "transaction_s": 6.0, "query": "x"},))),
    ("C11", lambda story: story.final(activity=({"state": "idle in transaction", "transaction_s": 1.1, "query": ""},))),
    ("C11", lambda story: story.final(most_connections=0)),
    ("C11", lambda story: story.final(processes={"api": 1, "worker": 1})),
    ("C11", lambda story: story.final(metrics={**story.final().metrics, ("booking_http_requests_in_flight", ()): 2})),
)
