"""`python -m tests.faults.mutants`: copies of the service with one promise broken each, and the check that notices.

A mutant is the service with one piece of its text replaced, or with a statement after the migrations. It runs for some
seconds under the faults that make its mistake show, in a folder of its own; it must fail the check that is named for
it. One that passes says that the checks, the load or the faults are too weak.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from tests.servers import folder_of_its_own

ROOT = Path(__file__).resolve().parents[2]
LAST_MIGRATION = "service/db/migrations/9999_mutant.sql"
_COPIED = ("service", "lua", "tests")
_ENDS_WITHIN_S = 240.0


@dataclass(frozen=True)
class Edit:
    """A piece of a file's text that is there exactly once, and what it becomes."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """What is broken, the faults it is run under (names of the schedule's, or of `mutants_run`), who notices."""

    name: str
    promise: str
    edits: tuple[Edit, ...]
    faults: tuple[str, ...]
    check: str
    seconds: float = 16.0
    sql: str = ""


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "constraint_dropped",
        "Postgres refuses what overlaps, whatever the gate believes",
        (
            Edit(
                "lua/claim_slot.lua",
                "free = band(free, bnot(bor(one, two, three)))",
                "free = band(free, members)",
            ),
            Edit(
                "lua/claim_slot.lua",
                "free = band(free, bnot(word_at(occupied, at + row * width)))",
                "free = band(free, members)",
            ),
        ),
        (),
        "C1",
        sql="ALTER TABLE appointments DROP CONSTRAINT appointments_no_overlap_per_coach;\n"
        "DROP INDEX appointments_one_live_per_coach_and_time;\n",
    ),
    Mutant(
        "blind_release",
        "a token frees its time once, and never what somebody else took since",
        (Edit("lua/release_claim.lua", "  call('HDEL', pending, token)\n  return 'released'", "  return 'released'"),),
        (),
        "C9",
        seconds=20.0,
    ),
    Mutant(
        "ack_before_send",
        "an event is done when it was heard",
        (
            Edit(
                "service/delivery/dispatcher.py",
                "        told = await self._tell(due, number)\n",
                "        self._sent = asyncio.ensure_future(self._tell(due, number))\n"
                "        told = Told(outcome=Outcome.DELIVERED)\n",
            ),
        ),
        ("crm_reset", "kill_worker"),
        "C7",
    ),
    Mutant(
        "no_fingerprint",
        "a key stands for one request",
        (
            Edit(
                "lua/claim_slot.lua",
                "  if string.sub(value, 2, 33) ~= idempotency[2] then return 'reused' end\n",
                "",
            ),
            Edit(
                "service/operations/book.py",
                " or fingerprint.hex() != request.fingerprint:",
                ":",
            ),
        ),
        (),
        "C4",
        seconds=12.0,
    ),
    Mutant(
        "release_on_timeout",
        "a claim whose commit is unknown stays pending",
        (
            Edit(
                "service/operations/book.py",
                "will be known to the reconciler, not to us.\n            self._metrics.unknown_commits.inc()\n",
                "will be known to the reconciler, not to us.\n            self._metrics.unknown_commits.inc()\n"
                "            await self._release(request, plan, appointment)\n",
            ),
        ),
        ("every_commit_cut", "every_commit_cut"),
        "C9",
    ),
    Mutant(
        "read_instead_of_insert",
        "an unknown commit is resolved by writing it again, never by reading",
        (
            Edit(
                "service/db/commit.py",
                "                await self._drop()\n                if attempt == ATTEMPTS:\n",
                "                await self._drop()\n"
                "                if not isinstance(problem, Unavailable):\n"
                "                    return await self._read(bookings)\n"
                "                if attempt == ATTEMPTS:\n",
            ),
            Edit(
                "service/db/commit.py",
                "    async def _alone(",
                "    async def _read(self, bookings: list[NewBooking]) -> Sequence[Committed | BookingError]:\n"
                "        await self._statement()\n"
                "        found = await _explain(self._connection, bookings, ())\n"
                "        return [\n"
                '            Unavailable("it is not there")\n'
                "            if found[b.appointment.appointment_id].outcome is CommitOutcome.LOST\n"
                "            else found[b.appointment.appointment_id]\n"
                "            for b in bookings\n"
                "        ]\n\n"
                "    async def _alone(",
            ),
        ),
        ("cut_while_it_commits", "cut_while_it_commits"),
        # What was taken for never written has been released, and is there: the grid does not show it.
        "C9",
    ),
    Mutant(
        "settle_before_commit",
        "nothing is settled that is not committed",
        (
            Edit(
                "service/operations/book.py",
                "            committed = await self._committer.commit(booking)\n",
                "            await self._settle(request, plan, appointment, body)\n"
                "            committed = await self._committer.commit(booking)\n",
            ),
        ),
        ("kill_api", "postgres_refuse", "kill_api", "postgres_refuse"),
        "C2",
        seconds=24.0,
    ),
    Mutant(
        "refused_from_memory",
        "what was refused is refused again until something is freed, and no longer",
        (Edit("lua/still_taken.lua", " and revision - tonumber(head[3] or 0) == freed", ""),),
        (),
        "C6",
        seconds=20.0,
    ),
    Mutant(
        "announced_before_commit",
        "nothing is announced that is not committed",
        (
            Edit(
                "service/operations/change.py",
                "            if await self._appointments.change(change) is ChangeOutcome.DONE:\n",
                "            await self._settle.announce(after, step.kind)\n"
                "            if await self._appointments.change(change) is ChangeOutcome.DONE:\n",
            ),
        ),
        ("slow_commit", "slow_commit"),
        "C8",
        seconds=20.0,
    ),
)


def make(mutant: Mutant, folder: Path) -> None:
    """Copy the service and its tests, with the change. Raises AssertionError when the text is not there once."""
    for name in _COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in mutant.edits:
        path = folder / edit.path
        text = path.read_text()
        assert text.count(edit.old) == 1, f"{mutant.name}: {edit.path} has {text.count(edit.old)} of {edit.old!r}"
        path.write_text(text.replace(edit.old, edit.new))
    if mutant.sql:
        (folder / LAST_MIGRATION).write_text(mutant.sql)


async def findings_of(mutant: Mutant, servers: str, seed: int) -> dict[str, list[str]]:
    """Run a mutant and say what each check found. Raises AssertionError when the run itself failed."""
    with folder_of_its_own() as folder:
        make(mutant, folder)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.mutants_run", mutant.name, servers, str(seed)),
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), _ENDS_WITHIN_S)
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
    assert process.returncode == 0, f"{mutant.name} was not run to its end:\n{err.decode()[-3000:]}"
    return json.loads(out.decode().splitlines()[-1])


def named(names: Sequence[str]) -> list[Mutant]:
    """The mutants of these names, in their order; all where none is named."""
    found = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    unknown = set(names) - {mutant.name for mutant in found}
    if unknown:
        raise click.BadParameter(f"no such mutant: {', '.join(sorted(unknown))}")
    return found


@click.command(help=__doc__)
@click.argument("names", nargs=-1)
@click.option("--servers", type=click.Choice(["embedded", "debian"]), default="embedded", show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(names: tuple[str, ...], servers: str, seed: int) -> None:
    """Run them one after the other; the exit status is 1 when one was not noticed by its check."""
    missed: list[str] = []
    for mutant in named(names):
        found = asyncio.run(findings_of(mutant, servers, seed))
        noticed = {check: len(what) for check, what in found.items() if what}
        click.echo(f"{mutant.name:26} {mutant.check:4} {'caught' if mutant.check in noticed else 'MISSED'}  {noticed}")
        for what in found.get(mutant.check, ())[:1]:
            click.echo(f"    {what[:200]}")
        if mutant.check not in noticed:
            missed.append(mutant.name)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
