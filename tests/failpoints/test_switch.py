"""A failpoint is found once, does what its file says, and does not exist outside a test of the service."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from service.app import open_services
from service.config import Settings
from service.errors import ConfigurationError
from service.failpoints import FailpointError, Failpoints, Step
from service.operations.local_rates import RateSeen
from tests.failpoints.system import ROOT, is_stopped
from tests.servers import eventually
from tests.wishes import caller, free_starts, wish


def test_a_folder_of_failpoints_is_refused_outside_a_test(tmp_path: Path) -> None:
    for environment in ({}, {"ENVIRONMENT": "production"}):
        with pytest.raises(ConfigurationError, match=r"^FAILPOINTS_DIR: "):
            Settings.from_environment({**environment, "FAILPOINTS_DIR": str(tmp_path)})
    settings = Settings.from_environment({"ENVIRONMENT": "test", "FAILPOINTS_DIR": str(tmp_path)})
    assert settings.failpoints_dir == tmp_path


def test_a_process_with_failpoints_in_production_does_not_start(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FAILPOINTS_DIR": str(tmp_path), "ENVIRONMENT": "production"}
    command = [sys.executable, "-m", "service.cli", "worker"]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("booking: FAILPOINTS_DIR: ")


def test_an_environment_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^ENVIRONMENT: .*production, test"):
        Settings.from_environment({"ENVIRONMENT": "staging"})
    assert Settings.from_environment({}).environment == "production"


async def test_without_a_folder_nothing_is_looked_at(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / Step.BOOKING_CLAIMED).write_text("raise")
    for environment in ("production", "test"):
        async with open_services(replace(settings, environment=environment)) as services:
            assert services.reach is None
            org = await services.roster_store.organization("demo")
            assert org is not None
            start = (await free_starts(services, org))[0]
            assert (await services.book(wish(start), caller(org), RateSeen())).body
    assert (tmp_path / Step.BOOKING_CLAIMED).exists()


async def test_a_booking_finds_what_lies_in_the_folder(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / Step.BOOKING_CLAIMED).write_text("raise")
    async with open_services(replace(settings, environment="test", failpoints_dir=tmp_path)) as services:
        org = await services.roster_store.organization("demo")
        assert org is not None
        start = (await free_starts(services, org))[0]
        with pytest.raises(FailpointError, match="booking-claimed"):
            await services.book(wish(start), caller(org), RateSeen())
        assert len(await services.grid.pending()) == 1, "it was not claimed when it broke"
        assert (await services.book(wish(start, person=1), caller(org), RateSeen())).body


async def test_of_many_who_come_by_one_finds_it(tmp_path: Path) -> None:
    (tmp_path / Step.MOVE_CLAIMED).write_text("raise\n")
    reach = Failpoints(tmp_path).reach
    found = await asyncio.gather(*(reach(Step.MOVE_CLAIMED) for _ in range(20)), return_exceptions=True)
    assert [type(one) for one in found if one is not None] == [FailpointError]
    assert (tmp_path / f"{Step.MOVE_CLAIMED}.{os.getpid()}").exists(), "nobody can tell who found it"


async def test_another_step_does_not_find_it(tmp_path: Path) -> None:
    (tmp_path / Step.MOVE_CLAIMED).write_text("raise")
    for step in set(Step) - {Step.MOVE_CLAIMED}:
        await Failpoints(tmp_path).reach(step)
    assert (tmp_path / Step.MOVE_CLAIMED).exists()


async def test_a_delay_holds_up_its_own_step_only(tmp_path: Path) -> None:
    (tmp_path / Step.CHANGE_NOTED).write_text("delay 60000")
    reach = Failpoints(tmp_path).reach
    held = asyncio.ensure_future(reach(Step.CHANGE_NOTED))
    await eventually(lambda: not (tmp_path / Step.CHANGE_NOTED).exists(), what="the delay")
    await reach(Step.CHANGE_NOTED)
    assert not held.done()
    held.cancel()


@pytest.mark.parametrize("text", ["", "explode", "delay", "delay soon", "kill 9"])
async def test_a_text_that_says_nothing_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / Step.CHANGE_NOTED).write_text(text)
    with pytest.raises(ValueError, match=r"change-noted|invalid literal"):
        await Failpoints(tmp_path).reach(Step.CHANGE_NOTED)


def coming_by(folder: Path, step: Step) -> subprocess.Popen[bytes]:
    """A process that comes by a step and says so after it."""
    code = (
        "import asyncio, pathlib; from service.failpoints import *;"
        f"asyncio.run(Failpoints(pathlib.Path({str(folder)!r})).reach(Step({str(step)!r}))); print('went on')"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)


def test_kill_ends_the_process_on_the_spot(tmp_path: Path) -> None:
    (tmp_path / Step.DELIVERY_SENT).write_text("kill")
    process = coming_by(tmp_path, Step.DELIVERY_SENT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert b"went on" not in said


async def test_a_stopped_process_goes_on_when_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / Step.DELIVERY_SENT).write_text("stop")
    process = coming_by(tmp_path, Step.DELIVERY_SENT)
    try:
        await eventually(lambda: is_stopped(process.pid), what="the stop")
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert said.endswith(b"went on\n")
