"""Slots of transports: each transport has its own, and nobody waits for a saturated one while others could go on."""

import asyncio
import time

import pytest

from notifications.delivery import slots
from notifications.delivery.slots import Limit, Slots
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "WAIT_SECONDS", 0.02)
    monkeypatch.setattr(slots, "SATURATED_SECONDS", 0.1)


async def test_each_transport_has_its_own_slots() -> None:
    """Where all are taken the others still have theirs; where none is left anywhere, one is waited for."""
    mine = Slots(["email", "webhook"], slots=1)
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
    mine = Slots(["email", "webhook"], slots=1)
    await mine.take_free()
    waiting = asyncio.create_task(mine.wait("email"))
    await asyncio.sleep(0)
    mine.give_back("email", was_used=True)
    mine.give_back("webhook", was_used=True)
    assert await mine.take_free() == ({"webhook"}, {"email"})
    assert await waiting


async def test_nobody_waits_for_a_clogged_transport_while_another_is_in_use() -> None:
    """For a while; a slot that is free is taken meanwhile."""
    mine = Slots(["email", "webhook"], slots=2)
    await mine.take_free()
    await mine.take_free()
    mine.give_back("email", was_used=True)
    assert not await mine.wait("webhook")
    assert mine.saturated(["email", "webhook"]) == {"webhook"}
    mine.give_back("webhook", was_used=True)
    assert await mine.take_free() == ({"email", "webhook"}, set())
    await wait_until(lambda: not mine.saturated(["webhook"]))


async def test_a_slow_transport_that_is_the_only_one_in_use_is_waited_for() -> None:
    """There is nobody to make room for: what waits stays in its order."""
    mine = Slots(["email", "webhook"], slots=1)
    await mine.take_free()
    waiting = asyncio.create_task(mine.wait("webhook"))
    await asyncio.sleep(5 * slots.WAIT_SECONDS)
    assert not waiting.done()
    mine.give_back("webhook", was_used=True)
    assert await waiting
    assert not mine.saturated(["webhook"])


async def test_a_transport_may_have_slots_of_its_own() -> None:
    """More or fewer than the others."""
    mine = Slots(["email", "webhook"], slots=2, limits={"email": Limit(slots=1)})
    assert await mine.take_free() == ({"email", "webhook"}, set())
    assert await mine.take_free() == ({"webhook"}, {"email"})


async def test_messages_begin_at_the_rate_of_their_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they find a slot, wait for one, or are further ones in a slot; what was not used does not count."""
    monkeypatch.setattr(slots, "WAIT_SECONDS", 30)
    mine = Slots(["email"], slots=5, limits={"email": Limit(slots=5, rate_per_second=20)})
    began = time.monotonic()
    for _ in range(3):
        assert await mine.take_free() == ({"email"}, set())
    await asyncio.gather(*(mine.wait("email") for _ in range(2)))
    await mine.pace("email")
    assert time.monotonic() - began >= 5 / 20
    for _ in range(5):
        mine.give_back("email", was_used=True)
    for _ in range(100):
        await mine.take_free()
        mine.give_back("email", was_used=False)
    assert time.monotonic() - began < 60


async def test_who_waits_for_a_turn_hears_of_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate may be low, and a stop must not wait for it."""
    monkeypatch.setattr(slots, "CHECK_SECONDS", 0.02)
    mine = Slots(["email"], slots=2, limits={"email": Limit(slots=2, rate_per_second=0.001)})
    await mine.take_free()
    waiting = [asyncio.create_task(call) for call in (mine.take_free(), mine.wait("email"), mine.pace("email"))]
    await asyncio.sleep(0)
    mine.close()
    assert await asyncio.wait_for(waiting[0], 5) == (set(), {"email"})
    assert await asyncio.wait_for(waiting[1], 5) is False
    await asyncio.wait_for(waiting[2], 5)
