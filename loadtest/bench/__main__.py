"""`python -m loadtest.bench`: measure the service on this machine, beside what it is made of."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from pathlib import Path

import click

from loadtest.bench.bookings import Bookings
from loadtest.bench.figures import ALL, Notebook
from loadtest.bench.place import running_place
from loadtest.bench.report import table
from loadtest.bench.truth import Untrue
from loadtest.bench.wrk import wrk_binary

DATA = Path(".data/bench")


@click.command(help=__doc__)
@click.option("--figures", default=",".join(ALL), help="With commas between them.", show_default=True)
@click.option("--repeats", default=3, help="How often each is measured.", show_default=True)
@click.option("--seconds", default=8.0, help="How long each load lasts.", show_default=True)
@click.option("--servers", type=click.Choice(["embedded", "debian"]), default="embedded", show_default=True)
def main(figures: str, repeats: int, seconds: float, servers: str) -> None:
    chosen = [word.strip() for word in figures.split(",")]
    unknown = sorted(set(chosen) - set(ALL))
    if unknown:
        raise click.BadParameter(f"there is no {', '.join(unknown)}", param_hint="--figures")
    notebook = Notebook()
    try:
        wrk_binary()
        asyncio.run(_measure(notebook, chosen, repeats, seconds, servers))
    except (Untrue, RuntimeError) as problem:
        click.echo(f"bench: {problem}", err=True)
        sys.exit(1)
    click.echo("\n".join(table(notebook, chosen)))


async def _measure(notebook: Notebook, figures: list[str], repeats: int, seconds: float, servers: str) -> None:
    """All figures on one installation. SIGTERM ends it like Ctrl-C: what it started is stopped."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    shutil.rmtree(DATA, ignore_errors=True)
    DATA.mkdir(parents=True)
    try:
        async with running_place(DATA.resolve(), servers=servers) as place:
            bookings = Bookings(place, notebook, seconds)
            for repeat in range(1, repeats + 1):
                click.echo(f"repeat {repeat} of {repeats}", err=True)
                if {"B1", "B8"} & set(figures):
                    await bookings.against_postgres(repeat)
    finally:
        shutil.rmtree(DATA, ignore_errors=True)


if __name__ == "__main__":
    main()
