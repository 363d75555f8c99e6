"""Slots of transports: each transport has its own, and nobody waits for a clogged one while others could go on."""

import asyncio

import pytest

from notifications import lanes
from notifications.lanes import Lanes
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr(lanes, "CLOGGED_SECONDS", 0.1)


async def test_each_transport_has_its_own_slots() -> None:
    """Where all are taken the others still have theirs; where none is left anywhere, one is waited for."""
    mine = Lanes(["email", "webhook"], slots=1)
    assert await mine.take_free() == ({"email", "webhook"}, set())
    mine.give_back("email", was_used=False)
    assert await mine.take_free() == ({"email"}, {"webhook"})
    waiting = asyncio.create_task(mine.take_free())
    await asyncio.sleep(0)
    assert not waiting.done()
    mine.give_back("webhook", was_used=True)
    assert await waiting == ({"webhook"}, {"email"})


async def test_a_slot_goes_to_whoever_waits_before_it_counts_as_free() -> None:
    """So what was handed out first is sent first."""
    mine = Lanes(["email", "webhook"], slots=1)
    await mine.take_free()
    waiting = asyncio.create_task(mine.wait("email"))
    await asyncio.sleep(0)
    mine.give_back("email", was_used=True)
    mine.give_back("webhook", was_used=True)
    assert await mine.take_free() == ({"webhook"}, {"email"})
    assert await waiting


async def test_nobody_waits_for_a_clogged_transport_while_another_is_in_use() -> None:
    """For a while; a slot that is free is taken meanwhile."""
    mine = Lanes(["email", "webhook"], slots=2)
    await mine.take_free()
    await mine.take_free()
    mine.give_back("email", was_used=True)
    assert not await mine.wait("webhook")
    assert mine.clogged(["email", "webhook"]) == {"webhook"}
    mine.give_back("webhook", was_used=True)
    assert await mine.take_free() == ({"email", "webhook"}, set())
    await wait_until(lambda: not mine.clogged(["webhook"]))


async def test_a_slow_transport_that_is_the_only_one_in_use_is_waited_for() -> None:
    """There is nobody to make room for: what waits stays in its order."""
    mine = Lanes(["email", "webhook"], slots=1)
    await mine.take_free()
    waiting = asyncio.create_task(mine.wait("webhook"))
    await asyncio.sleep(5 * lanes.PATIENCE_SECONDS)
    assert not waiting.done()
    mine.give_back("webhook", was_used=True)
    assert await waiting
    assert not mine.clogged(["webhook"])
