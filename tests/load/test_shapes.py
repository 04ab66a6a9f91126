"""The promise: every shape can be asked for, reaches the users it says, ends, and is in the README as it is.

Locust is asked in a process of its own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest

from loadtest.load.__main__ import SHAPES
from tests.load.running import ROOT

ASK = """
import json
from types import SimpleNamespace
from loadtest.load import shapes

def curve(name, **given):
    chosen = shapes.ChosenShape()
    options = SimpleNamespace(**{"shape": name, "seconds": 0, "peak_users": 0, **given})
    chosen.runner = SimpleNamespace(environment=SimpleNamespace(parsed_options=options))
    ticks, second = [], 0
    while True:
        chosen.get_run_time = lambda: second
        tick = chosen.tick()
        if tick is None:
            return ticks
        ticks.append(tick[0])
        second += 1

print(json.dumps({
    name: {
        "doc": shape.__doc__, "users": shape.users, "sale": shape.few_starts > 0,
        "curve": curve(name), "given": curve(name, seconds=10, peak_users=7),
    }
    for name, shape in shapes.SHAPES.items()
}))
"""


@pytest.fixture(scope="module")
def shapes() -> dict[str, dict[str, Any]]:
    """What Locust would be told, second by second, by name."""
    asked = subprocess.run([sys.executable, "-c", ASK], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(asked.stdout)


def test_the_command_knows_every_shape_and_no_other(shapes: dict[str, dict[str, Any]]) -> None:
    assert list(shapes) == list(SHAPES)
    assert [name for name, shape in shapes.items() if shape["sale"]] == ["on-sale"]


def test_a_shape_reaches_its_users_or_those_that_were_asked_for(shapes: dict[str, dict[str, Any]]) -> None:
    for name, shape in shapes.items():
        assert max(shape["curve"]) == shape["users"], name
        assert min(shape["curve"]) >= 1, name
        assert (max(shape["given"]), len(shape["given"])) == (7, 10), name


def test_the_crowd_of_a_spike_comes_of_a_sudden_and_goes(shapes: dict[str, dict[str, Any]]) -> None:
    curve = shapes["spike"]["curve"]
    changes = [(before, after) for before, after in pairwise(curve) if before != after]
    assert changes == [(10, 200), (200, 10)]


def test_each_says_what_it_asks_and_the_readme_says_the_same(shapes: dict[str, dict[str, Any]]) -> None:
    readme = (ROOT / "loadtest" / "README.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| [^|]*?(\d+) \| (\d+) \| (.*) \|$", readme, flags=re.MULTILINE)
    told = {name: (int(users), int(seconds)) for name, users, seconds, _ in rows}
    assert told == {name: (shape["users"], len(shape["curve"])) for name, shape in shapes.items()}
    assert all("?" in shape["doc"] for shape in shapes.values())
