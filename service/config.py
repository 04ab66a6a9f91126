"""Every setting of the service: its environment variable, default, unit and the sentence that explains it.

`Settings` is the only place that reads environment variables. `.env.example` and the documents are
compared with `Settings` by a test, so a setting cannot exist in one of them alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from email.utils import getaddresses
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dotenv import dotenv_values

from service.errors import ConfigurationError


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    parse.__doc__ = f"must be a whole number from {low} to {high}"
    return parse


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError(f"must be a number from {low:g} to {high:g}")
        return value

    parse.__doc__ = f"must be a number from {low:g} to {high:g}"
    return parse


def _multiple_of_five(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if value % 5 or not low <= value <= high:
            raise ValueError(parse.__doc__)
        return value

    parse.__doc__ = f"must be a multiple of 5 from {low} to {high}"
    return parse


def _switch(text: str) -> bool:
    """must be true or false"""
    if text.lower() not in ("true", "false"):
        raise ValueError("must be true or false")
    return text.lower() == "true"


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(parse.__doc__)
        return text.lower()

    parse.__doc__ = "must be one of " + ", ".join(words)
    return parse


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        text = text.strip()
        parts = urlsplit(text)
        if parts.scheme not in schemes or (parts.scheme.startswith("http") and not parts.hostname):
            raise ValueError(parse.__doc__)
        if "," not in parts.netloc:  # Postgres may be at several addresses
            _ = parts.port  # none where a password's # or / ends the address: ValueError
        return text.rstrip("/")

    parse.__doc__ = (
        "must be a URL beginning with "
        + " or ".join(f"{s}://" for s in schemes)
        + ", what is special in its password written as %XX"
    )
    return parse


_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[a-z0-9._-]+(?::[0-9]{1,5})?|https?://\[[0-9a-f:]+\](?::[0-9]{1,5})?")
# A browser leaves out the port that goes without saying.
_UNSAID = re.compile(r"http://.*:80|https://.*:443")


def _origin(text: str) -> str:
    """must be * or one origin as browsers send it, as in https://app.example.com, without a path"""
    # It is compared byte by byte, by the browser.
    if _ORIGIN.fullmatch(text) is None or _UNSAID.fullmatch(text) is not None:
        raise ValueError(_origin.__doc__)
    return text


def _text(text: str) -> str:
    """must not be empty"""
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _folder(text: str) -> Path:
    """must be a folder"""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # of somebody nobody knows
        raise ValueError(_folder.__doc__) from None


def _mailbox(text: str) -> str:
    """must be an e-mail address, or a name (with a comma: in quotation marks) and then the address in <>"""
    found = getaddresses([text])
    local, _, domain = found[0][1].rpartition("@") if len(found) == 1 else ("", "", "")
    if not (local and domain and text.isprintable() and f"{local}{domain}".isascii() and " " not in local + domain):
        raise ValueError(_mailbox.__doc__)
    return text


def _setting(env: str, default: Any, parse: Callable[[str], Any], unit: str, about: str) -> Any:
    shown = not env.endswith("_PASSWORD")
    return field(default=default, repr=shown, metadata={"env": env, "parse": parse, "unit": unit, "about": about})


_HTTP = _url("http", "https")
_PORT = _integer(1, 65535)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The service's settings, parsed and checked. Build with `from_environment`."""

    port: int = _setting("PORT", 3000, _PORT, "TCP port", "Where the API listens.")
    calendar_port: int = _setting("CALENDAR_PORT", 3001, _PORT, "TCP port", "Where the mock calendar listens.")
    crm_port: int = _setting("CRM_PORT", 3002, _PORT, "TCP port", "Where the mock CRM listens.")
    auth_port: int = _setting("AUTH_PORT", 3003, _PORT, "TCP port", "Where the mock auth service listens.")
    host: str = _setting("HOST", "127.0.0.1", _text, "address", "The address the API binds to, and mocks of their own.")
    data_dir: Path = _setting(
        "DATA_DIR", Path(".data"), _folder, "folder", "Where the embedded servers keep their data."
    )
    workers: int = _setting("WORKERS", 2, _integer(1, 64), "processes", "How many API processes share the port.")
    database_url: str | None = _setting(
        "DATABASE_URL", None, _url("postgres", "postgresql"), "URL", "A Postgres to use instead of the embedded one."
    )
    redis_url: str | None = _setting(
        "REDIS_URL",
        None,
        _url("redis", "rediss", "unix"),
        "URL",
        "A Redis or Valkey to use instead of the embedded one.",
    )
    calendar_api_url: str | None = _setting(
        "CALENDAR_API_URL", None, _HTTP, "URL", "The external calendar to use instead of the mock."
    )
    crm_webhook_url: str | None = _setting("CRM_WEBHOOK_URL", None, _HTTP, "URL", "The CRM to use instead of the mock.")
    auth_service_url: str | None = _setting(
        "AUTH_SERVICE_URL", None, _HTTP, "URL", "The auth service to use instead of the mock."
    )
    redis_shards: int = _setting(
        "REDIS_SHARDS",
        1,
        _integer(1, 1024),
        "shards",
        "Into how many hash tags organizations are spread; fixed at installation, 1 until a cluster can be used.",
    )
    default_organization: str = _setting(
        "DEFAULT_ORGANIZATION",
        "demo",
        _text,
        "name",
        "The organization of keys that only the auth service knows and of coaches the external calendar knows.",
    )
    default_appointment_duration_minutes: int = _setting(
        "DEFAULT_APPOINTMENT_DURATION_MINUTES",
        30,
        _multiple_of_five(5, 1440),
        "minutes",
        "Length of a slot where no calendar says otherwise.",
    )
    slot_interval_minutes: int = _setting(
        "SLOT_INTERVAL_MINUTES",
        15,
        _multiple_of_five(5, 1440),
        "minutes",
        "Distance between starts where no calendar says otherwise.",
    )
    slot_buffer_minutes: int = _setting(
        "SLOT_BUFFER_MINUTES",
        0,
        _multiple_of_five(0, 240),
        "minutes",
        "Time kept free after an appointment of a calendar created without buffers.",
    )
    max_booking_days_ahead: int = _setting(
        "MAX_BOOKING_DAYS_AHEAD",
        30,
        _integer(1, 366),
        "days",
        "How far ahead can be booked where no calendar says otherwise.",
    )
    min_booking_hours_ahead: float = _setting(
        "MIN_BOOKING_HOURS_AHEAD",
        2.0,
        _number(0, 720),
        "hours",
        "How much notice a booking needs where no calendar says otherwise.",
    )
    clinic_start_hour: int = _setting(
        "CLINIC_START_HOUR", 9, _integer(0, 23), "hour", "Opening hour of a coach created without hours."
    )
    clinic_end_hour: int = _setting(
        "CLINIC_END_HOUR", 17, _integer(1, 24), "hour", "Closing hour of a coach created without hours."
    )
    rate_limit_window_ms: int = _setting(
        "RATE_LIMIT_WINDOW_MS", 60_000, _integer(100, 86_400_000), "milliseconds", "Length of a rate-limit window."
    )
    rate_limit_max_requests: int = _setting(
        "RATE_LIMIT_MAX_REQUESTS",
        100,
        _integer(0, 1_000_000_000),
        "requests",
        "Requests a window of keys that have no limit of their own; 0 means no limit.",
    )
    max_requests_in_flight: int = _setting(
        "MAX_REQUESTS_IN_FLIGHT",
        3_000,
        _integer(1, 1_000_000),
        "requests",
        "How many requests an API process answers at a time; more are refused with 503.",
    )
    max_request_wait_ms: int = _setting(
        "MAX_REQUEST_WAIT_MS",
        1_000,
        _integer(1, 600_000),
        "milliseconds",
        "Requests that would wait for longer, by the rate of late, are refused with 503.",
    )
    claim_ttl_ms: int = _setting(
        "CLAIM_TTL_MS",
        15_000,
        _integer(1_000, 600_000),
        "milliseconds",
        "How long a claim may wait for its commit before the reconciler settles or releases it.",
    )
    batch_most: int = _setting(
        "BATCH_MOST",
        128,
        _integer(1, 1_024),
        "requests",
        "How many waiting requests share a script call or a commit; 1 is for comparing what sharing buys.",
    )
    redis_timeout_ms: int = _setting(
        "REDIS_TIMEOUT_MS",
        250,
        _integer(10, 60_000),
        "milliseconds",
        "How long a request waits for an answer of Redis before it counts as away.",
    )
    idempotency_retention_hours: int = _setting(
        "IDEMPOTENCY_RETENTION_HOURS",
        25,
        _integer(24, 8_760),
        "hours",
        "How long an idempotency key and its answer are kept.",
    )
    worker_niceness: int = _setting(
        "WORKER_NICENESS",
        10,
        _integer(0, 19),
        "steps",
        "By how much the worker gives way to the API on a busy machine, as nice(1) counts; the more, the later it "
        "delivers while there is no processor to spare.",
    )
    reconcile_interval_ms: int = _setting(
        "RECONCILE_INTERVAL_MS",
        2_000,
        _integer(100, 600_000),
        "milliseconds",
        "Time between two rounds of the reconciler.",
    )
    webhook_retry_attempts: int = _setting(
        "WEBHOOK_RETRY_ATTEMPTS", 12, _integer(1, 100), "attempts", "After how many attempts a delivery is dead."
    )
    webhook_retry_delay_ms: int = _setting(
        "WEBHOOK_RETRY_DELAY_MS",
        500,
        _integer(1, 3_600_000),
        "milliseconds",
        "Base of the exponential backoff between attempts.",
    )
    reclaim_idle_ms: int = _setting(
        "RECLAIM_IDLE_MS",
        0,
        _integer(0, 3_600_000),
        "milliseconds",
        "After how long work that a worker left unfinished is taken over; 0: "
        "three times WEBHOOK_TIMEOUT_MS and 10 s, or SMTP_TIMEOUT_MS and 15 s.",
    )
    sweep_interval_ms: int = _setting(
        "SWEEP_INTERVAL_MS",
        30_000,
        _integer(100, 3_600_000),
        "milliseconds",
        "Time between two looks for events that a destination has not heard of and that are not on their way.",
    )
    sweep_overdue_ms: int = _setting(
        "SWEEP_OVERDUE_MS",
        60_000,
        _integer(100, 3_600_000),
        "milliseconds",
        "How old such an event must be; above CLAIM_TTL_MS and RECONCILE_INTERVAL_MS together.",
    )
    webhook_timeout_ms: int = _setting(
        "WEBHOOK_TIMEOUT_MS", 5_000, _integer(10, 120_000), "milliseconds", "How long one attempt may take."
    )
    webhook_allow_private: bool = _setting(
        "WEBHOOK_ALLOW_PRIVATE",
        False,
        _switch,
        "true or false",
        "Whether webhook endpoints may lie on this machine or a private network; `booking up` says true unless told.",
    )
    endpoint_pause_after_s: float = _setting(
        "ENDPOINT_PAUSE_AFTER_S",
        432_000.0,
        _number(1, 31_536_000),
        "seconds",
        "After how long of nothing but failures a webhook endpoint is paused.",
    )
    calendar_sync_interval_s: float = _setting(
        "CALENDAR_SYNC_INTERVAL_S",
        300.0,
        _number(0, 86_400),
        "seconds",
        "Time between two rounds of fetching external calendars, of many coaches each a part; 0 switches it off.",
    )
    smtp_host: str | None = _setting(
        "SMTP_HOST", None, _text, "host name", "The mail server for contacts; without one, notifications are logged."
    )
    smtp_port: int = _setting("SMTP_PORT", 587, _PORT, "TCP port", "Where the mail server listens.")
    smtp_tls: str = _setting(
        "SMTP_TLS",
        "starttls",
        _one_of("starttls", "tls", "none"),
        "word",
        "How mail is encrypted: after STARTTLS, from the first byte (port 465), or not at all.",
    )
    smtp_username: str | None = _setting(
        "SMTP_USERNAME", None, _text, "name", "Who signs in at the mail server; empty for nobody."
    )
    smtp_password: str | None = _setting("SMTP_PASSWORD", None, _text, "secret", "The password of that name.")
    smtp_from: str | None = _setting(
        "SMTP_FROM", None, _mailbox, "address", "Whom mail to contacts is from, as in Clinic <hello@example.com>."
    )
    smtp_timeout_ms: int = _setting(
        "SMTP_TIMEOUT_MS",
        10_000,
        _integer(10, 120_000),
        "milliseconds",
        "How long handing over one message may take, connecting included.",
    )
    reminder_hours_before: float = _setting(
        "REMINDER_HOURS_BEFORE",
        24.0,
        _number(0, 720),
        "hours",
        "How long before an appointment its contact is reminded; 0 switches reminders off.",
    )
    metrics_port: int = _setting(
        "METRICS_PORT",
        0,
        _integer(0, 65535),
        "TCP port",
        "Where the background worker serves its own metrics; 0 leaves them to the API's /metrics.",
    )
    log_level: str = _setting(
        "LOG_LEVEL", "info", _one_of("debug", "info", "warning", "error"), "word", "The least severe level logged."
    )
    log_format: str = _setting(
        "LOG_FORMAT", "json", _one_of("json", "console"), "word", "How log lines look: for programs or for people."
    )
    cors_origin: str = _setting(
        "CORS_ORIGIN", "", _origin, "origin", "The origin browsers may call from; * for any, empty for none."
    )
    mock_seed: int = _setting(
        "MOCK_SEED", 0, _integer(0, 2**31 - 1), "number", "Seed of the mocks' chances; 0 draws one at the start."
    )
    mock_calendar_failure_rate: float = _setting(
        "MOCK_CALENDAR_FAILURE_RATE", 0.10, _number(0, 1), "share", "Share of calendar calls the mock fails."
    )
    mock_crm_failure_rate: float = _setting(
        "MOCK_CRM_FAILURE_RATE", 0.30, _number(0, 1), "share", "Share of CRM calls the mock fails."
    )
    mock_delay_scale: float = _setting(
        "MOCK_DELAY_SCALE", 1.0, _number(0, 100), "factor", "Factor on the mocks' delays; 0 answers at once."
    )
    environment: str = _setting(
        "ENVIRONMENT",
        "production",
        _one_of("production", "test"),
        "word",
        "Whether this is an installation or a test of the service; failpoints exist only in a test.",
    )
    failpoints_dir: Path | None = _setting(
        "FAILPOINTS_DIR",
        None,
        Path,
        "folder",
        "Where a test says at which steps processes break; empty switches failpoints off.",
    )

    @classmethod
    def from_environment(
        cls,
        env: Mapping[str, str] | None = None,
        *,
        dotenv: Path | None = None,
        usual: Mapping[str, str] | None = None,
    ) -> Settings:
        """Settings from `env` (default: the process environment over `.env` of the working directory).

        `usual` says what a command takes where neither does.
        An empty value counts as not set, except for CORS_ORIGIN where it means none.
        Raises ConfigurationError whose message begins with the variable's name.
        """
        if env is None:
            file = {k: v for k, v in dotenv_values(dotenv or Path(".env")).items() if v is not None}
            env = {**(usual or {}), **file, **os.environ}
        values: dict[str, Any] = {}
        for item in fields(cls):
            name: str = item.metadata["env"]
            text = env.get(name, "")
            if not text:
                continue
            try:
                values[item.name] = item.metadata["parse"](text)
            except ValueError:
                rule = str(item.metadata["parse"].__doc__)
                shown = "the given value" if name.endswith(("_URL", "_PASSWORD")) else repr(text)
                raise ConfigurationError(f"{name}: {rule}; got {shown}") from None
        settings = cls(**values)
        if settings.clinic_end_hour <= settings.clinic_start_hour:
            raise ConfigurationError("CLINIC_END_HOUR: must be later than CLINIC_START_HOUR")
        if settings.smtp_host is not None and settings.smtp_from is None:
            raise ConfigurationError("SMTP_FROM: is needed beside SMTP_HOST")
        if (settings.smtp_username is None) != (settings.smtp_password is None):
            raise ConfigurationError("SMTP_PASSWORD: SMTP_USERNAME and SMTP_PASSWORD go together")
        if settings.failpoints_dir is not None and settings.environment != "test":
            raise ConfigurationError("FAILPOINTS_DIR: is refused unless ENVIRONMENT is test")
        return settings

    @classmethod
    def describe(cls) -> list[tuple[str, str, str, str]]:
        """Every setting as (variable, default, unit, sentence), in the order of `.env.example`."""
        rows: list[tuple[str, str, str, str]] = []
        for item in fields(cls):
            default = "" if item.default is None or item.default is MISSING else item.default
            text = f"{default:g}" if isinstance(default, float) else str(default)
            if isinstance(default, bool):
                text = text.lower()
            rows.append((item.metadata["env"], text, item.metadata["unit"], item.metadata["about"]))
        return rows
