"""Whether a run is good: how many failed, how many found the service too busy, how long each kind of request took.

A limit is "p95/p99" in milliseconds and belongs to the name a request is shown under, without its outcome. `JOURNEY`
rows are whole journeys of a user, measured from the moment they were due: see the README beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loadtest.load.outcomes import UNAVAILABLE

JOURNEY = "JOURNEY"
ANY = "*"


@dataclass(frozen=True)
class Limit:
    """The most that the 95th and the 99th percentile may be, in milliseconds."""

    p95_ms: float
    p99_ms: float


# For one machine that also makes the load: several times what it needs when it is left alone.
LIMITS = {
    ANY: Limit(500, 1_500),
    "GET /api/availability": Limit(300, 1_000),
    "GET /api/availability group_by=start": Limit(300, 1_000),
    "GET /api/appointments": Limit(300, 1_000),
    "JOURNEY browser": Limit(1_000, 3_000),
    "JOURNEY booker": Limit(1_500, 4_000),
    "JOURNEY rebooker": Limit(2_500, 8_000),
    "JOURNEY canceller": Limit(2_000, 6_000),
}


@dataclass(frozen=True)
class Measured:
    """One name's figures; times in milliseconds."""

    name: str
    count: int
    failures: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    most_ms: float


@dataclass(frozen=True)
class Measures:
    """A run's figures; `broken` promises by how often, `raised` errors of the users' own code, `booked` 201s."""

    rows: Sequence[Measured]
    broken: Mapping[str, int]
    raised: int
    booked: int


@dataclass(frozen=True)
class Row:
    """One name, its limit, and what of it was passed."""

    measured: Measured
    limit: Limit
    wrong: Sequence[str]


@dataclass(frozen=True)
class Findings:
    """Every row, and what is wrong with the run as a whole."""

    rows: Sequence[Row]
    wrong: Sequence[str]

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.wrong and not any(row.wrong for row in self.rows)


def limits_from(text: str, slower: float) -> dict[str, Limit]:
    """The usual limits, `slower` times as long, and over them those of `text`: "name=p95/p99,name=p95/p99".

    A "*" in `text` is of every name it does not name. Raises ValueError.
    """
    given: dict[str, Limit] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, values = part.rpartition("=")
        try:
            p95, p99 = (float(value) for value in values.split("/"))
        except ValueError:
            raise ValueError(f"LIMITS: {part!r} is not name=p95/p99 in milliseconds") from None
        given[name.strip()] = Limit(p95, p99)
    usual = {} if ANY in given else {n: Limit(one.p95_ms * slower, one.p99_ms * slower) for n, one in LIMITS.items()}
    return {**usual, **given}


def judge_run(
    measures: Measures, limits: Mapping[str, Limit], *, most_failures: float, most_unavailable: float
) -> Findings:
    """Hold a run to its limits; the ratios are of all requests, journeys not counted."""
    rows = [_row(one, limits.get(_plain(one.name), limits[ANY])) for one in measures.rows]
    asked = [one for one in measures.rows if not one.name.startswith(JOURNEY)]
    total = sum(one.count for one in asked)
    wrong: list[str] = []
    if not total:
        wrong.append("nothing was asked")
    else:
        failed = sum(one.failures for one in asked) / total
        if failed > most_failures:
            wrong.append(f"{failed:.2%} of the requests failed, more than {most_failures:.2%}")
        busy = sum(one.count for one in asked if UNAVAILABLE in one.name) / total
        if busy > most_unavailable:
            wrong.append(f"{busy:.2%} of the requests were answered 503, more than {most_unavailable:.2%}")
        if not measures.booked:
            wrong.append("nothing was booked")
    wrong += [f"broken {times} times: {promise}" for promise, times in measures.broken.items()]
    if measures.raised:
        wrong.append(f"the users' own code failed {measures.raised} times")
    return Findings(rows, wrong)


def table(findings: Findings) -> list[str]:
    """The findings for a person, a line each."""
    width = max([len(row.measured.name) for row in findings.rows] + [len("request")])
    lines = [f"{'request':{width}}  {'count':>7} {'failed':>6} {'p50':>6} {'p95':>13} {'p99':>13} {'max':>7}  ms"]
    for row in findings.rows:
        one, limit = row.measured, row.limit
        p95, p99 = f"{one.p95_ms:6.0f}/{limit.p95_ms:<6.0f}", f"{one.p99_ms:6.0f}/{limit.p99_ms:<6.0f}"
        figures = f"{one.count:7} {one.failures:6} {one.p50_ms:6.0f} {p95} {p99} {one.most_ms:7.0f}"
        lines.append(f"{one.name:{width}}  {figures}  {', '.join(row.wrong) or 'holds'}")
    lines += [f"WRONG: {what}" for what in findings.wrong]
    lines.append("the thresholds hold" if findings.holds else "the thresholds are passed")
    return lines


def _row(one: Measured, limit: Limit) -> Row:
    wrong: list[str] = []
    if one.p95_ms > limit.p95_ms:
        wrong.append("p95 TOO LONG")
    if one.p99_ms > limit.p99_ms:
        wrong.append("p99 TOO LONG")
    return Row(one, limit, wrong)


def _plain(name: str) -> str:
    """A request's name without its outcome."""
    return name.partition(" [")[0]
