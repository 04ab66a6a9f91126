"""What the service measures, as Prometheus series. MONITORING.md says of each what to do about it.

Label children are bound once, because looking one up costs a microsecond; route templates are labels, ids
never. With several processes on one machine the values meet in PROMETHEUS_MULTIPROC_DIR, which must be set
before this module is imported; gauges of shared state are set by whoever looked last.
"""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_left
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

MULTIPROC_DIR = "PROMETHEUS_MULTIPROC_DIR"
_LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SHOWN_AFTER_S = 0.05
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Later:
    """Changes that are written down together, at most `SHOWN_AFTER_S` late.

    Each change of a value is a write into memory that processes share, under a lock, and some every request makes. What
    was not written when a process is killed is lost: so it is for what has no use as an exact count.
    """

    def __init__(self) -> None:
        self._waiting: list[Callable[[], None]] = []

    def soon(self, write: Callable[[], None]) -> None:
        """Call `write` in a moment."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(SHOWN_AFTER_S, self.write)
        self._waiting.append(write)

    def write(self) -> None:
        """Write what waits, each also when another cannot be written."""
        waiting, self._waiting = self._waiting, []
        with ExitStack() as all_of_them:
            for write in waiting:
                all_of_them.callback(write)


class LateCounter(Counter):
    """A counter whose increments are put together before they are written down."""

    def __init__(self, *given: Any, later: Later, **named: Any) -> None:
        self._later = later
        self._more = 0.0
        super().__init__(*given, **named)
        self._kwargs["later"] = later  # children are made with it

    def inc(self, amount: float = 1, exemplar: dict[str, str] | None = None) -> None:
        """So much more; exemplars are not kept."""
        del exemplar
        if not self._more:
            self._later.soon(self._write)
        self._more += amount

    def _write(self) -> None:
        more, self._more = self._more, 0.0
        super().inc(more)


class LateGauge(Gauge):
    """A gauge without labels whose changes are put together before they are written down."""

    def __init__(self, *given: Any, later: Later, **named: Any) -> None:
        self._later = later
        self._now = 0.0
        self._due = False
        super().__init__(*given, **named)

    def inc(self, amount: float = 1) -> None:
        """So much more."""
        self._now += amount
        if not self._due:
            self._due = True
            self._later.soon(self._write)

    def dec(self, amount: float = 1) -> None:
        """So much less."""
        self.inc(-amount)

    def _write(self) -> None:
        self._due = False
        self.set(self._now)


class LateHistogram(Histogram):
    """A histogram whose observations are put together before they are written down."""

    # The library does not say of what type its values are.
    _sum: Any
    _buckets: list[Any]

    def __init__(self, *given: Any, later: Later, **named: Any) -> None:
        self._later = later
        super().__init__(*given, **named)
        self._kwargs["later"] = later  # children are made with it

    def _metric_init(self) -> None:
        super()._metric_init()
        self._seen = [0] * len(self._upper_bounds)
        self._seconds = 0.0

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Count `amount` in its bucket; exemplars are not kept, as everywhere where processes share their values."""
        del exemplar
        if not self._seconds:
            self._later.soon(self._write)
        self._seen[bisect_left(self._upper_bounds, amount)] += 1
        self._seconds += amount

    def _write(self) -> None:
        seen, seconds = self._seen, self._seconds
        self._seen, self._seconds = [0] * len(seen), 0.0
        self._sum.inc(seconds)
        for bucket, count in zip(self._buckets, seen, strict=True):
            if count:
                bucket.inc(count)


class Metrics:
    """Every series of the service. One instance a process; `registry` is for tests that want their own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        r = self.registry
        # Written at once: what was answered is counted, also when its process is killed the moment after.
        self.requests = Counter(
            "booking_http_requests_total", "Requests answered.", ["method", "route", "status"], registry=r
        )
        self.later = Later()
        self.latency = LateHistogram(
            "booking_http_request_duration_seconds",
            "Time from a request's arrival to its answer.",
            ["method", "route"],
            buckets=_LATENCY_S,
            registry=r,
            later=self.later,
        )
        self.overload_refusals = Counter(
            "booking_overload_refusals_total",
            "Requests refused because there were more than could be answered in time.",
            ["reason"],
            registry=r,
        )
        self.intake_limit = Gauge(
            "booking_intake_limit",
            "How many requests may be in flight.",
            registry=r,
            multiprocess_mode="livesum",
        )
        self.claims = LateCounter(
            "booking_claims_total", "What the gate said of requests.", ["outcome"], registry=r, later=self.later
        )
        self.gate_batch = LateHistogram(
            "booking_gate_batch_size",
            "Requests in one script call.",
            ["kind"],
            buckets=_SIZES,
            registry=r,
            later=self.later,
        )
        self.commit_batch = LateHistogram(
            "booking_commit_batch_size", "Bookings in one commit.", buckets=_SIZES, registry=r, later=self.later
        )
        self.backstop_conflicts = Counter(
            "booking_backstop_conflicts_total", "Claims that Postgres' constraints refused.", registry=r
        )
        self.fenced_commits = Counter(
            "booking_fenced_commits_total",
            "Claims that were not committed because the grid they were made by was out of date.",
            registry=r,
        )
        self.ungated = Counter(
            "booking_ungated_total",
            "Bookings and moves that Postgres decided alone because Redis could not be asked.",
            ["operation"],
            registry=r,
        )
        self.gate_trips = Counter(
            "booking_gate_trips_total", "How often a process stopped asking Redis, by why.", ["why"], registry=r
        )
        self.gates_closed = Gauge(
            "booking_gates_closed",
            "Processes that do not ask Redis at the moment.",
            registry=r,
            multiprocess_mode="livesum",
        )
        self.grid_repairs = Counter(
            "booking_grid_repairs_total", "Notes of changes made without the grid that were repaired.", registry=r
        )
        self.grid_repairs_waiting = Gauge(
            "booking_grid_repairs_waiting",
            "Notes of changes made without the grid that wait to be repaired.",
            registry=r,
            multiprocess_mode="mostrecent",
        )
        self.unknown_commits = Counter(
            "booking_unknown_commits_total", "Commits whose answer was lost after every retry.", registry=r
        )
        self.unsettled = Counter(
            "booking_unsettled_total", "Committed changes that Redis could not be told of at once.", registry=r
        )
        self.reconciled = Counter(
            "booking_reconciled_total", "Pending claims and releases ended by the reconciler.", ["how"], registry=r
        )
        self.keyed_requests = Counter(
            "booking_keyed_requests_total",
            "Writes under an idempotency key, without bookings, by what came of them.",
            ["outcome"],
            registry=r,
        )
        self.forgotten_keys = Counter(
            "booking_idempotency_keys_forgotten_total", "Idempotency records removed after their retention.", registry=r
        )
        self.grid_differences = Counter(
            "booking_grid_differences_total", "Cells and counts in which the grid differed from Postgres.", registry=r
        )
        self.deliveries = Counter(
            "booking_deliveries_total",
            "Delivery attempts by what came of them.",
            ["destination", "outcome"],
            registry=r,
        )
        self.delivery_seconds = Histogram(
            "booking_delivery_attempt_duration_seconds",
            "Time one delivery attempt took.",
            ["destination"],
            buckets=_LATENCY_S,
            registry=r,
        )
        self.swept = Counter(
            "booking_swept_events_total",
            "Undelivered events that were not on their way and were enqueued again.",
            ["destination"],
            registry=r,
        )
        self.incoming = Counter(
            "booking_incoming_events_total", "Incoming calendar events by what came of them.", ["outcome"], registry=r
        )
        self.calendar_fetches = Counter(
            "booking_calendar_fetches_total", "Fetches of external calendars.", ["outcome"], registry=r
        )
        self.worker_failures = Counter(
            "booking_worker_loop_failures_total", "Failures of loops that are no requests.", ["loop"], registry=r
        )
        self.stream_depth = Gauge(
            "booking_stream_depth",
            "Entries of a stream that are not finished.",
            ["stream"],
            registry=r,
            multiprocess_mode="mostrecent",
        )
        self.stream_oldest_s = Gauge(
            "booking_stream_oldest_age_seconds",
            "Age of the oldest unfinished entry of a stream.",
            ["stream"],
            registry=r,
            multiprocess_mode="mostrecent",
        )
        self.stream_due = Gauge(
            "booking_stream_due", "Entries waiting for a retry.", ["stream"], registry=r, multiprocess_mode="mostrecent"
        )
        self.stream_dead = Gauge(
            "booking_stream_dead", "Dead letters of a stream.", ["stream"], registry=r, multiprocess_mode="mostrecent"
        )
        self.streams_seen = Gauge(
            "booking_streams_seen_timestamp_seconds",
            "When a worker last looked at the streams, in Unix seconds.",
            registry=r,
            multiprocess_mode="mostrecent",
        )
        self.endpoints = Gauge(
            "booking_webhook_endpoints",
            "Webhook endpoints of all organizations.",
            ["state"],
            registry=r,
            multiprocess_mode="mostrecent",
        )
        self.pending = Gauge(
            "booking_pending_claims", "Claims and releases not settled.", registry=r, multiprocess_mode="mostrecent"
        )
        self.in_flight = LateGauge(
            "booking_http_requests_in_flight",
            "Requests being answered.",
            registry=r,
            multiprocess_mode="livesum",
            later=self.later,
        )


def exposition(metrics: Metrics) -> bytes:
    """All series in Prometheus' text format: of every process when they share a folder, else of this one."""
    metrics.later.write()
    if MULTIPROC_DIR in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return generate_latest(registry)
    return generate_latest(metrics.registry)


def empty_multiprocess_folder(folder: Path) -> None:
    """Make the folder of the processes' values, without those of an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.db"):
        file.unlink()
