"""The network before Redis, Postgres and the CRM, in every way in which the proxy can be bad."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from random import Random

from tests.faults.inject import PATIENCE_S, Evidence, Fault, Inject, Site
from tests.faults.machine import Machine
from tests.faults.proxy import Mode, Proxy
from tests.servers import eventually

_WHAT = {
    Mode.REFUSE: "connections cut",
    Mode.RESET: "connections reset",
    Mode.DELAY: "messages delayed",
    Mode.BLACKHOLE: "messages held back",
    Mode.DROP_REPLY: "replies dropped",
    Mode.HALF_CLOSE: "connections half closed",
    Mode.CUT_IN_COMMIT: "commits without a reply",
}
# Around what each caller is willing to wait: some messages come in time, some too late.
_DELAYS = {"redis": (0.02, 0.4), "postgres": (0.02, 0.8), "crm": (0.1, 0.9)}
_PROXIES: dict[str, Callable[[Machine], Proxy]] = {
    "redis": lambda machine: machine.redis_proxy,
    "postgres": lambda machine: machine.postgres_proxy,
    "crm": lambda machine: machine.crm_proxy,
}


def _network(part: str, mode: Mode, every: int) -> Inject:
    @asynccontextmanager
    async def inject(site: Site, chance: Random) -> AsyncIterator[Evidence]:
        proxy = _PROXIES[part](site.machine)
        before = proxy.done[mode]
        if mode is Mode.REFUSE:
            with suppress(AssertionError):
                await eventually(lambda: proxy.links > 0, within_s=PATIENCE_S, what="a connection")
        await proxy.turn(mode, every=every, delay_s=_DELAYS[part])
        try:
            yield Evidence(_WHAT[mode], look=lambda: proxy.done[mode] - before)
        finally:
            await proxy.turn(Mode.PASS)

    return inject


def _faults(part: str) -> list[Fault]:
    modes = (Mode.REFUSE, Mode.RESET, Mode.DELAY, Mode.BLACKHOLE, Mode.DROP_REPLY, Mode.HALF_CLOSE)
    return [Fault(f"{part}_{mode.value}", part, _network(part, mode, every=4)) for mode in modes]


FAULTS = (
    *_faults("redis"),
    *_faults("postgres"),
    *_faults("crm"),
    Fault("postgres_cut_in_commit", "postgres", _network("postgres", Mode.CUT_IN_COMMIT, every=2)),
)
