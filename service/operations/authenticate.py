"""Who a key belongs to: our own table first, then the auth service, both remembered.

The auth service limits how often it is asked and may be away: what it said of a key is stored, so its outage
refuses only keys it was never asked about. What it says counts also while Postgres takes no writes. Keys are
remembered by their hash and never logged.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import msgspec

from service.claims.messages import Rate
from service.clock import Clock
from service.db.keys import KeyRecord, KeyStore, hash_of
from service.db.rosters import RosterStore
from service.errors import NotAuthenticated, OutcomeUnknown, Unavailable
from service.logs import get_logger
from service.operations.caller import Caller

KNOWN_FOR = timedelta(seconds=30)
UNKNOWN_FOR = timedelta(seconds=10)
ASK_AGAIN_AFTER = timedelta(minutes=5)
MOST_KEPT = 20_000
FREE_FAILURES = 10
LONGEST_DELAY_S = 1.0
FAILURES_FORGOTTEN_S = 60.0

_log = get_logger("operations.authenticate")


@dataclass(frozen=True, slots=True)
class Permit:
    """What the auth service says of a key: its scopes and limit a window."""

    scopes: frozenset[str]
    rate_limit: int | None


class Known(msgspec.Struct, frozen=True):
    """What is known of a key until a moment of the loop's clock, and what every caller with it has."""

    record: KeyRecord | None
    actor: str
    rate: Rate
    until: float


_NO_RATE = Rate("", 0, 0)
Validate = Callable[[str], Awaitable[Permit | None]]


class Authenticate:
    """Turns a key into a caller."""

    def __init__(
        self,
        *,
        keys: KeyStore,
        rosters: RosterStore,
        validate: Validate | None,
        clock: Clock,
        default_organization: str,
        default_limit: int,
        window_ms: int,
    ) -> None:
        self._keys = keys
        self._rosters = rosters
        self._validate = validate
        self._clock = clock
        self._default_organization = default_organization
        self._default_limit = default_limit
        self._window_ms = window_ms
        self._kept: OrderedDict[bytes, Known] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[KeyRecord | None]] = {}
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    async def __call__(self, key: str | None, address: Callable[[], str], correlation_id: str) -> Caller:
        """The caller behind a key. Raises NotAuthenticated, or Unavailable when nobody can be asked about it.

        `address` is asked for where a failure is counted: after ten failed keys from one address within a minute each
        further one takes up to a second.
        """
        return self.caller(await self.known(key), address, correlation_id)

    async def known(self, key: str | None) -> Known:
        """What is known of a key, for as long as it `counts`. Raises as the call does, but nothing of a wrong key."""
        if not key:
            raise NotAuthenticated("this needs an API key: send it as X-API-Key")
        kept = self._kept.get(hash_of(key))
        return kept if kept is not None and self.counts(kept) else await self._find_out(key)

    def counts(self, known: Known) -> bool:
        """Whether what is known of a key is not too old: else it is asked for again, or one taken back lived on."""
        return known.until > asyncio.get_running_loop().time()

    def caller(self, known: Known, address: Callable[[], str], correlation_id: str) -> Caller:
        """The caller behind a key of which that is known. Raises NotAuthenticated, counted for its `address`."""
        record = known.record
        if record is None or record.revoked:
            raise NotAuthenticated("this API key is not known", wait_s=self.count_failure(address()))
        return Caller(
            org=record.org,
            actor=known.actor,
            scopes=record.scopes,
            rate=known.rate,
            correlation_id=correlation_id,
        )

    async def _find_out(self, key: str) -> Known:
        digest = hash_of(key)
        now = asyncio.get_running_loop().time()
        task = self._asking.get(digest)
        if task is None:
            task = self._asking[digest] = asyncio.ensure_future(self._look_up(key))
            task.add_done_callback(lambda _: self._asking.pop(digest, None))
        try:
            record = await asyncio.shield(task)
        except Unavailable:
            kept = self._kept.get(digest)
            if kept is not None and kept.record is not None:
                return kept  # the tables are away: what was true half a minute ago still lets in
            raise
        lives = (KNOWN_FOR if record is not None else UNKNOWN_FOR).total_seconds()
        known = self._kept[digest] = self._to_keep(record, now + lives)
        self._kept.move_to_end(digest)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return known

    def _to_keep(self, record: KeyRecord | None, until: float) -> Known:
        if record is None:
            return Known(None, "", _NO_RATE, until)
        limit = self._default_limit if record.rate_limit is None else record.rate_limit
        return Known(record, f"key:{record.name}", Rate(record.key_id.hex, limit, self._window_ms), until)

    async def _look_up(self, key: str) -> KeyRecord | None:
        record = await self._keys.find(key)
        if record is not None and record.source == "local":
            return record
        fresh = record is not None and self._clock.now() - record.validated_at < ASK_AGAIN_AFTER
        if self._validate is None or (fresh and record is not None and not record.revoked):
            return record
        try:
            permit = await self._validate(key)
        except Unavailable:
            if record is not None:
                return record
            raise
        return await self._keep(key, record, permit)

    async def _keep(self, key: str, record: KeyRecord | None, permit: Permit | None) -> KeyRecord | None:
        """Write down what the auth service says of a key, and what is known of it then.

        Raises Unavailable when a key that was never seen cannot be written.
        """
        try:
            if permit is not None:
                return await self._store(key, permit)
            if record is not None:
                await self._keys.revoke(key)
        except (Unavailable, OutcomeUnknown) as problem:
            # It counts all the same; it is asked for again when this process has forgotten it.
            _log.warning("key not kept", error=problem.message)
            if permit is None:
                return None
            if record is None:
                raise Unavailable("a new key could not be written") from problem
            return msgspec.structs.replace(record, scopes=permit.scopes, rate_limit=permit.rate_limit, revoked=False)
        return None

    async def _store(self, key: str, permit: Permit) -> KeyRecord | None:
        org = await self._rosters.organization(self._default_organization)
        if org is None:
            return None
        name = f"auth-service {hash_of(key).hex()[:8]}"
        await self._keys.add(org, key, name, permit.scopes, permit.rate_limit, "auth-service")
        record = await self._keys.find(key)
        return None if record is None else msgspec.structs.replace(record, validated_at=self._clock.now())

    def count_failure(self, address: str) -> float:
        """Count a failure of an address; after ten within a minute each further one has to wait up to a second (s)."""
        now = asyncio.get_running_loop().time()
        count, since = self._failures.get(address, (0, now))
        if now - since > FAILURES_FORGOTTEN_S:
            count, since = 0, now
        self._failures[address] = (count + 1, since)
        self._failures.move_to_end(address)
        while len(self._failures) > MOST_KEPT:
            self._failures.popitem(last=False)
        if count < FREE_FAILURES:
            return 0.0
        return min(LONGEST_DELAY_S, 0.05 * 2 ** min(count - FREE_FAILURES, 5))
