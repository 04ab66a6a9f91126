"""How many users there are at each moment of a run. `--shape` says which; `--peak-users` and `--seconds` stretch one.

Each asks a question of its own, and its limits are as strict as that question allows.
"""

from __future__ import annotations

from typing import Any, ClassVar

from locust import LoadTestShape


class Shape(LoadTestShape):
    """A run by seconds: the most users, how long, and how patient its thresholds are.

    `few_starts` > 0 makes it a sale: all users wait until everybody is there, and all of them want one of so many
    starts. `slower` multiplies the usual limits; `most_unavailable` is the part of the requests that may be 503.
    """

    abstract = True
    name: ClassVar[str]
    users: ClassVar[int]
    seconds: ClassVar[int]
    slower: ClassVar[float] = 1.0
    most_unavailable: ClassVar[float] = 0.01
    few_starts: ClassVar[int] = 0

    def users_at(self, part: float) -> float:  # noqa: ARG002  some come all at once
        """The part of the most users that there is after a part of the time: all at once, unless a shape says more."""
        return 1.0

    def tick(self) -> None:
        """Only the chosen one is asked, through ChosenShape."""


class Smoke(Shape):
    """Does it work at all? 11 users, four kinds of them, for 20 seconds. Its limits leave room for a cold start."""

    name = "smoke"
    users = 11
    seconds = 20
    slower = 3.0


class Steady(Shape):
    """Does an ordinary busy hour feel quick? 40 users for two minutes, there within the first tenth of it."""

    name = "steady"
    users = 40
    seconds = 120

    def users_at(self, part: float) -> float:
        """Up for a tenth of the time, then all."""
        return min(1.0, part / 0.1)


class Spike(Shape):
    """Does a crowd that comes of a sudden pass without harm? Ten users, for the middle fifth 200, then ten again.

    100 seconds. Nobody may be answered wrong, some may be asked to come again, and afterwards it is as before.
    """

    name = "spike"
    users = 200
    seconds = 100
    slower = 4.0
    most_unavailable = 0.2

    def users_at(self, part: float) -> float:
        """A twentieth, and all of them in the middle."""
        return 1.0 if 0.4 <= part < 0.6 else 0.05


class OnSale(Shape):
    """Who gets the last ones, and does everybody get an answer? 100 users want 20 starts of the smallest team at once.

    30 seconds: they gather before shut doors, then all book in the same moment and go on trying. Most answers are 409.
    """

    name = "on-sale"
    users = 100
    seconds = 30
    slower = 6.0
    most_unavailable = 0.2
    few_starts = 20


class Soak(Shape):
    """Does anything wear out: memory, connections, queues? 20 users for half an hour. Watch MONITORING.md's panels."""

    name = "soak"
    users = 20
    seconds = 1800

    def users_at(self, part: float) -> float:
        """Up for a hundredth of the time, then all."""
        return min(1.0, part / 0.01)


SHAPES: dict[str, type[Shape]] = {shape.name: shape for shape in (Smoke, Steady, Spike, OnSale, Soak)}


class ChosenShape(LoadTestShape):
    """The shape that the run was started with; on Locust's own page, the one chosen there."""

    @property
    def options(self) -> Any:
        """What Locust was started with."""
        assert self.runner is not None
        return self.runner.environment.parsed_options

    @property
    def chosen(self) -> Shape:
        """The shape itself."""
        return SHAPES[self.options.shape]()

    def tick(self) -> tuple[int, float] | None:
        """Users and how many may come a second, at this moment; None when the time is over."""
        shape, options = self.chosen, self.options
        part = self.get_run_time() / (options.seconds or shape.seconds)
        if part >= 1:
            return None
        most = options.peak_users or shape.users
        return max(1, round(most * shape.users_at(part))), float(most)
