"""The commands say what they did, end with the right code, and name the variable that is wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass

import pytest

from service.app import Services
from service.config import Settings
from service.domain.grid import day_of
from service.operations.local_rates import RateSeen
from tests.wishes import caller, free_starts, wish


@dataclass(frozen=True)
class Commands:
    """Runs `booking` against the test's servers."""

    env: dict[str, str]

    def __call__(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "service.cli", *words],
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def booking(settings: Settings) -> Commands:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return Commands(
        {
            **kept,
            "DATABASE_URL": settings.database_url or "",
            "REDIS_URL": settings.redis_url or "",
            "DATA_DIR": str(settings.data_dir),
        }
    )


async def test_a_key_is_printed_once_and_only_its_hash_is_kept(booking: Commands, services: Services, org: int) -> None:
    done = booking("keys", "create", "--name", "shop", "--scopes", "read,write", "--rate-limit", "0")
    assert done.returncode == 0, done.stderr
    key = done.stdout.strip()
    assert key.startswith("bk_")
    record = await services.keys.find(key)
    assert record is not None
    assert (record.org, record.name, record.scopes, record.rate_limit) == (org, "shop", {"read", "write"}, 0)
    async with services.database.transaction() as connection:
        stored = await connection.fetch("SELECT api_keys::text AS row FROM api_keys")
    assert not [row for row in stored if key in row["row"]]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--name", "x", "--scopes", "read,fly"), "--scopes"),
        (("--name", "x", "--rate-limit", "-1"), "--rate-limit"),
        (("--scopes", "read"), "--name"),
        (("--name", "x", "--organization", "nobody"), "nobody"),
    ],
)
def test_a_key_that_cannot_be_made_is_refused_with_the_reason(
    booking: Commands, words: tuple[str, ...], complaint: str
) -> None:
    done = booking("keys", "create", *words)
    assert done.returncode != 0
    assert complaint in done.stderr
    assert not done.stdout


async def test_verify_holds_and_finds_a_planted_difference(booking: Commands, services: Services, org: int) -> None:
    await services.keeper.fill(org)
    start = (await free_starts(services, org))[0]
    await services.book(wish(start), caller(org), RateSeen())
    done = booking("verify")
    assert done.returncode == 0, done.stderr
    assert "holds" in done.stdout
    day = day_of(services.clock.now()) + 2
    await services.redis.setbit(services.shards.of(org).occupied(org, day), 5, 1)
    done = booking("verify")
    assert done.returncode == 1
    assert "1 differences" in done.stdout
    done = booking("rebuild")
    assert done.returncode == 0, done.stderr
    assert "1 cells" in done.stdout
    assert booking("verify").returncode == 0


def test_migrating_and_seeding_again_change_nothing(booking: Commands) -> None:
    migrated = booking("migrate")
    assert (migrated.returncode, migrated.stdout) == (0, "the schema is up to date\n")
    seeded = booking("seed")
    assert (seeded.returncode, seeded.stdout) == (0, "the sample data was there already\n")


@pytest.mark.parametrize(
    ("variable", "value"), [("PORT", "http"), ("WORKERS", "0"), ("LOG_LEVEL", "loud"), ("SLOT_INTERVAL_MINUTES", "7")]
)
def test_a_bad_setting_stops_the_start_with_its_name(booking: Commands, variable: str, value: str) -> None:
    done = booking("verify", **{variable: value})
    assert done.returncode == 2
    assert done.stderr.startswith(f"booking: {variable}: ")


def test_without_servers_it_says_which_setting_is_missing(booking: Commands) -> None:
    done = booking("migrate", DATABASE_URL="", REDIS_URL="")
    assert done.returncode == 2
    assert "DATABASE_URL" in done.stderr


def test_a_server_that_is_away_is_one_sentence_not_a_traceback(booking: Commands) -> None:
    done = booking("migrate", DATABASE_URL="postgresql://nobody:secret-word@127.0.0.1:9/none")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "secret-word" not in done.stderr


@pytest.mark.parametrize("missing", ["CALENDAR_API_URL", "CRM_WEBHOOK_URL"])
def test_a_worker_without_somebody_to_tell_does_not_start(booking: Commands, missing: str) -> None:
    urls = {"CALENDAR_API_URL": "http://127.0.0.1:9", "CRM_WEBHOOK_URL": "http://127.0.0.1:9", missing: ""}
    done = booking("worker", **urls)
    assert done.returncode == 2
    assert done.stderr.startswith(f"booking: {missing}: ")


def test_a_taken_metrics_port_is_named(booking: Commands) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = booking(
            "worker",
            CALENDAR_API_URL="http://127.0.0.1:9",
            CRM_WEBHOOK_URL="http://127.0.0.1:9",
            METRICS_PORT=str(taken.getsockname()[1]),
        )
    assert done.returncode == 2
    assert "METRICS_PORT: " in done.stderr
