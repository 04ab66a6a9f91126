"""The mark of a refused request is freed by its owner, and never an answer or somebody else's mark."""

from __future__ import annotations

import pytest

from tests.lua.world import ORG, World


@pytest.mark.outcome("free_mark", "freed", "absent")
async def test_only_the_owner_frees_its_mark(world: World) -> None:
    name = world.keys.answer(ORG, "key-1")
    assert not await world.scripts.free_mark(name, "a")
    for other in (b"pb", b"d" + b"0" * 32 + b"pa"):
        await world.redis.set(name, other)
        assert not await world.scripts.free_mark(name, "a")
        assert await world.redis.get(name) == other
    await world.redis.set(name, b"pa")
    assert await world.scripts.free_mark(name, "a")
    assert await world.redis.get(name) is None
