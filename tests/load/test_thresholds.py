"""The promise: a run is bad when too much failed, too much was refused, one kind took too long, or a promise broke."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadtest.load.outcomes import Answer, Kind, judge
from loadtest.load.thresholds import LIMITS, Limit, Measured, Measures, judge_run, limits_from, table

ROW = Measured("POST /api/appointments", 1000, 0, p50_ms=10, p95_ms=100, p99_ms=200, most_ms=400)
GOOD = Measures([ROW], {}, raised=0, booked=1000)
LIMIT = {"*": Limit(100, 200)}


def wrong(measures: Measures, limits: dict[str, Limit] = LIMIT) -> list[str]:
    found = judge_run(measures, limits, most_failures=0.01, most_unavailable=0.01)
    words = [*found.wrong, *(what for row in found.rows for what in row.wrong)]
    assert found.holds is (not words)
    assert all(what in "\n".join(table(found)) for what in words)
    return words


def test_what_is_just_within_every_limit_holds() -> None:
    busy = replace(ROW, name="POST /api/appointments [503 SERVICE_UNAVAILABLE]", count=10)
    full = replace(ROW, name="POST /api/appointments [409 SLOT_UNAVAILABLE]", count=5000)
    assert wrong(replace(GOOD, rows=[replace(ROW, failures=10), busy, full])) == []


@pytest.mark.parametrize(
    ("measures", "said"),
    [
        (replace(GOOD, rows=[replace(ROW, failures=11)]), "1.10% of the requests failed, more than 1.00%"),
        (replace(GOOD, rows=[replace(ROW, p95_ms=101)]), "p95 TOO LONG"),
        (replace(GOOD, rows=[replace(ROW, p99_ms=201)]), "p99 TOO LONG"),
        (replace(GOOD, rows=[replace(ROW, name="GET /x [304]", p99_ms=201)]), "p99 TOO LONG"),
        (replace(GOOD, broken={"a replay is the first answer": 2}), "broken 2 times: a replay is the first answer"),
        (replace(GOOD, raised=1), "the users' own code failed 1 times"),
        (replace(GOOD, booked=0), "nothing was booked"),
        (replace(GOOD, rows=[]), "nothing was asked"),
        (replace(GOOD, rows=[replace(ROW, name="JOURNEY booker")]), "nothing was asked"),
    ],
)
def test_each_thing_that_is_wrong_is_said(measures: Measures, said: str) -> None:
    assert wrong(measures) == [said]


def test_503_has_a_threshold_of_its_own() -> None:
    busy = replace(ROW, name="POST /api/appointments [503 SERVICE_UNAVAILABLE]", count=11)
    (said,) = wrong(replace(GOOD, rows=[replace(ROW, count=989), busy]))
    assert said == "1.10% of the requests were answered 503, more than 1.00%"


def test_a_limit_is_of_its_name_with_every_outcome_and_of_no_other() -> None:
    limits = limits_from("POST /api/appointments=50/500, *=900/900", 1.0)
    taken = replace(ROW, name="POST /api/appointments [409 SLOT_UNAVAILABLE]")
    assert wrong(replace(GOOD, rows=[taken]), limits) == ["p95 TOO LONG"]
    assert wrong(replace(GOOD, rows=[replace(ROW, name="POST /api/appointments again")]), limits) == []


def test_usual_limits_stretch_with_the_shape_and_given_ones_do_not() -> None:
    limits = limits_from("JOURNEY booker=1/2", 3.0)
    assert limits["JOURNEY booker"] == Limit(1, 2)
    assert limits["*"] == Limit(3 * LIMITS["*"].p95_ms, 3 * LIMITS["*"].p99_ms)


@pytest.mark.parametrize("text", ["x", "x=1", "x=1/2/3", "x=a/b"])
def test_a_limit_that_is_none_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"^LIMITS: "):
        limits_from(text, 1.0)


def problem(status: int, error: str, **headers: str) -> Answer:
    return Answer(status, headers, f'{{"status":{status},"error":"{error}"}}'.encode())


PATIENT = {"retry-after": "1"}


@pytest.mark.parametrize(
    ("answer", "kind", "label", "again"),
    [
        (Answer(200), Kind.DONE, "", False),
        (Answer(304), Kind.DONE, " [304]", False),
        (Answer(201), Kind.FAILURE, "", False),
        (Answer(0), Kind.LOST, "", True),
        (problem(409, "SLOT_UNAVAILABLE"), Kind.OUTCOME, " [409 SLOT_UNAVAILABLE]", False),
        (problem(409, "IDEMPOTENCY_IN_PROGRESS", **PATIENT), Kind.OUTCOME, " [409 IDEMPOTENCY_IN_PROGRESS]", True),
        (problem(409, "IDEMPOTENCY_IN_PROGRESS"), Kind.FAILURE, "", False),
        (problem(429, "RATE_LIMIT_EXCEEDED", **PATIENT), Kind.OUTCOME, " [429 RATE_LIMIT_EXCEEDED]", False),
        (problem(429, "RATE_LIMIT_EXCEEDED"), Kind.FAILURE, "", False),
        (problem(503, "OUTCOME_UNKNOWN", **PATIENT), Kind.OUTCOME, " [503 OUTCOME_UNKNOWN]", True),
        (problem(503, "SERVICE_UNAVAILABLE"), Kind.FAILURE, "", False),
        (problem(500, "INTERNAL_ERROR", **PATIENT), Kind.FAILURE, "", False),
        (problem(404, "NOT_FOUND"), Kind.FAILURE, "", False),
        (Answer(409, {}, b"<html>"), Kind.FAILURE, "", False),
        (Answer(503, PATIENT, b'{"status":500,"error":"X"}'), Kind.FAILURE, "", False),
    ],
)
def test_what_an_answer_counts_as(answer: Answer, kind: Kind, label: str, again: bool) -> None:
    judged = judge(answer, (200, 304))
    assert (judged.kind, judged.label, judged.asks_again) == (kind, label, again)
