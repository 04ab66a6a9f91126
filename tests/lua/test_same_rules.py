"""The script decides as `service/domain` does: who is free, who is looked at, who gets it, who is owed what.

Postgres-only mode, rebuilding and the distribution go by Python; claims go by Lua. Random rosters, planes,
limits and deficits are put to both, and a release must then bring every byte back.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.claims.messages import OwnTime, Release, Search, Settlement, Side
from service.claims.scripts import ClaimOutcome, ReleaseOutcome
from service.domain.assignment import (
    ENOUGH_CANDIDATES,
    Candidate,
    Decision,
    Strategy,
    choose,
    considered_columns,
    draws_of,
)
from service.domain.calendar import Roster
from service.domain.coach_grid import CoachGrid, DayColumns, Held, Wanted
from service.domain.grid import CELLS_PER_DAY, Placement, columns_in
from service.domain.plane import cells_mask, plane_of
from service.domain.search import Planes, Starts
from tests.lua.world import DAY, OPEN_ALL_DAY, ORG, World, at, coach, roster_of

DAYS = range(DAY - 1, DAY + 2)
ZONES = ("Asia/Tokyo", "Europe/Paris", "UTC")
SCORES = (0, 1, 333_333, 500_000, 500_001, 1_000_000)


@dataclass(frozen=True)
class Situation:
    """A roster, a grid and a wish, drawn from a few shapes and a seed."""

    columns: int
    share_in_team: float
    zones: int
    share_working: float
    share_busy: float
    limit: int
    strategy: Strategy
    start: int
    cells: int
    before: int
    after: int
    turn: int
    seed: int


situations = st.builds(
    Situation,
    columns=st.one_of(st.integers(1, 8), st.integers(30, 70)),
    share_in_team=st.sampled_from([0.05, 0.5, 1.0]),
    zones=st.integers(1, 3),
    share_working=st.sampled_from([0.3, 0.9, 1.0]),
    share_busy=st.sampled_from([0.0, 0.2, 0.8]),
    limit=st.sampled_from([0, 1, 3, 100]),
    strategy=st.sampled_from(Strategy),
    start=st.integers(0, CELLS_PER_DAY - 1),
    cells=st.integers(1, 40),
    before=st.integers(0, 12),
    after=st.integers(0, 12),
    turn=st.integers(0, 65_535),
    seed=st.integers(0, 2**32),
)


class Drawn:
    """What the seed makes of a situation: everything both sides are told."""

    def __init__(self, situation: Situation) -> None:
        self.situation = s = situation
        chance = random.Random(s.seed)
        names = ZONES[: s.zones]
        coaches = [
            coach(
                column,
                score=chance.choice(SCORES),
                zone=chance.choice(names),
                limit=chance.randint(0, s.limit),
            )
            for column in range(s.columns)
        ]
        team = tuple(column for column in range(s.columns) if chance.random() < s.share_in_team)
        self.roster: Roster = roster_of(coaches, team)
        self.placement: Placement = at(s.start, s.cells, before=s.before, after=s.after)
        start = DAY * CELLS_PER_DAY + s.start
        self.open: dict[int, dict[int, int]] = {day: {} for day in DAYS}
        self.occupied: dict[int, dict[int, int]] = {day: {} for day in DAYS}
        for column in range(s.columns):
            # Hours and busy times end near the wanted time, so that sometimes it is an edge that decides.
            works = chance.random() < s.share_working
            hours = (start - chance.randint(0, 3), start + s.cells + chance.randint(-1, 3)) if works else (0, 0)
            near = chance.choice(
                [start - s.before - 3, start - s.before, start, start + s.cells, start + s.cells + s.after]
            )
            busy = (near, near + chance.randint(1, 3)) if chance.random() < s.share_busy else (0, 0)
            for day in DAYS:
                self.open[day][column] = cells_mask(day, *hours)
                self.occupied[day][column] = cells_mask(day, *busy)
        self.counts = {day: [chance.randint(0, 2) for _ in range(s.columns)] for day in DAYS}
        self.deficits = [chance.choice([0, 0, chance.randint(-(10**7), 10**7)]) for _ in range(s.columns)]
        wanted = [number for number in range(len(self.roster.zones)) if chance.random() < 0.8]
        groups = {number: DAY + chance.choice([-1, 0, 0, 1]) for number in wanted}
        one_zone = len(self.roster.zones) == 1
        self.zones = tuple((None if one_zone else number, day) for number, day in groups.items())
        self.column = chance.choice(team or (0,)) if s.strategy is Strategy.REQUESTED else -1
        self.draws = draws_of(team, s.turn)

    def grid(self) -> CoachGrid:
        """The same days as the service holds them in memory when Redis is away."""
        columns = range(self.situation.columns)
        return CoachGrid(
            self.roster,
            {
                day: DayColumns(
                    dict(self.open[day]), dict(self.occupied[day]), {c: self.counts[day][c] for c in columns}
                )
                for day in DAYS
            },
            dict(enumerate(self.deficits)),
        )

    def wanted(self) -> Wanted:
        """The wish as it is put to that grid."""
        s = self.situation
        team = self.roster.calendars[0].team
        return Wanted(
            team=team,
            placement=self.placement,
            zones=self.zones,
            strategy=s.strategy,
            column=self.column,
            draws=self.draws,
        )

    def free(self) -> list[int]:
        """The free columns of the team, by Python's planes."""
        s, width = self.situation, self.roster.width
        planes = Planes(
            DAYS.start,
            width,
            [(plane_of(self.open[day], width), plane_of(self.occupied[day], width)) for day in DAYS],
        )
        asked = np.array([self.placement.start - planes.first_cell])
        [(_, row)] = Starts(asked, planes.starts(asked, cells=s.cells, before=s.before, after=s.after)).masks()
        row &= self.roster.team_mask(self.roster.calendars[0].team)
        return [column for column in columns_in(row, width) if self._may(column) and self.column in (-1, column)]

    def _may(self, column: int) -> bool:
        member = self.roster.coach_by_column[column]
        mine = [day for zone, day in self.zones if zone in (None, self.roster.zone_numbers[member.timezone])]
        return any(self.counts[day][column] < member.max_daily_appointments for day in mine)

    def decision(self) -> Decision | None:
        """Who is considered and who wins, by Python; None when nobody is free."""
        free = self.free()
        columns = considered_columns(free, self.draws)
        if not columns:
            return None
        score = {c.column: c.score for c in self.roster.coaches}
        if self.situation.strategy is Strategy.SCORE and len(columns) == ENOUGH_CANDIDATES:
            best = max(free, key=lambda column: (score[column], -column))
            columns += [best] if best not in columns else []
        return choose(self.situation.strategy, [Candidate(c, score[c], self.deficits[c]) for c in columns])


@pytest.mark.parametrize("script_server", [(None, False)], indirect=True, ids=["wheel"])
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(situation=situations)
async def test_lua_and_python_decide_alike_and_a_release_restores_every_byte(
    world: World, situation: Situation
) -> None:
    drawn = Drawn(situation)
    await world.emptied()
    await world.publish(drawn.roster, drawn.deficits)
    for day in DAYS:
        await world.derive(day, open_cells=drawn.open[day], occupied=drawn.occupied[day], counts=drawn.counts[day])
    before = await world.snapshot()
    wish = world.wish(
        drawn.placement,
        zones=drawn.zones,
        strategy=situation.strategy,
        column=drawn.column,
        draws=drawn.draws,
    )
    expected = drawn.decision()
    reply = await world.claim(wish)
    claimed = drawn.grid().claim(drawn.wanted())
    if expected is None:
        assert claimed is None
        assert reply.outcome is ClaimOutcome.TAKEN
        assert await world.snapshot() == before
        return
    assert reply.outcome is ClaimOutcome.CLAIMED
    assert reply.first == expected.winner
    assert reply.second == expected.packed()
    assert claimed is not None
    assert (claimed.column, claimed.packed()) == (reply.first, reply.second)
    assert claimed.local_day == (await world.grid.pending())[wish.token].local_day
    await _check_written(world, drawn, expected, wish.token)
    zone = drawn.roster.coach_by_column[expected.winner].timezone
    local_day = next(day for number, day in drawn.zones if number in (None, drawn.roster.zone_numbers[zone]))
    assert await world.release(wish, local_day) is ReleaseOutcome.RELEASED
    assert await world.snapshot() == before


@pytest.mark.parametrize("script_server", [(None, False)], indirect=True, ids=["wheel"])
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(situation=situations, shift=st.integers(-8, 8), search=st.sampled_from(Search))
async def test_lua_and_python_move_alike(world: World, situation: Situation, shift: int, search: Search) -> None:
    """A booking is made on both sides and then moved a little; the grids must be the same afterwards."""
    drawn = Drawn(situation)
    grid = drawn.grid()
    await world.emptied()
    await world.publish(drawn.roster, drawn.deficits)
    for day in DAYS:
        await world.derive(day, open_cells=drawn.open[day], occupied=drawn.occupied[day], counts=drawn.counts[day])
    rules = {"zones": drawn.zones, "strategy": situation.strategy, "draws": drawn.draws}
    booked = world.wish(drawn.placement, column=drawn.column, **rules)
    first, claimed = await world.claim(booked), grid.claim(drawn.wanted())
    if claimed is None:
        return
    await world.gate.settle(Settlement(ORG, booked.token, None, ()))
    p = drawn.placement
    moved = Placement(p.start + shift, p.end + shift, p.occupied_start + shift, p.occupied_end + shift)
    own = OwnTime(booked.token, claimed.column, p, claimed.local_day, first.second, search)
    column = drawn.column if search is Search.ANY else -1
    wish = world.wish(moved, column=column, own=own, **rules)
    reply = await world.claim(wish)
    held = Held(own.column, own.placement, own.local_day, keep=search is Search.KEEP, others=search is Search.OTHERS)
    again = grid.claim(replace(drawn.wanted(), placement=moved, column=column, held=held))
    if again is None:
        assert reply.outcome is ClaimOutcome.TAKEN
        return
    assert (reply.outcome, reply.first, reply.second) == (ClaimOutcome.CLAIMED, again.column, again.packed())
    assert again.local_day == (await world.grid.pending())[wish.token].local_day
    kept = again.column == own.column
    leaving = Release(
        ORG,
        wish.token,
        p,
        own.local_day,
        side=Side.OLD,
        keeping=moved if kept else None,
        counted=not (kept and again.local_day == own.local_day),
    )
    assert await world.gate.release(leaving) is ReleaseOutcome.RELEASED
    width = drawn.roster.width
    read = await world.grid.read(ORG, DAYS, list(DAYS))
    for day, planes in zip(DAYS, read.days, strict=True):
        assert planes is not None
        assert planes[1] == plane_of(grid.days[day].occupied, width)
        counts = await world.grid.read_counts(ORG, day, situation.columns)
        assert counts == [grid.days[day].counts[c] for c in range(situation.columns)]


async def _check_written(world: World, drawn: Drawn, decision: Decision, token: str) -> None:
    columns, width = drawn.situation.columns, drawn.roster.width
    deltas = decision.deltas() if drawn.situation.strategy is Strategy.BALANCED else {}
    owed = [deficit + deltas.get(column, 0) for column, deficit in enumerate(drawn.deficits)]
    assert await world.grid.deficits(ORG, columns) == owed
    assert sum(owed) == sum(drawn.deficits)
    placement, winner = drawn.placement, decision.winner
    read = await world.grid.read(ORG, DAYS, list(DAYS))
    counted = (await world.grid.pending())[token].local_day
    for day, planes in zip(DAYS, read.days, strict=True):
        occupied = dict(drawn.occupied[day])
        occupied[winner] |= cells_mask(day, placement.occupied_start, placement.occupied_end)
        assert planes == (plane_of(drawn.open[day], width), plane_of(occupied, width))
        counts = [n + (day == counted and column == winner) for column, n in enumerate(drawn.counts[day])]
        assert await world.grid.read_counts(ORG, day, columns) == counts
        full = [c.column for c in drawn.roster.coaches if counts[c.column] >= c.max_daily_appointments]
        row = int.from_bytes(read.full[day] or b"", "big")
        assert [column for column in columns_in(row, width) if column < columns] == full


def test_the_situations_reach_every_kind_of_answer() -> None:
    """The property above would prove little if nobody or everybody were free in all it tries."""
    chance = random.Random(1)
    kinds: set[str] = set()
    for seed in range(150):
        situation = Situation(
            columns=chance.choice([5, 70]),
            share_in_team=chance.choice([0.05, 1.0, 1.0]),
            zones=chance.randint(1, 3),
            share_working=0.9,
            share_busy=chance.choice([0.0, 0.8]),
            limit=chance.choice([1, 100]),
            strategy=Strategy.BALANCED,
            start=chance.randint(0, 287),
            cells=chance.randint(1, 40),
            before=chance.randint(0, 12),
            after=chance.randint(0, 12),
            turn=chance.randint(0, 2),
            seed=seed,
        )
        drawn = Drawn(situation)
        decision, free = drawn.decision(), drawn.free()
        kinds.add("taken" if decision is None else "one" if len(decision.considered) == 1 else "several")
        if decision is not None and len(free) > len(decision.considered):
            kinds.add("some of the free ones were not looked at")
        if 0 < len(free) < len(drawn.roster.calendars[0].team):
            kinds.add("some of the team were not free")
        if drawn.placement.occupied_start // CELLS_PER_DAY != (drawn.placement.occupied_end - 1) // CELLS_PER_DAY:
            kinds.add("across midnight")
    assert len(kinds) == 6


@pytest.mark.parametrize("script_server", [(None, False)], indirect=True, ids=["wheel"])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tops", [True, False], ids=["tops", "published by a release without tops"])
async def test_by_score_the_best_of_all_that_are_free_is_given_it_in_large_teams_too(
    world: World, seed: int, tops: bool
) -> None:
    """And of those who score the same the first, though 32 are looked at that need not hold them."""
    chance = random.Random(seed)
    columns = 32 * 5 + 8
    score = [chance.choice([100_000, 200_000, 300_000]) for _ in range(columns)]
    for column in chance.sample(range(columns), 40):
        score[column] = 400_000 + column // 40
    team = tuple(column for column in range(columns) if column % 3)
    await world.publish(roster_of([coach(column, score=score[column], limit=100) for column in range(columns)], team))
    await world.derive()
    if not tops:
        await world.redis.hdel(world.keys.roster(ORG), "tops")
    by_score = sorted(team, key=lambda column: (-score[column], column))
    for place, expected in enumerate(by_score[:60]):
        draws = draws_of(team, chance.getrandbits(62))
        reply = await world.claim(world.wish(at(100), strategy=Strategy.SCORE, draws=draws))
        assert (reply.outcome, reply.first) == (ClaimOutcome.CLAIMED, expected)
        looked_at = considered_columns(sorted(by_score[place:]), draws)
        looked_at += [expected] if expected not in looked_at else []
        considered: bytes = reply.second
        assert [int.from_bytes(considered[n : n + 2], "big") for n in range(0, len(considered), 10)] == looked_at


@pytest.mark.parametrize("script_server", [(None, False)], indirect=True, ids=["wheel"])
@pytest.mark.parametrize("team", [(0, 1), (0, 40), (70,), (0, 70)])
async def test_nobody_stands_in_for_a_coach_who_is_asked_for_and_not_in_the_team(
    world: World, team: tuple[int, ...]
) -> None:
    await world.publish(roster_of([coach(column) for column in range(96)], team))
    await world.derive()
    for column in (33, 64, 95):
        reply = await world.claim(world.wish(at(100), strategy=Strategy.REQUESTED, column=column))
        assert reply.outcome is ClaimOutcome.TAKEN


@pytest.mark.parametrize("script_server", [(None, False)], indirect=True, ids=["wheel"])
@pytest.mark.parametrize("strategy", [Strategy.SCORE, Strategy.BALANCED])
@pytest.mark.parametrize("search", [Search.OTHERS, Search.ANY])
@pytest.mark.parametrize("begin", [0, 40, 95])
async def test_in_a_large_team_a_move_goes_where_python_says(
    world: World, strategy: Strategy, search: Search, begin: int
) -> None:
    """The best is who moves: to others only, the next best is, who need not be among the 32 that are looked at."""
    columns = range(32 * 3)
    next_best = 60
    roster = roster_of([coach(c, score=899_999 if c == next_best else 900_000 - 2 * c, limit=100) for c in columns])
    await world.publish(roster)
    await world.derive()
    booked = world.wish(at(100), strategy=strategy, column=0)
    first = await world.claim(booked)
    await world.gate.settle(Settlement(ORG, booked.token, None, ()))
    cells = cells_mask(DAY, booked.placement.start, booked.placement.end)
    grid = CoachGrid(
        roster,
        {DAY: DayColumns(dict.fromkeys(columns, OPEN_ALL_DAY), {0: cells}, {0: 1})},
        dict(enumerate(await world.grid.deficits(ORG, len(columns)))),
    )
    own = OwnTime(booked.token, 0, booked.placement, DAY, first.second, search)
    reply = await world.claim(world.wish(at(200), strategy=strategy, draws=(0, begin), own=own))
    held = Held(0, booked.placement, DAY, others=search is Search.OTHERS)
    wanted = Wanted(
        team=tuple(columns),
        placement=at(200),
        zones=((None, DAY),),
        strategy=strategy,
        column=-1,
        draws=(0, begin),
        held=held,
    )
    claimed = grid.claim(wanted)
    assert claimed is not None
    assert (reply.first, reply.second) == (claimed.column, claimed.packed())
    if strategy is Strategy.SCORE:
        assert reply.first == (next_best if search is Search.OTHERS else 0)


@pytest.mark.parametrize("script_server", [(None, False)], indirect=True, ids=["wheel"])
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("gap", [False, True])
async def test_in_wide_teams_words_without_anybody_free_are_passed_over_and_no_other(
    world: World, seed: int, gap: bool
) -> None:
    """Nearly everybody is taken, so that whole words are; of a team with a gap no word may be taken for another."""
    chance = random.Random(seed)
    columns = 32 * 40
    team = tuple(column for column in range(columns) if not (gap and 320 <= column < 352))
    free = sorted(chance.sample(team, chance.choice([1, 3, 40])))
    draws = draws_of(team, chance.getrandbits(62))
    if seed % 2:
        draws = *draws, chance.choice(free)  # else hardly one of those drawn is free
    await world.publish(roster_of([coach(column, limit=100) for column in range(columns)], team))
    taken = {column: cells_mask(DAY, DAY * CELLS_PER_DAY, (DAY + 1) * CELLS_PER_DAY) for column in range(columns)}
    await world.derive(occupied={column: cells for column, cells in taken.items() if column not in free})
    reply = await world.claim(world.wish(at(100), draws=draws))
    assert reply.outcome is ClaimOutcome.CLAIMED
    wanted = considered_columns(free, draws)
    considered: bytes = reply.second
    assert [int.from_bytes(considered[n : n + 2], "big") for n in range(0, len(considered), 10)] == wanted


@pytest.mark.parametrize("script_server", [(None, False)], indirect=True, ids=["wheel"])
@pytest.mark.parametrize("free", [0, 32 * 40 - 8, 32 * 40 - 1])
async def test_in_a_wide_team_the_only_one_who_is_free_is_found_also_at_its_ends(world: World, free: int) -> None:
    columns = 32 * 40
    await world.publish(roster_of([coach(column, limit=100) for column in range(columns)]))
    all_day = (1 << CELLS_PER_DAY) - 1
    await world.derive(occupied={column: all_day for column in range(columns) if column != free})
    for draws in ((0, 0), (5, 33), (0, free), (1, columns - 1)):
        wish = world.wish(at(100), draws=draws)
        reply = await world.claim(wish)
        assert (reply.outcome, reply.first) == (ClaimOutcome.CLAIMED, free)
        assert await world.release(wish) is ReleaseOutcome.RELEASED
