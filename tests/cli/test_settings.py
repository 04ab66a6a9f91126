"""A setting that cannot be right stops the start with its name, and never shows a secret."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from service import up
from service.app import open_services
from service.config import Settings
from service.errors import ConfigurationError
from tests.servers import free_port

SECRET = "pa7word"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("DATABASE_URL", f"postgresql://user:{SECRET}#more@host/db"),
        ("DATABASE_URL", f"postgresql://user:{SECRET}/more@host/db"),
        ("DATABASE_URL", f"mysql://user:{SECRET}@host/db"),
        ("REDIS_URL", f"redis://:{SECRET}#more@host:6379/0"),
        ("REDIS_URL", "redis://host:99999/0"),
        ("CRM_WEBHOOK_URL", "http://"),
        ("CRM_WEBHOOK_URL", "http:host"),
        ("AUTH_SERVICE_URL", "https:///path"),
    ],
)
def test_an_address_that_is_none_is_refused_by_name_and_not_shown(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name}: must be a URL") as refused:
        Settings.from_environment({name: text})
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("name", "text", "kept"),
    [
        ("DATABASE_URL", "postgresql://postgres@/scheduling_db?host=/run/postgresql", None),
        ("DATABASE_URL", "postgresql://u:p%23w@one:5432,two:5433/db", None),
        ("REDIS_URL", "unix:///run/redis.sock", None),
        ("REDIS_URL", "redis://[::1]:6379/0", None),
        ("CRM_WEBHOOK_URL", " https://crm.example/hooks/ ", "https://crm.example/hooks"),
    ],
)
def test_addresses_of_every_kind_are_taken(name: str, text: str, kept: str | None) -> None:
    assert getattr(Settings.from_environment({name: text}), name.lower()) == (kept or text)


def test_a_folder_may_be_named_from_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings.from_environment({"DATA_DIR": "~/booking"}).data_dir == tmp_path / "booking"
    with pytest.raises(ConfigurationError, match=r"^DATA_DIR: must be a folder"):
        Settings.from_environment({"DATA_DIR": "~nobody-at-all/booking"})


def test_a_port_that_somebody_has_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "_FREED_WITHIN_S", 0.1)
    free = Settings(port=free_port(), calendar_port=free_port(), crm_port=free_port(), auth_port=free_port())
    up.check_ports(free)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for name in ("CALENDAR_PORT", "CRM_PORT", "AUTH_PORT", "METRICS_PORT"):
            with pytest.raises(ConfigurationError, match=rf"^{name}: cannot listen on 127\.0\.0\.1:{port}"):
                up.check_ports(replace(free, **{name.lower(): port}))
        # Where the real one is used, no mock listens.
        up.check_ports(replace(free, crm_port=port, crm_webhook_url="http://crm.example"))
    with pytest.raises(ConfigurationError, match=f"^CRM_PORT: {free.port} is PORT too"):
        up.check_ports(replace(free, crm_port=free.port))
    with pytest.raises(ConfigurationError, match=f"^METRICS_PORT: {free.auth_port} is AUTH_PORT too"):
        up.check_ports(replace(free, metrics_port=free.auth_port))


@pytest.mark.parametrize("host", ["no..host", "192.0.2.1"])
def test_an_address_that_is_not_ours_is_refused_by_its_own_name(host: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^HOST: cannot listen on {host}"):
        up.listen(replace(Settings(), host=host, port=free_port()))


@pytest.mark.parametrize(
    "text",
    [
        "https://a.example/",
        "app.example",
        "https://A.example",
        "https://a,https://b",
        "https://a.example:443",
        "http://[::1]:80",
        " ",
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^CORS_ORIGIN: must be \* or one origin"):
        Settings.from_environment({"CORS_ORIGIN": text})


@pytest.mark.parametrize(
    "text", ["*", "https://app.example.com", "http://localhost:5173", "http://my_app:8080", "http://[::1]:3000", ""]
)
def test_an_origin_is_taken_as_it_is(text: str) -> None:
    assert Settings.from_environment({"CORS_ORIGIN": text}).cors_origin == text


async def test_a_redis_that_evicts_keys_stops_the_start(settings: Settings) -> None:
    with redis.Redis.from_url(settings.redis_url or "") as server:
        before: Any = server.config_get("maxmemory-policy", "maxmemory")
        server.config_set("maxmemory", "100mb", "maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(ConfigurationError, match=r"^REDIS_URL: the server evicts keys"):
                async with open_services(settings):
                    pass
        finally:
            server.config_set(*(part for item in before.items() for part in item))
