"""`python -m tests.faults`: faults on a real installation under load, and whether every promise held.

Each seed is a run of its own: a new installation, its schedule of faults, its checks. The exit status is 1 when a check
fails, a fault was not met by anything, or a path that only trouble takes was never taken.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
import msgspec

from tests.faults.history import History
from tests.faults.rare import rare_paths
from tests.faults.report import fault_table, write_report
from tests.faults.run import Result, run
from tests.faults.schedule import FAULTS, draw, named
from tests.servers import folder_of_its_own

ROOT = Path(__file__).resolve().parents[2]
_LOGS = ("up.log", "skewed_worker.log", "servers/postgres.log", "servers/redis.log")


@click.command(help=__doc__)
@click.option("--seeds", default="1", help="Numbers with commas between them: one run each.", show_default=True)
@click.option("--seconds", default=130.0, help="How long each run's load lasts.", show_default=True)
@click.option("--servers", type=click.Choice(["embedded", "debian"]), default="embedded", show_default=True)
@click.option("--cluster", is_flag=True, help="Redis as a cluster of one node.")
@click.option("--clients", default=24, help="How many clients there are.", show_default=True)
@click.option("--faults", default="", help="Only these, with commas between them; default all.")
@click.option("--report", type=click.Path(path_type=Path), default=Path(".data/faults"), show_default=True)
def main(seeds: str, seconds: float, servers: str, cluster: bool, clients: int, faults: str, report: Path) -> None:
    chosen = named(faults.split(",")) if faults else FAULTS
    numbers = [int(number) for number in seeds.split(",")]
    results: list[Result] = []
    for seed in numbers:
        click.echo(f"seed {seed}: {seconds:.0f} s, {servers} servers{', cluster' if cluster else ''}")
        results.append(asyncio.run(_one(seed, seconds, report, servers, cluster, clients, chosen)))
        _tell(results[-1])
    met = {span.name for result in results for span in result.spans}
    rare = rare_paths([result.final for result in results]) if met == {fault.name for fault in FAULTS} else None
    asked = f"python -m tests.faults {' '.join(sys.argv[1:])}".replace(f" --report {report}", "")
    facts = [f"`{asked}`", f"commit {_commit()}", *_surroundings(results)]
    write_report(report, facts, results, rare)
    click.echo("\n".join(fault_table(results)))
    never = [name for name, count in (rare or {}).items() if not count]
    for name in never:
        click.echo(f"never taken: {name}")
    click.echo(f"the report is {report / 'report.md'}")
    sys.exit(0 if all(result.holds for result in results) and not never else 1)


async def _one(
    seed: int, seconds: float, report: Path, servers: str, cluster: bool, clients: int, faults: Sequence[object]
) -> Result:
    """One run. SIGTERM ends it like Ctrl-C: what it started is stopped."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    rounds = draw(seed, seconds, [fault for fault in FAULTS if fault in faults])
    with folder_of_its_own() as folder:
        keep = report / f"seed-{seed}"
        shutil.rmtree(keep, ignore_errors=True)
        try:
            result = await run(
                seed, rounds, seconds, folder, servers=servers, cluster=cluster, clients=clients, say=click.echo
            )
        except BaseException:
            _keep_logs(folder, keep)
            raise
        if not result.holds:
            _keep_logs(folder, keep)
            _keep_history(result.history, keep)
        return result


def _tell(result: Result) -> None:
    click.echo(", ".join(f"{count} {name}" for name, count in result.totals().items()))
    for check, found in result.findings.items():
        click.echo(f"  {check} {'holds' if not found else f'FAILS, {len(found)} findings'}")
        for finding in found[:5]:
            click.echo(f"     {finding.what} {finding.operations}")
    for line in result.differences:
        click.echo(f"     {line}")


def _keep_logs(folder: Path, keep: Path) -> None:
    """Copy what a failed run leaves to be read."""
    keep.mkdir(parents=True, exist_ok=True)
    for name in _LOGS:
        if (folder / name).exists():
            shutil.copy(folder / name, keep / Path(name).name)


def _keep_history(history: History, keep: Path) -> None:
    """One line of JSON an operation."""
    with (keep / "history.jsonl").open("wb") as file:
        for operation in history.operations:
            file.write(msgspec.json.encode({**asdict(operation), "raw": None}) + b"\n")


def _commit() -> str:
    """The checkout's commit, and whether it is that very commit."""
    try:
        words = ["git", "describe", "--always", "--dirty=, with changes", "--exclude=*"]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _surroundings(results: Sequence[Result]) -> list[str]:
    machine = (
        f"{os.cpu_count()} processors ({platform.machine()}), {platform.system()}, Python {platform.python_version()}"
    )
    return [machine, *sorted({result.servers for result in results})]


if __name__ == "__main__":
    main()
