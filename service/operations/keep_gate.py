"""Opening the way through Redis again: as soon as it answers, and only when its grid can be believed.

A server that was restarted has another run id, one that was emptied no epoch, one that was rolled back or replaced by
a replica an old one. In each of these cases the grid is thrown away and a new epoch begins, in Postgres first: no claim
of before can be committed from then on. The days are derived again as they are needed, and by the worker.
"""

from __future__ import annotations

import asyncio
import time

from service.claims.breaker import GateBreaker
from service.claims.server import RedisServer, Seen
from service.db.gate import GateStore
from service.errors import BookingError, OutcomeUnknown, Unavailable
from service.logs import get_logger
from service.operations.heal_grid import HealGrid
from service.operations.settle_change import SettleChange

LOOK_AGAIN_S = 0.1
LINE_EVERY_S = 60.0  # of one and the same outage

_log = get_logger("operations.keep_gate")


class KnownServer:
    """The run id of the server the grid was derived in; None before anybody looked."""

    def __init__(self) -> None:
        self.run_id: str | None = None

    def is_known(self, run_id: str) -> bool:
        """Whether a connection to that server may be used."""
        return self.run_id in (None, run_id)


class KeepGate:
    """Looks at Redis while it is not asked, and closes the breaker when all is well."""

    def __init__(
        self,
        *,
        breaker: GateBreaker,
        server: RedisServer,
        known: KnownServer,
        store: GateStore,
        heal: HealGrid,
        settle: SettleChange,
    ) -> None:
        self._breaker = breaker
        self._server = server
        self._known = known
        self._store = store
        self._heal = heal
        self._settle = settle
        self._in_vain: tuple[str, str] | None = None
        self._said_at = 0.0

    async def run(self) -> None:
        """Look, whenever and as long as Redis is not asked or has not been told everything; never ends by itself."""
        while True:
            await self._breaker.fell_behind.wait()
            if not (await self._catch_up() if self._breaker.closed else await self.look()):
                await asyncio.sleep(LOOK_AGAIN_S)

    async def look(self, *, catch_up: bool = True) -> bool:
        """Whether Redis is asked from now on; `catch_up` tells it first what it missed."""
        try:
            seen = await self._server.look()
            epoch, server = await self._store.epoch()
            if (seen.run_id, seen.epoch) != (server, epoch):
                renewed = await self._renew(seen, first=server is None)
                if renewed is None:
                    return False
                epoch = renewed
            self._known.run_id = seen.run_id
            self._breaker.close(epoch)
            if catch_up:
                await self._catch_up()
        except (Unavailable, OutcomeUnknown) as problem:
            self._say("redis not asked yet", problem.message)
            return False
        except Exception:
            # Whatever it was: nobody else looks, so a process that stopped would do without Redis for ever.
            _log.exception("redis not looked at")
            return False
        return self._breaker.closed

    async def _renew(self, seen: Seen, *, first: bool) -> int | None:
        """Throw the grid away and begin an epoch with the server; None where another process does, or just did."""
        nonce = await self._server.begin_cleaning(seen)
        if nonce is None:
            return None
        epoch = await self._store.renew(seen.run_id)
        if not await self._server.clean(seen.run_id, epoch, nonce):
            return None
        if first:
            _log.info("grid begun", epoch=epoch, server=seen.run_id)
        else:
            _log.warning("grid thrown away", epoch=epoch, server=seen.run_id)
        return epoch

    async def _catch_up(self) -> bool:
        """Tell Redis what it missed; whether it knows everything now."""
        falls = self._breaker.falls
        try:
            await self._settle.tell_late()
            await self._heal()
        except BookingError as problem:
            self._say("grid not repaired yet", problem.message)
            return False
        except Exception:
            # As in `look`: who stopped here would go by Postgres for ever.
            _log.exception("grid not repaired")
            return False
        self._breaker.caught_up(falls)
        self._in_vain = None
        return True

    def _say(self, what: str, why: str) -> None:
        """Log what was in vain and why: when it begins, when that changes, and now and then."""
        now = time.monotonic()
        if self._in_vain != (what, why) or now - self._said_at >= LINE_EVERY_S:
            self._in_vain, self._said_at = (what, why), now
            _log.info(what, error=why)
