"""Load on a booking service, then a look at whether everything it said is true.

It goes to HOST, or to what `make run` started, or to an installation that is started for the run and removed after
it. The exit status is 1 when a threshold is passed or something is not as it was told, 2 when there was no run.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

import click

from loadtest.load.api import Api, Unanswered
from loadtest.load.installation import ROOT, NoTarget, Target, target
from loadtest.load.ledger import Ledger
from loadtest.load.thresholds import limits_from
from loadtest.load.verify import DRAIN_S, booking_verify, verify

LOCUSTFILE = ROOT / "loadtest" / "locustfile.py"
SHAPES = ("smoke", "steady", "spike", "on-sale", "soak")
# Users that are told to stop end the journey they are on.
STOP_TIMEOUT_S = 20
NO_RUN = 2


@click.command(help=__doc__)
@click.option("--shape", type=click.Choice(SHAPES), default="steady", envvar="SHAPE", show_default=True)
@click.option("--host", help="The URL of the service; without it what `make run` started, or our own.")
@click.option("--key", envvar="KEY", help="An API key without a limit; without it one is made, where that is possible.")
@click.option("--users", envvar="USERS", type=click.IntRange(1, 5_000), help="The most users; default the shape's.")
@click.option("--seconds", type=click.IntRange(1, 86_400), help="How long; default the shape's.")
@click.option("--pace", envvar="PACE", type=click.FloatRange(0.01), default=1.0, help="Seconds between journeys.")
@click.option("--limits", envvar="LIMITS", default="", help="name=p95/p99 in ms, with commas between; * is the rest.")
@click.option("--drain", default=DRAIN_S, show_default=True, help="How many seconds deliveries may take afterwards.")
@click.option("--report", type=click.Path(path_type=Path), default=Path(".data/load"), show_default=True)
@click.option("--web", is_flag=True, help="Locust's own page instead; verified when Ctrl-C ends it.")
def main(
    shape: str,
    host: str | None,
    key: str | None,
    users: int | None,
    seconds: int | None,
    pace: float,
    limits: str,
    drain: float,
    report: Path,
    web: bool,
) -> None:
    try:
        limits_from(limits, 1.0)
    except ValueError as problem:
        raise click.UsageError(str(problem)) from None
    out = report / shape
    out.mkdir(parents=True, exist_ok=True)
    for old in ("ledger.json", "verdict.json", "verify.json"):
        (out / old).unlink(missing_ok=True)
    words = ["--shape", shape, "--limits", limits, "--out", str(out)]
    words += ["--pace", str(pace), "--peak-users", str(users or 0), "--seconds", str(seconds or 0)]
    signal.signal(signal.SIGTERM, _end)
    try:
        with target(host or None, key or None) as found:
            click.echo(f"load: {shape} on {found.url}")
            code = _run_locust(found, [*words, *_form(out, web=web)])
            code = _verify(found, out, drain) or code if code != NO_RUN else code
    except NoTarget as problem:
        click.echo(f"load: {problem}", err=True)
        sys.exit(NO_RUN)
    click.echo(f"the report is in {out}")
    sys.exit(code)


def _form(out: Path, *, web: bool) -> list[str]:
    """Locust's options for a page to be looked at, or for a run that ends by itself and leaves files."""
    if web:
        return ["--web-host", "127.0.0.1"]
    return ["--headless", "--only-summary", "--html", str(out / "report.html"), "--csv", str(out / "stats")]


def _run_locust(found: Target, words: list[str]) -> int:
    """Run Locust to its end; its exit code. The key goes through the environment, where `ps` does not show it."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "KEY": found.key, "PYTHONPATH": paths}
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--host", found.url]
    command += ["--stop-timeout", str(STOP_TIMEOUT_S), *words]
    process = subprocess.Popen(command, env=environment)  # noqa: S603 - our own command, the words the caller's
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # Ctrl-C reached Locust too: it ends its users, judges and writes; so wait on.
            continue
        except SystemExit:
            process.terminate()
            process.wait()
            raise


def _verify(found: Target, out: Path, drain_s: float) -> int:
    """Look whether what was told is so; 1 when it is not."""
    try:
        with Api(found.url, found.key) as api:
            checked = verify(api, Ledger.read(out / "ledger.json"), drain_s=drain_s)
    except (Unanswered, OSError) as problem:
        click.echo(f"verify: could not look: {problem}", err=True)
        return 1
    if found.commands is None:
        click.echo("verify: the database cannot be reached from here; looked through the API alone")
    else:
        checked.wrong += booking_verify(found.commands)
        checked.counted["booking verify was run"] = 1
    (out / "verify.json").write_text(json.dumps({"counted": checked.counted, "wrong": checked.wrong}, indent=1))
    click.echo("\n".join(checked.lines()))
    return 0 if checked.holds else 1


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
