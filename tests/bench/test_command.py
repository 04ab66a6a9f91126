"""What `make bench` shows when it ends early, and which report is published."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from loadtest.bench.__main__ import main
from loadtest.bench.figures import ALL
from loadtest.bench.report import RESULTS
from loadtest.bench.run import Run
from loadtest.bench.truth import Untrue


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder it runs in; the log of the tests stays as it is."""
    monkeypatch.setattr("loadtest.bench.__main__.configure_logging", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bench(monkeypatch: pytest.MonkeyPatch, *words: str, problem: Exception | None = None) -> Result:
    """A run that measures B2 and then meets a problem."""

    async def measure(run: Run) -> None:
        run.notebook.note("B2", "ones", 4.5, by_ones_a_second=1.0)
        if problem is not None:
            raise problem

    monkeypatch.setattr(Run, "measure", measure)
    return CliRunner().invoke(main, ["--data", "servers", *words], catch_exceptions=False)


@pytest.mark.parametrize("problem", [Untrue("2 rows too few"), RuntimeError("a server ended"), OSError("no room")])
def test_what_was_measured_before_a_problem_is_shown_and_not_published(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    ended = bench(monkeypatch, "--quick", problem=problem)
    assert ended.exit_code == 1
    assert "| 4.5 " in ended.output
    assert f"bench: {problem}" in ended.output
    assert not list(elsewhere.rglob(RESULTS))


@pytest.mark.parametrize("words", [("--quick",), ("--quick", "--figures", "B2"), ("--quick", "--report", "mine")])
def test_a_part_or_a_quick_one_is_not_published(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    assert bench(monkeypatch, *words).exit_code == 0
    where = "mine" if "mine" in words else "servers"
    assert [file.relative_to(elsewhere) for file in elsewhere.rglob(RESULTS)] == [Path(where) / RESULTS]


@pytest.mark.parametrize(("figures", "where"), [(",".join(ALL), "loadtest"), ("B2,B13", "servers")])
def test_a_whole_run_is_published(elsewhere: Path, monkeypatch: pytest.MonkeyPatch, figures: str, where: str) -> None:
    monkeypatch.setattr("loadtest.bench.__main__.wrk_binary", lambda: "wrk")
    bench(monkeypatch, "--figures", figures)
    assert [file.relative_to(elsewhere) for file in elsewhere.rglob(RESULTS)] == [Path(where) / RESULTS]
