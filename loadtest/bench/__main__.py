"""`python -m loadtest.bench`: measure the service on this machine, beside what it is made of."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import click
import uvloop

from loadtest.bench.figures import ALL, Notebook, failed
from loadtest.bench.loads import OwnLoad, WrkLoad
from loadtest.bench.report import RESULTS, parts, table, write_report
from loadtest.bench.run import Run
from loadtest.bench.size import full, quick
from loadtest.bench.surroundings import of_machine
from loadtest.bench.truth import Untrue
from loadtest.bench.wrk import wrk_binary
from service.logs import configure_logging
from service.processes import allow_open_files

DATA = Path(".data/bench")
REPORT = Path("loadtest")
_QUICK_CLIENTS = 8


@click.command(help=__doc__)
@click.option("--figures", default=",".join(ALL), help="With commas between them.", show_default=True)
@click.option("--repeats", default=3, help="How often each is measured.", show_default=True)
@click.option("--seconds", default=8.0, help="How long each load lasts.", show_default=True)
@click.option("--quick", "hasty", is_flag=True, help="A few requests of each, which prove the way and no speed.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    help=f"Folder for it.  [default: {REPORT}; of a part, or a quick one, that of --data]",
)
@click.option("--data", type=click.Path(path_type=Path), default=DATA, help="Folder for servers.", show_default=True)
@click.option("--servers", type=click.Choice(["embedded", "debian"]), default="embedded", show_default=True)
def main(
    figures: str, repeats: int, seconds: float, hasty: bool, report: Path | None, data: Path, servers: str
) -> None:
    chosen = [word.strip() for word in figures.split(",")]
    unknown = sorted(set(chosen) - set(ALL))
    if unknown:
        raise click.BadParameter(f"there is no {', '.join(unknown)}", param_hint="--figures")
    configure_logging("error", "console", "bench")
    machine = of_machine(f"python -m loadtest.bench {' '.join(sys.argv[1:])}".strip())
    notebook = Notebook()
    allow_open_files()  # the buyers of B11 come at once, each with a connection
    try:
        run = Run(
            folder=data.resolve(),
            servers=servers,
            size=quick() if hasty else full(repeats, seconds),
            load=OwnLoad(quick().requests or 0, _QUICK_CLIENTS) if hasty else _wrk(),
            figures=chosen,
            notebook=notebook,
            say=lambda text: click.echo(text, err=True),
        )
        uvloop.run(_until_told(run))
    except (Untrue, RuntimeError, OSError) as problem:
        if notebook.measured:
            _show(notebook, chosen)
        click.echo(f"bench: {problem or type(problem).__name__}", err=True)
        sys.exit(1)
    _show(notebook, chosen)
    # What is published is of a whole run.
    report = report or (REPORT if set(chosen) == set(ALL) and not hasty else data)
    write_report(report, notebook, chosen, [*machine, *run.facts])
    click.echo(f"the report is {report / RESULTS}")
    sys.exit(0 if hasty or not failed(notebook, chosen) else 1)


def _show(notebook: Notebook, chosen: list[str]) -> None:
    click.echo("\n".join((*table(notebook, chosen), "", *parts(notebook, chosen))))


def _wrk() -> WrkLoad:
    wrk_binary()
    return WrkLoad()


async def _until_told(run: Run) -> None:
    """SIGTERM ends it like Ctrl-C: what it started is stopped."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await run.measure()


if __name__ == "__main__":
    main()
