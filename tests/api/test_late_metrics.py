"""What every request changes is written down a moment later, and says the same in the end."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import Histogram

from service import metrics
from service.app import open_services
from service.config import Settings
from service.metrics import Later, Metrics, exposition

AMOUNTS = [0.0004, 0.001, 0.0011, 0.0025, 0.3, 10.0, 11.0, 0.001]
NAME = "booking_http_request_duration_seconds"


def told(series: Metrics, name: str, **labels: str) -> float | None:
    return series.registry.get_sample_value(name, labels)


async def test_durations_are_counted_as_a_histogram_counts_them() -> None:
    series = Metrics()
    plain = Histogram("plain", "the library's own", registry=series.registry, buckets=metrics._LATENCY_S)
    late = series.latency.labels("GET", "/x")
    for amount in AMOUNTS:
        plain.observe(amount)
        late.observe(amount)
    labels = {"method": "GET", "route": "/x"}
    assert told(series, f"{NAME}_count", **labels) == 0
    for amount in (0.02, 0.3):  # what was written is not written again
        series.later.write()
        assert told(series, f"{NAME}_sum", **labels) == told(series, "plain_sum")
        for bound in (*map(str, metrics._LATENCY_S), "+Inf"):
            assert told(series, f"{NAME}_bucket", le=bound, **labels) == told(series, "plain_bucket", le=bound), bound
        plain.observe(amount)
        late.observe(amount)
    series.later.write()
    other = series.latency.labels("GET", "/y")
    other.observe(1.0)
    series.later.write()
    assert told(series, f"{NAME}_count", **labels) == len(AMOUNTS) + 2
    assert told(series, f"{NAME}_count", method="GET", route="/y") == 1


async def test_requests_in_flight_are_shown_in_the_end_and_to_who_looks() -> None:
    series = Metrics()
    for _ in range(3):
        series.in_flight.inc()
    series.in_flight.dec()
    assert told(series, "booking_http_requests_in_flight") == 0
    assert b"booking_http_requests_in_flight 2.0" in exposition(series)
    series.in_flight.dec()
    assert told(series, "booking_http_requests_in_flight") == 2
    await asyncio.sleep(2 * metrics.SHOWN_AFTER_S)
    assert told(series, "booking_http_requests_in_flight") == 1
    series.in_flight.dec()
    await asyncio.sleep(2 * metrics.SHOWN_AFTER_S)
    assert told(series, "booking_http_requests_in_flight") == 0


async def test_claims_are_counted_each_in_its_series_and_once() -> None:
    series = Metrics()
    claimed, taken = (series.claims.labels(outcome) for outcome in ("claimed", "taken"))
    for counter in (claimed, taken, claimed):
        counter.inc()
    assert told(series, "booking_claims_total", outcome="claimed") == 0
    series.later.write()
    series.later.write()  # what was written is not written again
    assert told(series, "booking_claims_total", outcome="claimed") == 2
    taken.inc()
    shown = exposition(series)
    assert b'booking_claims_total{outcome="claimed"} 2.0' in shown
    assert b'booking_claims_total{outcome="taken"} 2.0' in shown


async def test_what_a_process_has_counted_is_written_before_it_ends(settings: Settings) -> None:
    async with open_services(settings) as services:
        claimed = services.metrics.claims.labels("claimed")
        before = told(services.metrics, "booking_claims_total", outcome="claimed") or 0.0
        claimed.inc()
    assert told(services.metrics, "booking_claims_total", outcome="claimed") == before + 1


async def test_one_that_cannot_be_written_does_not_keep_the_others() -> None:
    later, written = Later(), list[str]()

    def fails() -> None:
        raise OSError("no space")

    for write in (lambda: written.append("before"), fails, lambda: written.append("after")):
        later.soon(write)
    with pytest.raises(OSError, match="no space"):
        later.write()
    assert sorted(written) == ["after", "before"]
    later.write()
    assert len(written) == 2
