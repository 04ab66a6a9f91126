"""What Locust loads: the users, the chosen shape, the options, and the judgement at the end.

`make load` starts it, prepares what it needs and verifies afterwards. By hand, with Locust's own page:
`KEY=… .venv/bin/locust -f loadtest/locustfile.py --host http://localhost:3000`.
"""

from __future__ import annotations

from typing import Any

from locust import events
from locust.env import Environment

from loadtest.load.options import add_options
from loadtest.load.run import Runs
from loadtest.load.shapes import ChosenShape
from loadtest.load.users import Booker, Browser, Canceller, Rebooker

__all__ = ["Booker", "Browser", "Canceller", "ChosenShape", "Rebooker"]

events.init_command_line_parser.add_listener(add_options)


@events.init.add_listener
def prepare(environment: Environment, **_: Any) -> None:
    """Bind the run to this Locust: it begins with the load and is judged when Locust quits."""
    runs = Runs(environment)
    environment.booking_runs = runs  # type: ignore[attr-defined]  # Locust hands users nothing but the environment
    environment.events.test_start.add_listener(runs.begin)
    environment.events.spawning_complete.add_listener(runs.open_doors)
    environment.events.quitting.add_listener(runs.end)
    environment.events.quit.add_listener(runs.tell)
