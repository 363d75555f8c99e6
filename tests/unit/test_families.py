"""The topics of a family, from registrations that are announced, expire and are read again: which extents they have."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
import redis

from realtime.broker.extents import EXTENT_BITS, Extent
from realtime.live import families
from realtime.live.counters import Counters
from realtime.live.families import FamilyMap
from realtime.redis.backoff import Backoff
from realtime.redis.outage import Outage
from tests.support.waiting import wait_until

WORLD_BOX = (0, 0, (256 << EXTENT_BITS) - 1, (256 << EXTENT_BITS) - 1)


class Source:
    """The registrations as Redis has them, and the subscription of the one map of a test."""

    def __init__(self) -> None:
        self.fields: dict[bytes, bytes] = {}
        self.read_count = 0
        # Cleared while reading takes long.
        self.answers = asyncio.Event()
        self.answers.set()

    def attach_topic(
        self, topic: str, *, on_payloads: Callable[[list[bytes]], None], on_gap: Callable[[], None]
    ) -> Any:
        self.on_payloads, self.on_gap = on_payloads, on_gap
        return self

    async def ready(self) -> None:
        pass

    def detach(self) -> None:
        pass

    async def read_extents(self, family: str) -> Mapping[bytes, bytes]:
        fields = dict(self.fields)
        await self.answers.wait()
        self.read_count += 1
        return fields

    async def remove_extents(self, family: str, fields: Mapping[bytes, bytes]) -> None:
        for field in fields:
            del self.fields[field]


def registration(topic: str, process: str, extent: Extent, until: float) -> tuple[bytes, bytes]:
    return f"{topic} {process}".encode(), " ".join(map(str, (*extent, round(until * 1000)))).encode()


@pytest.fixture
async def source() -> Source:
    return Source()


@pytest.fixture
async def family_map(source: Source) -> AsyncIterator[FamilyMap]:
    family_map = FamilyMap(
        "vehicles.*",
        is_member=lambda topic: topic.startswith("vehicles."),
        source=source,
        crypter=None,
        outage=Outage("Redis", backoff=Backoff(base_seconds=0, cap_seconds=0)),
        counters=Counters(),
    )
    await family_map.loaded
    yield family_map
    family_map.stop()


async def test_an_announcement_costs_as_much_as_its_topics_have_registrations(
    source: Source, family_map: FamilyMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other topics of the family are not walked: otherwise n new topics would cost n² steps."""
    later = time.time() + 3_600
    tile = Extent(1, 1, 1, 1)
    fields = [registration(f"vehicles.{n}", process, tile, later) for n in range(1_000) for process in ("a", "b")]
    source.on_payloads([b"\n".join(itertools.chain.from_iterable(fields))])
    assert len(family_map.topics_in([WORLD_BOX])) == 1_000
    joined: list[Extent] = []
    join = Extent.joined

    def joined_with(self: Extent, other: Extent) -> Extent:
        joined.append(self)
        return join(self, other)

    monkeypatch.setattr(Extent, "joined", joined_with)
    source.on_payloads([b"\n".join(registration("vehicles.7", "c", Extent(9, 9, 9, 9), later))])
    assert len(joined) == 2, "the three registrations of one topic"
    assert family_map.topics_in([(9 << EXTENT_BITS, 9 << EXTENT_BITS) * 2]) == {"vehicles.7"}


async def test_answers_stay_while_no_extent_changes(source: Source, family_map: FamilyMap) -> None:
    """Publishers register the same extents again in each period: views need not be compared then."""
    now = time.time()
    source.on_payloads([b"\n".join(registration("vehicles.a", "1", Extent(1, 1, 5, 5), now + 60))])
    before = family_map.topics_in([WORLD_BOX])
    source.on_payloads([b"\n".join(registration("vehicles.a", "1", Extent(1, 1, 5, 5), now + 90))])
    source.on_payloads([b"\n".join(registration("vehicles.a", "2", Extent(2, 2, 3, 3), now + 90))])
    assert family_map.topics_in([WORLD_BOX]) is before == {"vehicles.a"}
    source.on_payloads([b"\n".join(registration("vehicles.b", "1", Extent(7, 7, 7, 7), now + 90))])
    assert family_map.topics_in([WORLD_BOX]) == {"vehicles.a", "vehicles.b"}


async def test_announcements_do_not_pile_up_while_registrations_cannot_be_read(
    source: Source, family_map: FamilyMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that came before a reading are in Redis. What is missed during a reading is read, and counted."""
    until = time.time() + 60
    announced = [registration(f"vehicles.{n}", "a", Extent(1, 1, 1, 1), until) for n in range(20)]
    held: list[int] = []
    read = source.read_extents

    async def read_or_fail(family: str) -> Mapping[bytes, bytes]:
        held.append(len(family_map._held or ()))
        source.fields.update([announced[len(held)]])
        source.on_payloads([b"\n".join(announced[len(held)])])
        if len(held) < 10:
            raise redis.ConnectionError
        if len(held) == 10:
            source.on_gap()
        return await read(family)

    monkeypatch.setattr(source, "read_extents", read_or_fail)
    source.on_gap()
    await wait_until(lambda: family_map._held is None)
    assert held == [0] * 11
    assert family_map._counters.reread_count == 1
    assert family_map.topics_in([WORLD_BOX]) == {f"vehicles.{n}" for n in range(1, 12)}


class Model:
    """What the map must show: all registrations that it knows, walked for each question."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], tuple[Extent, float]] = {}

    def topics_in(self, area: Extent) -> set[str]:
        found = set()
        for topic in {topic for topic, _ in self.known}:
            x0, y0, x1, y1 = zip(
                *(extent for (name, _), (extent, _) in self.known.items() if name == topic), strict=True
            )
            if min(x0) <= area.x1 and max(x1) >= area.x0 and min(y0) <= area.y1 and max(y1) >= area.y0:
                found.add(topic)
        return found


def random_extent(chance: random.Random) -> Extent:
    x, y = chance.randrange(250), chance.randrange(250)
    return Extent(x, y, x + chance.randrange(6), y + chance.randrange(6))


@pytest.mark.parametrize("seed", range(5))
async def test_the_map_equals_a_model_that_walks_all_registrations(
    source: Source, family_map: FamilyMap, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whatever is announced, expires, or is lost and read again, also what is announced during the reading."""
    chance, model, now = random.Random(seed), Model(), 1_000_000.0  # noqa: S311 - a test
    monkeypatch.setattr("realtime.live.families.time.time", lambda: now)

    def announce() -> None:
        payload: list[bytes] = []
        for _ in range(chance.randrange(1, 4)):
            name = f"vehicles.{chance.randrange(12)}", f"process-{chance.randrange(3)}"
            extent, until = random_extent(chance), now + chance.randrange(1, 40)
            field, value = registration(*name, extent, until)
            payload += field, value
            source.fields[field] = value
            model.known[name] = extent, until
        payload += registration("others.1", "forged", Extent(0, 0, 255, 255), now + 60)
        source.on_payloads([b"\n".join(payload)])

    async def read_again() -> None:
        # Some were removed from Redis while the subscription was lost.
        for field in chance.sample(sorted(source.fields), len(source.fields) // 3):
            del source.fields[field]
            topic, process = field.decode().split(" ")
            model.known.pop((topic, process), None)
        model.known = {name: each for name, each in model.known.items() if each[1] > now}
        read_count = source.read_count
        source.answers.clear()
        source.on_gap()
        announce()
        source.answers.set()
        await wait_until(lambda: source.read_count > read_count and family_map._held is None)

    for _ in range(150):
        now += chance.random()
        step = chance.random()
        if step < 0.7:
            announce()
        elif step < 0.85:
            family_map._changed(family_map._forget_expired())
            model.known = {name: each for name, each in model.known.items() if each[1] > now}
        else:
            await read_again()
        for area in (Extent(0, 0, 255, 255), random_extent(chance)):
            box = tuple(tile << EXTENT_BITS for tile in area)
            assert family_map.topics_in([box]) == model.topics_in(area)  # type: ignore[list-item]
    now += 1_000
    family_map._changed(family_map._forget_expired())
    assert not family_map._known and not family_map._extents, "no topic keeps memory after its last registration"


async def test_what_was_announced_before_a_gap_does_not_replace_what_was_read_after_it(
    source: Source, family_map: FamilyMap
) -> None:
    """The extent of a topic would be too small until its next registration."""
    later = time.time() + 3600
    field, old = registration("vehicles.a", "p", Extent(1, 1, 1, 1), later)
    _, new = registration("vehicles.a", "p", Extent(1, 1, 200, 200), later)
    source.answers.clear()
    source.on_gap()
    await wait_until(lambda: family_map._held is not None)
    source.on_payloads([field + b"\n" + old])
    source.on_gap()
    source.fields[field] = new
    source.answers.set()
    await wait_until(lambda: family_map._held is None)
    assert family_map._extents == {"vehicles.a": Extent(1, 1, 200, 200)}


async def test_expired_registrations_that_could_not_be_removed_are_removed_later(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the outage ends with that."""
    monkeypatch.setattr(families, "_EXPIRY_SECONDS", 0.02)
    outage = Outage("Redis")
    field, value = registration("vehicles.a", "p", Extent(1, 1, 1, 1), time.time() - 1)
    source.fields[field] = value
    read, failures = source.read_extents, [redis.ConnectionError("gone")]
    family_map = FamilyMap(
        "vehicles.*", is_member=bool, source=source, crypter=None, outage=outage, counters=Counters()
    )
    await family_map.loaded

    async def fail_once(name: str) -> Mapping[bytes, bytes]:
        if failures:
            raise failures.pop()
        return await read(name)

    source.read_extents = fail_once  # type: ignore[method-assign]
    await wait_until(lambda: not failures)
    await wait_until(lambda: not source.fields and not outage.is_on)
    family_map.stop()
