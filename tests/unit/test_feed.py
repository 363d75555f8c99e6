"""A feed's snapshot, read again while something was missed: with waits, a counter, and no false report of an outage."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from realtime.broker.history import HistoryPolicy
from realtime.broker.publication import Position, Publication, head_of
from realtime.broker.relevance import Relevance, encode_relevance
from realtime.broker.snapshot import Loaded, Snapshot
from realtime.live.counters import Counters
from realtime.live.feed import Feed
from realtime.live.scene import Scene
from realtime.redis.backoff import Backoff
from realtime.redis.outage import Outage
from tests.support.waiting import wait_until

TOPIC = "trams.bern"
LINE = encode_relevance(Relevance("tram"))
AN_HOUR = Backoff(base_seconds=3_600, cap_seconds=3_600, sure_part=1)
AT_ONCE = Backoff(base_seconds=0, cap_seconds=0)


def frame(offset: int) -> bytes:
    return b'{"type":"message","topic":"trams.bern","offset":%d,"key":"tram","data":null}' % offset


class Source:
    """One topic whose publications arrive while its snapshot is read."""

    def __init__(self) -> None:
        self.offset = self.read_count = 0
        # How many publications arrive during each of the next readings.
        self.arriving: list[int] = []
        self.errors: list[Exception] = []

    def attach_topic(
        self, topic: str, *, on_payloads: Callable[[list[bytes]], None], on_gap: Callable[[], None]
    ) -> Any:
        self.on_payloads, self.on_gap = on_payloads, on_gap
        return self

    async def ready(self) -> None:
        pass

    def detach(self) -> None:
        pass

    def publish(self) -> None:
        self.offset += 1
        self.on_payloads([b"%b%d\n\x1e%b\n%b" % (head_of("e1"), self.offset, LINE, frame(self.offset))])

    async def read_snapshot(self, topic: str, policy: Snapshot) -> Loaded:
        self.read_count += 1
        if self.errors:
            raise self.errors.pop(0)
        position = Position(self.offset, "e1")
        for _ in range(self.arriving.pop(0) if self.arriving else 0):
            self.publish()
        await asyncio.sleep(0)
        publications = [Publication(position, frame(position.offset), LINE)] if position.offset else []
        return Loaded(position=position, publications=publications)

    async def sweep_snapshot(self, *given: Any, **more: Any) -> int:
        return 0


class Follower:
    """A feed of the source, and what came of it."""

    def __init__(self) -> None:
        self.source, self.counters = Source(), Counters()
        self.scene = Scene(TOPIC, gather_seconds=0, counters=self.counters)
        self.feed: Feed | None = None

    def begin(self, backoff: Backoff) -> Feed:
        self.feed = Feed(
            TOPIC,
            Snapshot(),
            HistoryPolicy(),
            source=self.source,
            scene=self.scene,
            crypter=None,
            outage=Outage("Redis", backoff=backoff),
            counters=self.counters,
        )
        return self.feed


@pytest.fixture
async def follower() -> AsyncIterator[Follower]:
    follower = Follower()
    yield follower
    if follower.feed is not None:
        follower.feed.stop()
    await follower.scene.stop()


@pytest.fixture
def room_for_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three publications are more than may wait for a snapshot."""
    monkeypatch.setattr("realtime.live.feed.HELD_LIMIT_BYTES", 300)


@pytest.mark.usefixtures("room_for_two")
async def test_a_snapshot_that_takes_too_long_is_read_again_after_a_wait(
    follower: Follower, caplog: pytest.LogCaptureFixture
) -> None:
    """It would be read in a circle otherwise. Redis is not unavailable, and nothing like that is logged."""
    follower.source.arriving = [3] * 1_000
    follower.begin(AN_HOUR)
    await wait_until(lambda: follower.source.read_count)
    for _ in range(100):
        await asyncio.sleep(0)
    assert follower.source.read_count == 1
    assert follower.counters.reread_count == 1
    assert not caplog.records


@pytest.mark.usefixtures("room_for_two")
async def test_each_repeated_reading_is_counted_and_the_feed_has_all_in_the_end(follower: Follower) -> None:
    """The publications that waited for the last reading are applied after it."""
    follower.source.arriving = [3, 3, 2]
    feed = follower.begin(AT_ONCE)
    await feed.loaded
    assert (follower.source.read_count, follower.counters.reread_count, follower.counters.loaded_count) == (3, 2, 1)
    assert (feed._offset, feed._epoch) == (8, "e1")


@pytest.mark.usefixtures("room_for_two")
async def test_what_arrives_during_the_wait_takes_no_room_from_the_next_reading(follower: Follower) -> None:
    """The next snapshot contains it."""
    source = follower.source
    source.arriving = [3, 2]
    feed = follower.begin(Backoff(base_seconds=0.2, cap_seconds=0.2, sure_part=1))
    await wait_until(lambda: follower.counters.reread_count)
    source.publish()
    source.publish()
    await feed.loaded
    assert (source.read_count, feed._offset) == (2, 7)


async def test_a_defect_is_logged_as_what_it_is_and_the_snapshot_is_read_again(
    follower: Follower, caplog: pytest.LogCaptureFixture
) -> None:
    """With a traceback, a few times: it says nothing about Redis."""
    follower.source.errors = [TypeError("a defect") for _ in range(50)]
    await follower.begin(AT_ONCE).loaded
    assert follower.source.read_count == 51
    assert "unavailable" not in caplog.text
    assert "Traceback" in caplog.text
    assert 1 <= len(caplog.records) <= 5
    assert TOPIC in caplog.messages[0]
