"""A roster is put beside its grid as it was read, whatever was written since."""

from __future__ import annotations

from unittest.mock import AsyncMock, patch

from service.app import Services


async def test_who_is_owed_something_and_came_after_the_roster_was_read_is_left_to_the_next_roster(
    services: Services, org: int
) -> None:
    roster = await services.rosters.get(org)
    columns = roster.width * 8
    with (
        patch.object(services.grid, "has_roster", AsyncMock(return_value=None)),
        patch.object(services.roster_store, "deficits", AsyncMock(return_value={0: -5, columns: 5})),
        patch.object(services.grid, "publish", wraps=services.grid.publish) as publish,
    ):
        await services.rosters.publish(roster)
    assert publish.await_args is not None
    assert publish.await_args.args[1] == [-5] + [0] * (columns - 1)
