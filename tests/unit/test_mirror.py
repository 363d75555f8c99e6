"""Mirror: the newest states of a family, and their indexes."""

from collections import deque

import pytest

from realtime.broker.publication import Position
from realtime.live import mirror as mirror_module
from realtime.live.counters import Counters
from realtime.live.items import TileIndex
from realtime.live.mirror import Mirror, Reload
from realtime.live.pause import Pause
from realtime.live.places import Area, Box
from tests.support.scenes import FEEDS, vehicle

SOMEWHERE: tuple[Box, ...] = ((0, 0, 1023, 1023),)


async def test_only_indexes_that_no_view_uses_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And only when another one is prepared: finding the items of an area removes no index."""
    made: list[int] = []

    def make(level: int) -> TileIndex:
        made.append(level)
        return TileIndex(level)

    monkeypatch.setattr(mirror_module, "TileIndex", make)
    mirror = Mirror(Counters())
    levels = list(range(2, 2 + 2 * mirror_module._INDEXES_KEPT, 2))
    for level in levels:
        await mirror.prepare(level, list, Pause())
    mirror.items_in(Area(level=0, rectangles=SOMEWHERE))
    assert made == [*levels, 0]
    for level in levels:
        mirror.items_in(Area(level=level, rectangles=SOMEWHERE))
    assert made == [*levels, 0], "all are still there"
    await mirror.prepare(20, lambda: {4}, Pause())
    mirror.items_in(Area(level=4, rectangles=SOMEWHERE))
    assert made == [*levels, 0, 20]
    mirror.items_in(Area(level=2, rectangles=SOMEWHERE))
    assert made == [*levels, 0, 20, 2]


async def test_a_topic_that_is_not_loaded_has_no_epoch() -> None:
    """Clients are sent only the positions of topics that are loaded."""
    mirror = Mirror(Counters())
    await mirror.apply(deque([Reload("a", Position(3, "e"), {})]), tick=1, stay_bits=0, pause=Pause())
    assert (mirror.epoch("a"), mirror.epoch("b")) == ("e", None)
    assert len(mirror.position_lines(["a", "b"])) == 1


def test_a_large_topic_is_loaded_in_steps() -> None:
    """Other tasks run in between, also when all its keys are removed."""
    mirror = Mirror(Counters())
    states = {f"k{at}": vehicle(f"k{at}", at, 0) for at in range(1, 2_001)}
    for kept in (states, {}):
        steps = mirror._apply_reload(Reload(FEEDS[0], Position(2_000, "e"), kept), {}, set(), set())
        assert sum(1 for _ in steps) >= 10
