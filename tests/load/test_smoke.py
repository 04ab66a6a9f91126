"""The promise: the load runs against a real service, of every kind of user, and what it was told is in Postgres.

Counts and truth alone are asserted; how long anything took is not.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from loadtest.load.api import Api
from loadtest.load.world import furnish
from tests.api.stack import Stack, running
from tests.load.running import ROOT, run_load
from tests.load.stub import Stub, serving

# A standstill of the machine is no failure of the service.
WHENEVER = "*=60000/60000"
COACHES = 12
KINDS = {"browser", "booker", "rebooker", "canceller"}


async def key_of_an_organization(stack: Stack) -> str:
    """A key without a limit, with something to book."""
    ended = await stack.cli("org", "create", "--name", "load", "--with-key", "--rate-limit", "0")
    assert ended.code == 0, ended.err
    key = ended.out.split()[-1]
    with Api(stack.url, key) as api:
        await asyncio.to_thread(furnish, api, COACHES)
    return key


async def verified(stack: Stack, ledger: Path, key: str) -> tuple[int, str]:
    """What verification through the API alone says of a ledger."""
    words = ["-m", "loadtest.load.verify", "--host", stack.url, "--ledger", str(ledger), "--drain", "0"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *words,
        env={**stack.environment, "KEY": key, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


async def test_every_kind_of_user_is_served_and_every_answer_is_true(folder: Path) -> None:
    async with running(folder) as stack:
        key = await key_of_an_organization(stack)
        words = ["--host", stack.url, "--seconds", "4", "--pace", "0.5", "--limits", WHENEVER]
        ended = await run_load(folder, *words, KEY=key, DATA_DIR=stack.data_dir)

        assert ended.code == 0, ended.out
        assert "booking verify was run" in ended.out
        rows = ended.rows
        assert {name.removeprefix("JOURNEY ") for name in rows if name.startswith("JOURNEY")} == KINDS
        assert sum(row["failures"] for row in rows.values()) == 0
        for name in ("POST /api/appointments again", "DELETE /api/appointments/{id}", "PATCH /api/appointments/{id}"):
            assert rows[name]["count"] > 0, name

        ledger = ended.report / "ledger.json"
        told = Counter(entry["state"] for entry in json.loads(ledger.read_bytes())["entries"].values())
        there = {
            row["status"]: row["count"]
            for row in await stack.rows(
                "SELECT status::text, count(*) FROM appointments JOIN organizations USING (org_id)"
                " WHERE name = 'load' GROUP BY 1"
            )
        }
        # Who was cut off by the end of the run was told nothing, and may be there or not.
        doubtful = told["unknown"] + told["changing"]
        assert told["booked"] <= there["scheduled"] <= told["booked"] + doubtful
        assert told["cancelled"] <= there["cancelled"] <= told["cancelled"] + doubtful
        assert sum(there.values()) <= told["booked"] + told["cancelled"] + doubtful

        assert (await verified(stack, ledger, key))[0] == 0
        await stack.rows(
            "UPDATE appointments SET status = 'cancelled' WHERE (org_id, appointment_id) IN (SELECT org_id,"
            " appointment_id FROM appointments JOIN organizations USING (org_id)"
            " WHERE name = 'load' AND status = 'scheduled' LIMIT 1)"
        )
        code, said = await verified(stack, ledger, key)
        assert code == 1
        assert "was told as" in said


async def test_with_nothing_running_it_starts_an_installation_and_leaves_nothing(folder: Path) -> None:
    ended = await run_load(
        folder, "--seconds", "1", "--drain", "1", "--limits", WHENEVER, shape="on-sale", PORT=1, USERS=11, TMPDIR=folder
    )

    assert ended.code == 0, ended.out
    assert ended.rows["POST /api/appointments"]["count"] > 0
    assert "booking verify was run" in ended.out
    assert names_in(folder) == {"on-sale"}, "a folder was left"
    assert processes_of(folder) == [], "a process was left"
    files = {"report.html", "stats_stats.csv", "stats_stats_history.csv", "verdict.json", "verify.json"}
    assert files <= names_in(ended.report)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "http://127.0.0.1:1"], "nothing answers at http://127.0.0.1:1"),
        (["--host", "localhost:3000"], "is not an http URL"),
        (["--key", "any"], "would not know the key"),
    ],
)
async def test_where_no_load_can_go_says_why(folder: Path, words: list[str], said: str) -> None:
    ended = await run_load(folder, *words, PORT=1)
    assert (ended.code, said in ended.out) == (2, True), ended.out


async def test_a_limit_that_is_none_is_said_before_the_load(folder: Path) -> None:
    async with serving(Stub()) as stub:
        ended = await run_load(folder, "--host", stub.url, "--limits", "JOURNEY booker=fast", KEY="any")
    assert ended.code == 2
    assert "LIMITS: 'JOURNEY booker=fast' is not name=p95/p99" in ended.out
    assert not stub.asked


async def test_a_load_that_cannot_begin_does_not_last(folder: Path) -> None:
    async with serving(Stub(calendars=())) as stub:
        ended = await run_load(folder, "--host", stub.url, "--seconds", "3600", KEY="any")
    assert ended.code == 2, ended.out
    assert "the load cannot begin: the key sees no calendar" in ended.out


async def test_without_a_key_that_can_be_made_it_says_how_to_make_one(folder: Path) -> None:
    async with serving(Stub()) as stub:
        ended = await run_load(folder, "--host", stub.url, PORT=1)
    assert ended.code == 2
    assert "booking keys create --name load --scopes read,write --rate-limit 0" in ended.out


def names_in(folder: Path) -> set[str]:
    """What lies in a folder."""
    return {path.name for path in folder.iterdir()}


def processes_of(folder: Path) -> list[str]:
    """Command lines of the processes that work in a folder or below it."""
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cwd").readlink().is_relative_to(folder):
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return found
