"""One run of Locust: what its users share, made when the load begins and judged when Locust ends."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import gevent
import gevent.event
from locust.env import Environment

from loadtest.load.api import Api
from loadtest.load.ledger import Ledger
from loadtest.load.thresholds import JOURNEY, Findings, Limit, Measured, Measures, judge_run, limits_from, table
from loadtest.load.world import World, first_starts, read_world, run_name

LEDGER, VERDICT = "ledger.json", "verdict.json"


class Run:
    """The world, the ledger, limits, and what was seen broken; `doors` are shut while a sale has not begun."""

    def __init__(self, world: World, few: list[str], ledger: Ledger, limits: dict[str, Limit], *, shut: bool) -> None:
        self.world = world
        self.few = few
        self.ledger = ledger
        self.limits = limits
        self.broken: Counter[str] = Counter()
        self.booked: Counter[str] = Counter()
        self.doors = gevent.event.Event()
        if not shut:
            self.doors.set()


class Runs:
    """The run of one Locust process: begins with the load, is judged at the end."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.now: Run | None = None
        # One for all: on Locust's own page a load can be begun again, and what the first was told still counts.
        self._ledger = Ledger(f"{run_name()}.example.com")
        self._findings: Findings | None = None

    @property
    def current(self) -> Run:
        """The run that is on."""
        assert self.now is not None, "the load has not begun"
        return self.now

    def begin(self, environment: Environment, **_: Any) -> None:
        """Look at what there is to book. A run that cannot begin is over at once; headless it ends with code 2."""
        options: Any = environment.parsed_options
        shape: Any = environment.shape_class
        try:
            limits = limits_from(options.limits, shape.chosen.slower)
            with Api(str(environment.host), options.key) as api:
                world = read_world(api)
                few = first_starts(api, world.few, shape.chosen.few_starts) if shape.chosen.few_starts else []
        except Exception as problem:
            environment.process_exit_code = 2
            print(f"the load cannot begin: {problem}")
            # Else the users of the shape would come, and fail, for as long as it lasts. This greenlet ends with it.
            if environment.runner is not None:
                gevent.spawn(environment.runner.stop).join()
            raise
        self.now = Run(world, few, self._ledger, limits, shut=shape.chosen.few_starts > 0)

    def open_doors(self, **_: Any) -> None:
        """Everybody is there."""
        if self.now is not None:
            self.now.doors.set()

    def end(self, environment: Environment, **_: Any) -> None:
        """Judge what was measured, keep that beside the ledger, and set the exit code."""
        if self.now is None:
            environment.process_exit_code = environment.process_exit_code or 2
            return
        if environment.runner is not None:
            # Ctrl-C on the page comes amid the load: what its users do until they end belongs to the ledger.
            environment.runner.stop()
        options: Any = environment.parsed_options
        shape: Any = environment.shape_class
        findings = judge_run(
            self._measures(),
            self.now.limits,
            most_failures=options.most_failures,
            most_unavailable=shape.chosen.most_unavailable
            if options.most_unavailable < 0
            else options.most_unavailable,
        )
        self._findings = findings
        out = Path(options.out)
        out.mkdir(parents=True, exist_ok=True)
        verdict = {
            "holds": findings.holds,
            "wrong": list(findings.wrong),
            "broken": dict(self.now.broken),
            "booked": dict(self.now.booked),
            "rows": [vars(row.measured) | {"wrong": list(row.wrong)} for row in findings.rows],
        }
        (out / VERDICT).write_text(json.dumps(verdict, indent=1))
        self.now.ledger.write(out / LEDGER)
        environment.process_exit_code = 0 if findings.holds else 1

    def tell(self, **_: Any) -> None:
        """Print the judgement, after what Locust prints."""
        if self._findings is not None:
            print("\n".join(["", *table(self._findings)]))
            runner = self._environment.runner
            if runner is not None and runner.cpu_warning_emitted:
                print("note: Locust itself was short of processor time, so some of these times are its own")

    def _measures(self) -> Measures:
        stats = self._environment.stats
        rows = [
            Measured(
                name=entry.name if entry.method != JOURNEY else f"{JOURNEY} {entry.name}",
                count=entry.num_requests,
                failures=entry.num_failures,
                p50_ms=entry.get_response_time_percentile(0.5) or 0,
                p95_ms=entry.get_response_time_percentile(0.95) or 0,
                p99_ms=entry.get_response_time_percentile(0.99) or 0,
                most_ms=entry.max_response_time or 0,
            )
            for entry in sorted(stats.entries.values(), key=lambda one: (one.method == JOURNEY, one.name))
        ]
        runner = self._environment.runner
        raised = sum(one["count"] for one in runner.exceptions.values()) if runner else 0
        run = self.current
        return Measures(rows, dict(run.broken), raised, sum(run.booked.values()))
