"""An organization made by a command can be used at once, over HTTP too; the clinic is loaded once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from service.app import Services
from tests.api.client import Client
from tests.api.client import booking as wish
from tests.api_people.asking import made
from tests.api_people.conftest import served
from tests.cli import test_commands
from tests.cli.test_commands import Commands

booking = test_commands.booking
EVERYTHING = {"read", "write", "admin"}


@pytest.fixture
async def api(services: Services) -> AsyncIterator[Client]:
    """The API of a process that runs before any command does; calls need a key."""
    async with served(services) as client:
        yield client


def names(booking: Commands) -> list[str]:
    """The organizations there are."""
    listed = booking("org", "list")
    assert listed.returncode == 0, listed.stderr
    return [line.partition(":")[0] for line in listed.stdout.splitlines()]


async def open_and_book(api: Client) -> None:
    """Make a calendar and its only coach, and book the first time they are free."""
    await made(api, "/api/calendars", calendar_id="visits", name="Visits", slot_duration=60)
    await made(api, "/api/coaches", coach_id="dr-who", name="Who", email="who@example.com", calendar_ids=["visits"])
    first, *_ = await api.starts("visits")
    booked = await api.book(wish(first, "visits"))
    assert (booked.status, booked.json["coach_id"]) == (201, "dr-who")
    assert (await api("GET", "/api/appointments")).json["appointments"] == [booked.json]
    assert first not in await api.starts("visits")


async def test_a_new_organization_can_be_used_at_once_with_a_key_of_its_own(
    booking: Commands, services: Services, api: Client
) -> None:
    done = booking("org", "create", "--name", "north-clinic")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("north-clinic: 0 coaches, 0 calendars, 0 keys, since ")
    org = await services.roster_store.organization("north-clinic")
    assert org is not None
    assert await services.grid.has_roster(org) is not None
    words = ("--name", "desk", "--scopes", "read,write,admin", "--rate-limit", "0", "--organization", "north-clinic")
    key = booking("keys", "create", *words).stdout.strip()
    await open_and_book(api.with_key(key))
    listed = booking("org", "list").stdout.splitlines()
    assert [line.partition(", since ")[0] for line in listed] == [
        "demo: 6 coaches, 3 calendars, 3 keys",
        "north-clinic: 1 coaches, 1 calendars, 1 keys",
    ]
    assert booking("verify").returncode == 0


async def test_with_redis_away_an_organization_is_made_all_the_same(booking: Commands, api: Client) -> None:
    done = booking("org", "create", "--name", "dark", "--with-key", REDIS_URL="redis://127.0.0.1:9/0")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    await open_and_book(api.with_key(done.stdout.splitlines()[1]))


@pytest.mark.parametrize(
    ("words", "name", "scopes", "limit"),
    [
        (("--with-key",), "admin", EVERYTHING, None),
        (("--key-name", "desk", "--scopes", "read,write", "--rate-limit", "5"), "desk", {"read", "write"}, 5),
        (("--rate-limit", "0"), "admin", EVERYTHING, 0),
    ],
)
async def test_its_key_is_printed_once_and_belongs_to_it(
    booking: Commands, services: Services, words: tuple[str, ...], name: str, scopes: set[str], limit: int | None
) -> None:
    done = booking("org", "create", "--name", "a", *words)
    assert done.returncode == 0, done.stderr
    shown, key = done.stdout.splitlines()
    assert shown.startswith("a: ")
    record = await services.keys.find(key)
    assert record is not None
    assert record.org == await services.roster_store.organization("a")
    assert (record.name, record.scopes, record.rate_limit) == (name, scopes, limit)
    assert key not in booking("org", "list").stdout


@pytest.mark.parametrize("name", ["", "1st", "-north", "North", "north clinic", "näh", "a" * 65, "north\n", "north_1"])
def test_a_name_that_cannot_be_one_is_refused_with_what_is_allowed(booking: Commands, name: str) -> None:
    done = booking("org", "create", "--name", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "booking: name: must be 1 to 64 of the letters a-z, digits and hyphens, beginning with a letter\n"
    )
    assert names(booking) == ["demo"]


def test_the_longest_name_is_one(booking: Commands) -> None:
    longest = "z-9" + "x" * 61
    assert booking("org", "create", "--name", longest).returncode == 0
    assert names(booking) == ["demo", longest]


def test_a_taken_name_is_one_sentence_and_makes_no_key(booking: Commands) -> None:
    done = booking("org", "create", "--name", "demo", "--with-key")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "booking: an organization is called 'demo' already\n"
    assert "demo: 6 coaches, 3 calendars, 3 keys" in booking("org", "list").stdout


def test_with_scopes_that_do_not_exist_nothing_is_made(booking: Commands) -> None:
    done = booking("org", "create", "--name", "north", "--scopes", "read,fly")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--scopes" in done.stderr
    assert names(booking) == ["demo"]


def test_the_clinic_is_loaded_once_with_progress_and_verifies(booking: Commands) -> None:
    first = booking("seed", "--clinic")
    assert (first.returncode, first.stdout) == (
        0,
        "the clinic and its 50 appointments are loaded, in the organization clinic\n",
    ), first.stderr
    assert "loading the clinic" in first.stderr
    listed = booking("org", "list").stdout
    assert "clinic: 5 coaches, 6 calendars, 0 keys" in listed
    again = booking("seed", "--clinic")
    assert (again.returncode, again.stdout) == (0, "the clinic was there already\n"), again.stderr
    assert booking("org", "list").stdout == listed
    assert booking("verify").returncode == 0
