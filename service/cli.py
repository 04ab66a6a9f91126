"""The commands of `booking`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.config import Settings
from service.errors import BookingError, ConfigurationError
from service.logs import configure_logging

if TYPE_CHECKING:  # a command imports what it needs: a mock that imports all starts in twice the time
    from service.app import Services
    from service.db.organizations import OrganizationRecord
    from service.operations.seed_clinic import SeedClinic

SCOPES = ("read", "write", "admin")


# `booking up` is for one machine, where whoever tries webhooks receives them on the loopback.
OF_UP = {"WEBHOOK_ALLOW_PRIVATE": "true"}


def settings_for(process: str, *, log_level: str | None = None, usual: Mapping[str, str] | None = None) -> Settings:
    """The settings of the environment, completed by what a running `booking up` on DATA_DIR says.

    `usual` are values of the command where the environment says nothing.
    """
    settings = Settings.from_environment(usual=usual)
    configure_logging(log_level or settings.log_level, settings.log_format, process)
    return settings


def completed(settings: Settings) -> Settings:
    """Settings whose unset URLs are those of the `booking up` that runs on DATA_DIR."""
    from service.embedded import RunFile

    running = RunFile.read(settings.data_dir)
    if running is None:
        return settings
    return replace(
        settings,
        database_url=settings.database_url or running.database_url,
        redis_url=settings.redis_url or running.redis_url,
        calendar_api_url=settings.calendar_api_url or running.calendar_api_url,
        crm_webhook_url=settings.crm_webhook_url or running.crm_webhook_url,
        auth_service_url=settings.auth_service_url or running.auth_service_url,
    )


def plain_errors(work: Callable[..., None]) -> Callable[..., None]:
    """A command whose known failures end in one sentence and exit code 1 (2 for a bad setting)."""

    @functools.wraps(work)
    def wrapped(*arguments: Any, **options: Any) -> None:
        try:
            work(*arguments, **options)
        except ConfigurationError as problem:
            click.echo(f"booking: {problem.message}", err=True)
            sys.exit(2)
        except BookingError as problem:
            click.echo(f"booking: {problem.message}", err=True)
            sys.exit(1)

    return wrapped


def with_services(work: Callable[[Services], Awaitable[None]]) -> None:
    """Run short work on the services of the running installation."""
    from service.app import open_services

    async def run() -> None:
        async with open_services(completed(settings_for("cli", log_level="warning"))) as services:
            await work(services)

    asyncio.run(run())


@click.group()
def main() -> None:
    """The booking service."""


@main.command()
@plain_errors
def up() -> None:
    """Start everything in the foreground: servers, mocks, worker and API."""
    from service.up import up as start

    start(settings_for("up", usual=OF_UP))


@main.command()
@plain_errors
def serve() -> None:
    """Start the API processes."""
    from service.up import serve as start

    start(_with_servers(settings_for("serve")))


@main.command("api-process", hidden=True)
@click.option("--fd", type=int, required=True, help="The listening socket that was handed over.")
@plain_errors
def api_process(fd: int) -> None:
    """One API process on a socket its parent bound."""
    from service.api_process import api_process as run
    from service.processes import until_told

    settings = settings_for("api")
    listening = socket.socket(fileno=fd)
    until_told(lambda stop: run(settings, listening, stop))


@main.command()
@plain_errors
def worker() -> None:
    """Start the background worker: deliveries, incoming events, calendar sync, watch over the grid."""
    from service.processes import until_told
    from service.worker_process import worker_process

    settings = _with_servers(settings_for("worker"))
    for variable, url in (
        ("CALENDAR_API_URL", settings.calendar_api_url),
        ("CRM_WEBHOOK_URL", settings.crm_webhook_url),
    ):
        if url is None:
            raise ConfigurationError(f"{variable}: not set, and no `booking up` runs on DATA_DIR")
    _give_way(settings.worker_niceness)
    until_told(lambda stop: worker_process(settings, stop))


def _give_way(niceness: int) -> None:
    """Let others go first. Linux shares out among sessions before it looks at processes, and this has its own."""
    os.nice(niceness)
    with contextlib.suppress(OSError):  # not every kernel groups by session
        Path("/proc/self/autogroup").write_text(str(niceness))


@main.command("fetch-calendars", hidden=True)
@plain_errors
def fetch_calendars() -> None:
    """Fetch every external calendar once, if that was not done lately; gives up after some seconds."""
    from service.up import CALENDARS_WITHIN_S
    from service.worker_process import fetch_calendars as run

    settings = _with_servers(settings_for("fetch-calendars"))

    async def within_limits() -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(run(settings), CALENDARS_WITHIN_S)

    asyncio.run(within_limits())


@main.command()
@click.argument("which", type=click.Choice(["calendar", "crm", "auth", "all"]), default="all")
@plain_errors
def mock(which: str) -> None:
    """Start mocks of the outside services."""
    from service.mocks.server import ALL, run_mocks
    from service.processes import until_told

    settings = settings_for(f"mock-{which}")
    until_told(lambda stop: run_mocks(settings, stop, only=ALL if which == "all" else frozenset({which})))


@main.command()
@plain_errors
def migrate() -> None:
    """Bring the database's schema up to this release."""
    from service.db.migrate import migrate as run

    settings = _with_servers(settings_for("migrate"))
    for name in asyncio.run(run(settings.database_url or "")):
        click.echo(f"migrated: {name}")
    click.echo("the schema is up to date")


@main.command()
@click.option("--clinic", is_flag=True, help="Load a clinic into an organization of its own instead.")
@plain_errors
def seed(clinic: bool) -> None:
    """Load the sample data, once."""
    if clinic:
        with_services(_seed_clinic)
        return
    from service.app import default_slot
    from service.db.connection import Database
    from service.db.sample import load_sample

    settings = _with_servers(settings_for("seed"))

    async def run() -> bool:
        database = Database(settings.database_url or "")
        await database.open()
        try:
            return await load_sample(database, default_slot(settings))
        finally:
            await database.close()

    click.echo("sample data loaded" if asyncio.run(run()) else "the sample data was there already")


async def _seed_clinic(services: Services) -> None:
    from service.operations.seed_clinic import APPOINTMENTS, CLINIC, STEPS

    with click.progressbar(length=STEPS, label="loading the clinic", file=sys.stderr) as bar:
        added = await clinic_of(services)(lambda: bar.update(1))
    if added:
        click.echo(f"the clinic and its {APPOINTMENTS} appointments are loaded, in the organization {CLINIC}")
    else:
        click.echo("the clinic was there already")


def clinic_of(services: Services) -> SeedClinic:
    """The operation that loads the clinic."""
    from service.db.organizations import OrganizationStore
    from service.db.people import PeopleStore
    from service.operations.change_roster import ChangeRoster
    from service.operations.create_organization import CreateOrganization
    from service.operations.manage_calendars import ManageCalendars
    from service.operations.manage_coaches import ManageCoaches
    from service.operations.manage_contacts import ManageContacts
    from service.operations.seed_clinic import SeedClinic

    people, tasks = PeopleStore(services.database), services.tasks
    change = ChangeRoster(
        people,
        rosters=services.rosters,
        keeper=services.keeper,
        heal=services.heal,
        grid=services.grid,
        clock=services.clock,
    )
    return SeedClinic(
        create=CreateOrganization(OrganizationStore(services.database), services.rosters),
        coaches=ManageCoaches(people, change, tasks),
        calendars=ManageCalendars(people, change, tasks),
        contacts=ManageContacts(people, tasks),
        roster_store=services.roster_store,
        rosters=services.rosters,
        availability=services.availability,
        appointments=services.appointments,
        book=services.book,
        change=services.change,
        clock=services.clock,
    )


@main.command()
@plain_errors
def rebuild() -> None:
    """Make Redis what Postgres says, while bookings go on."""

    async def run(services: Services) -> None:
        work = services.rebuild
        with click.progressbar(length=await work.steps(), label="rebuilding", file=sys.stderr) as bar:
            repaired = await work(lambda _: bar.update(1))
        click.echo(f"rebuilt; {repaired} cells, counts and deficits put right")

    with_services(run)


@main.command()
@plain_errors
def verify() -> None:
    """Check that nothing overlaps and that Redis equals Postgres; exit code 1 when not."""

    async def run(services: Services) -> None:
        work = services.rebuild
        with click.progressbar(length=await work.steps(), label="verifying", file=sys.stderr) as bar:
            findings = await work.verify(lambda _: bar.update(1))
        for found in findings:
            click.echo(
                f"{found.organization}: {found.overlaps} overlaps, {found.differences} differences, "
                f"{found.unknown_days} days not in Redis, deficits sum to {found.deficit_sum}, "
                f"{found.deficit_differences} deficits differ"
            )
        if not all(found.holds for found in findings):
            sys.exit(1)
        click.echo("holds")

    with_services(run)


@main.group()
def keys() -> None:
    """API keys."""


@keys.command("create")
@click.option("--name", required=True, help="What the key is called in events and logs.")
@click.option("--scopes", default="read", show_default=True, help="Some of read,write,admin, with commas between.")
@click.option("--rate-limit", type=click.IntRange(0), help="Requests a window; 0 for no limit.")
@click.option("--organization", help="Whose key it is; default DEFAULT_ORGANIZATION.")
@plain_errors
def create_key(name: str, scopes: str, rate_limit: int | None, organization: str | None) -> None:
    """Make a key and print it, once: only its hash is kept."""
    wanted = _scopes(scopes)

    async def run(services: Services) -> None:
        owner = organization or services.settings.default_organization
        org = await services.roster_store.organization(owner)
        if org is None:
            raise ConfigurationError(f"there is no organization {owner!r}")
        await _print_new_key(services, org, name, wanted, rate_limit)

    with_services(run)


@main.group("org")
def organizations() -> None:
    """Organizations: each has its own coaches, calendars, contacts, appointments and keys."""


@organizations.command("create")
@click.option("--name", required=True, help="1 to 64 of a-z, 0-9 and -, beginning with a letter.")
@click.option("--with-key", is_flag=True, help="Make a key for it too and print it, once.")
@click.option("--key-name", help="What that key is called in events and logs; default admin.")
@click.option("--scopes", help=f"Some of {','.join(SCOPES)}, with commas between; default all of them.")
@click.option("--rate-limit", type=click.IntRange(0), help="Requests a window of that key; 0 for no limit.")
@plain_errors
def create_organization(
    name: str, with_key: bool, key_name: str | None, scopes: str | None, rate_limit: int | None
) -> None:
    """Make an organization that can be used at once, and print it; naming anything of a key makes that too."""
    from service.db.organizations import OrganizationStore
    from service.operations.create_organization import CreateOrganization

    wanted = _scopes(",".join(SCOPES) if scopes is None else scopes)
    with_key = with_key or key_name is not None or scopes is not None or rate_limit is not None

    async def run(services: Services) -> None:
        made = await CreateOrganization(OrganizationStore(services.database), services.rosters)(name)
        click.echo(_shown(made))
        if with_key:
            await _print_new_key(services, made.org, key_name or "admin", wanted, rate_limit)

    with_services(run)


@organizations.command("list")
@plain_errors
def list_organizations() -> None:
    """Print every organization."""
    from service.db.organizations import OrganizationStore

    async def run(services: Services) -> None:
        for found in await OrganizationStore(services.database).all():
            click.echo(_shown(found))

    with_services(run)


def _shown(found: OrganizationRecord) -> str:
    return (
        f"{found.name}: {found.coaches} coaches, {found.calendars} calendars, {found.keys} keys, "
        f"since {found.created_at:%Y-%m-%d}"
    )


def _scopes(text: str) -> frozenset[str]:
    """The scopes named with commas between. Raises BadParameter."""
    wanted = frozenset(word.strip() for word in text.split(",") if word.strip())
    if not wanted or not wanted <= set(SCOPES):
        raise click.BadParameter(f"some of {', '.join(SCOPES)}", param_hint="--scopes")
    return wanted


async def _print_new_key(
    services: Services, org: int, name: str, scopes: frozenset[str], rate_limit: int | None
) -> None:
    key = f"bk_{secrets.token_urlsafe(32)}"
    await services.keys.add(org, key, name, scopes, rate_limit)
    click.echo(key)


def _with_servers(settings: Settings) -> Settings:
    found = completed(settings)
    if found.database_url is None:
        raise ConfigurationError("DATABASE_URL: not set, and no `booking up` runs on DATA_DIR")
    if found.redis_url is None:
        raise ConfigurationError("REDIS_URL: not set, and no `booking up` runs on DATA_DIR")
    return found


if __name__ == "__main__":
    main()
