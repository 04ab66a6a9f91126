"""What a run can be told, on Locust's command line, in the environment, or on Locust's own page."""

from __future__ import annotations

from typing import Any

from loadtest.load.shapes import SHAPES, Steady


def add_options(parser: Any, **_: Any) -> None:
    """Ours beside Locust's. The environment's names are those of `make load`."""
    add = parser.add_argument
    add("--shape", env_var="SHAPE", choices=sorted(SHAPES), default=Steady.name, help="which shape")
    add("--peak-users", env_var="USERS", type=int, default=0, help="the most users; 0: the shape's")
    add("--seconds", env_var="SECONDS", type=int, default=0, help="how long; 0: as long as the shape's")
    add("--pace", env_var="PACE", type=float, default=1.0, help="each user's journeys are due so many seconds apart")
    add(
        "--limits",
        env_var="LIMITS",
        default="",
        help="name=p95/p99 in milliseconds, with commas between; * is every other name",
    )
    add("--most-failures", type=float, default=0.0, help="the part of the requests that may fail")
    add("--most-unavailable", type=float, default=-1.0, help="the part that may be 503; below 0 the shape's")
    add("--key", env_var="KEY", default="", include_in_web_ui=False, help="the API key")
    add("--out", default=".data/load", include_in_web_ui=False, help="where verdict.json and ledger.json are written")
