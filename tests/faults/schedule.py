"""Which faults come when: drawn from a seed, so that a run can be had again (as far as two runs can be the same).

Rounds follow each other with pauses in which the system recovers. In most rounds two faults of different parts
overlap, because what one part survives alone it may not survive while another is away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tests.faults import inject_network, inject_others, inject_postgres, inject_processes, inject_redis
from tests.faults.inject import Fault

FAULTS: tuple[Fault, ...] = (
    *inject_processes.FAULTS,
    *inject_redis.FAULTS,
    *inject_network.FAULTS,
    *inject_postgres.FAULTS,
    *inject_others.FAULTS,
)
# Of the suite's short run: one of each kind.
SHORT: tuple[str, ...] = (
    "kill_api",
    "kill_redis",
    "kill_postgres",
    "redis_rollback",
    "flushall",
    "redis_blackhole",
    "postgres_cut_in_commit",
    "crm_drop_reply",
    "client_disconnects",
)
WARM_UP_S = 3.0
LAST_ROUND_S = 4.0
PER_FAULT_S = 2.4
PAUSE_S = 1.0
_PAIRED = 0.75


@dataclass(frozen=True)
class Planned:
    """A fault of a round: it begins `after_s` seconds into the round and is held for `seconds`."""

    fault: Fault
    after_s: float
    seconds: float
    seed: int


@dataclass(frozen=True)
class Round:
    """Faults that overlap, `at_s` seconds after the load began (or later, when the round before took longer)."""

    at_s: float
    faults: tuple[Planned, ...]


def named(names: Sequence[str]) -> tuple[Fault, ...]:
    """Faults by name; KeyError for one that does not exist."""
    known = {fault.name: fault for fault in FAULTS}
    return tuple(known[name] for name in names)


def draw(seed: int, seconds: float, faults: Sequence[Fault] = FAULTS) -> list[Round]:
    """A schedule of `seconds`: each fault as often as there is time for, or by chance some when there is too little."""
    chance = Random(f"schedule {seed}")
    room_s = max(seconds - WARM_UP_S - LAST_ROUND_S, 1.0)
    fit = max(1, round(room_s / PER_FAULT_S))
    chosen: list[Fault] = []
    while fit - len(chosen) >= len(faults):
        chosen += chance.sample(list(faults), len(faults))
    if not chosen:
        chosen = chance.sample(list(faults), fit)
    together = _together(chosen, chance)
    every_s = room_s / len(together)
    return [
        Round(WARM_UP_S + number * every_s, tuple(_planned(fault, chance) for fault in faults_of_round))
        for number, faults_of_round in enumerate(together)
    ]


def _together(faults: list[Fault], chance: Random) -> list[list[Fault]]:
    """The same faults in the same order, most of them with the next one of another part."""
    rest = list(faults)
    rounds: list[list[Fault]] = []
    while rest:
        first = rest.pop(0)
        other = next((fault for fault in rest if fault.part != first.part), None)
        if other is not None and chance.random() < _PAIRED:
            rest.remove(other)
            rounds.append([first, other])
        else:
            rounds.append([first])
    return rounds


def _planned(fault: Fault, chance: Random) -> Planned:
    return Planned(fault, chance.uniform(0.0, 0.8), chance.uniform(*fault.seconds), chance.getrandbits(32))
