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
    monkeypatch.setattr(slots, "SATURATED_SECONDS", 1.0)


async def test_each_transport_has_its_own_slots() -> None:
    """If one transport has none left, the others still have theirs. If none has any, the bot waits for one."""
    mine = Slots(["email", "webhook"], slots=1)
    assert await mine.take_free() == ({"email", "webhook"}, set())
    mine.give_back("email", was_used=False)
    assert await mine.take_free() == ({"email"}, {"webhook"})
    waiting = asyncio.create_task(mine.take_free())
    await asyncio.sleep(0)
    assert not waiting.done()
    mine.give_back("webhook", was_used=True)
    assert await waiting == ({"webhook"}, {"email"})


async def test_a_slot_goes_to_a_waiting_task_first() -> None:
    """So messages are sent in the order of their entries."""
    mine = Slots(["email", "webhook"], slots=1)
    await mine.take_free()
    waiting = asyncio.create_task(mine.wait("email"))
    await asyncio.sleep(0)
    mine.give_back("email", was_used=True)
    mine.give_back("webhook", was_used=True)
    assert await mine.take_free() == ({"webhook"}, {"email"})
    assert await waiting


async def test_no_task_waits_for_a_saturated_transport_while_another_is_in_use() -> None:
    """For some time. A free slot is taken all the same."""
    mine = Slots(["email", "webhook"], slots=2)
    await mine.take_free()
    await mine.take_free()
    mine.give_back("email", was_used=True)
    assert not await mine.wait("webhook")
    assert mine.saturated(["email", "webhook"]) == {"webhook"}
    mine.give_back("webhook", was_used=True)
    assert await mine.take_free() == ({"email", "webhook"}, set())
    await wait_until(lambda: not mine.saturated(["webhook"]))


async def test_tasks_wait_for_a_slow_transport_if_it_is_the_only_one_in_use() -> None:
    """No other transport needs the bot, so the messages stay in order."""
    mine = Slots(["email", "webhook"], slots=1)
    await mine.take_free()
    waiting = asyncio.create_task(mine.wait("webhook"))
    await asyncio.sleep(5 * slots.WAIT_SECONDS)
    assert not waiting.done()
    mine.give_back("webhook", was_used=True)
    assert await waiting
    assert not mine.saturated(["webhook"])


async def test_a_transport_may_have_its_own_number_of_slots() -> None:
    """It may be larger or smaller than that of the others."""
    mine = Slots(["email", "webhook"], slots=2, limits={"email": Limit(slots=1)})
    assert await mine.take_free() == ({"email", "webhook"}, set())
    assert await mine.take_free() == ({"webhook"}, {"email"})


async def test_messages_begin_at_the_rate_of_their_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a free slot, after a wait, or as a further message in the same slot. An unused slot does not count."""
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


async def test_a_task_that_waits_for_the_rate_stops_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate may be low, but a stop must not wait for it."""
    monkeypatch.setattr(slots, "CHECK_SECONDS", 0.02)
    mine = Slots(["email"], slots=2, limits={"email": Limit(slots=2, rate_per_second=0.001)})
    await mine.take_free()
    waiting = [asyncio.create_task(call) for call in (mine.take_free(), mine.wait("email"), mine.pace("email"))]
    await asyncio.sleep(0)
    mine.close()
    assert await asyncio.wait_for(waiting[0], 5) == (set(), {"email"})
    assert await asyncio.wait_for(waiting[1], 5) is False
    await asyncio.wait_for(waiting[2], 5)
