"""
Workers without a loop of their own, and what Redis must look like whatever they do: for schedules that a test makes up.

Each step of a worker is one call of a real Lua script. In between, anything may happen to Redis.
"""

import asyncio
import copy
import enum
import hashlib
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

import redis

from realtime.redis import clients, scripts
from realtime.redis.keys import Keys
from realtime.streams import Entry, dead_letters, group
from realtime.streams.attempts import LONGEST_WAIT_SECONDS
from realtime.streams.entry import Parking, Redelivery
from realtime.streams.group import ConsumerGroup
from realtime.streams.keys import GroupKeys
from tests.support.streams import GROUP, STREAM

__all__ = ["MAX_ATTEMPTS", "Model", "ModelWorker", "State", "scripts_with_a_clock"]

MAX_ATTEMPTS = 3
LEASE_SECONDS = 3600.0
CLOCK = "redis.call('GET', stream .. ':clock')"
# The milliseconds at which the clock of a model begins.
BEGINNING_MS = 1_700_000_000_000
# Of working on when nothing fails any more, at the most.
ROUNDS = 30


def scripts_with_a_clock() -> dict[str, dict[str, scripts.Script]]:
    """The scripts of a consumer group, going by the clock in the key of the stream with ":clock" behind it."""
    found: dict[str, dict[str, scripts.Script]] = {}
    for table in ("_SCRIPTS", "_READ_SCRIPTS"):
        found[table] = {}
        for name, script in getattr(group, table).items():
            here = "local now = clock[1] * 1000 + math.floor(clock[2] / 1000)"
            assert here in script.text
            found[table][name] = copy.copy(script)
            found[table][name].text = text = script.text.replace(here, f"local now = tonumber({CLOCK})")
            found[table][name]._sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return found


class State(enum.Enum):
    """Of an entry in the hands of a worker."""

    WAITING = enum.auto()
    # In the handler.
    RUNNING = enum.auto()
    # The handler has returned, Redis has not heard of it.
    HANDLED = enum.auto()
    # Redis has heard of its end, the worker has no answer.
    TOLD = enum.auto()


@dataclass
class Held:
    """An entry that a worker has in flight."""

    entry: Entry
    is_begun: bool
    state: State = State.WAITING
    # Redis says that it is not this worker's; its handler runs nevertheless.
    is_lost: bool = False
    # Handed out again while its end was on its way.
    is_again: bool = False

    @property
    def is_ending(self) -> bool:
        """Whether its end is on its way to Redis."""
        return self.state in (State.HANDLED, State.TOLD)


class ModelWorker:
    """A worker as StreamWorker is one, but that a schedule says when it does what."""

    def __init__(self, model: "Model", consumer: str) -> None:
        self._model = model
        self.consumer = consumer
        self.group = ConsumerGroup(
            reader=model.async_client,
            redis=model.async_client,
            keys=model.keys,
            consumer=consumer,
            groups=(GROUP, "other"),
            order_field="of",
        )
        self.token = ""
        self.in_flight: dict[bytes, Held] = {}
        self._lease_count = 0

    def take(self, count: int, *, is_heard: bool = True) -> int:
        """Ask what it holds, if it must, and take. Returns how many entries it got."""
        if not self.token:
            self._ask()
        result = self._model.run(
            self.group.take(self.token, LEASE_SECONDS, count, limit=1000, suspect_deaths=2, max_attempts=MAX_ATTEMPTS)
        )
        if result is None or not is_heard:
            self.token = ""
            return 0
        taken = [*result.redelivered, *(Redelivery(entry, True) for entry in result.new)]
        for entry, is_begun in taken:
            self._hold(entry, is_begun)
        return len(taken) + result.parked_count + result.unreadable_count

    def begin(self, key: bytes) -> None:
        """Begin an attempt with the oldest entry of a key, as far as there is one and none is being handled."""
        held = self._oldest(key)
        if held is None or self._running(key) is not None:
            return
        if not held.is_begun:
            if held.entry.attempt >= MAX_ATTEMPTS:
                self._give_up(held)
                return
            if not self._model.run(self.group.begin_attempts([held.entry])):
                del self.in_flight[held.entry.id]
                self.token = ""
                return
            held.entry, held.is_begun = _with_attempt(held.entry, held.entry.attempt + 1), True
        held.state = State.RUNNING
        self._model.began(self, held.entry)

    def succeed(self, key: bytes) -> None:
        """The handler returns."""
        if (held := self._running(key)) is not None:
            held.state = State.HANDLED
            self._model.handled.add(held.entry.id)

    def fail(self, key: bytes, delay_seconds: float) -> None:
        """The handler fails: all entries of the key are parked, or the entry is given up after the last attempt."""
        held = self._running(key)
        if held is None:
            return
        held.state = State.WAITING
        if held.is_lost:
            del self.in_flight[held.entry.id]
        elif held.entry.attempt >= MAX_ATTEMPTS:
            self._give_up(held)
        else:
            others = [each for each in self._of(key) if each is not held and not each.is_ending]
            parkings = [Parking(held.entry, held.entry.attempt, delay_seconds)]
            parkings += [Parking(each.entry, each.entry.attempt - each.is_begun, 0.0) for each in others]
            is_moved = self._model.run(self.group.park(key, parkings))
            if is_moved is not None:
                for parking in parkings:
                    del self.in_flight[parking.entry.id]
            if not is_moved:
                self.token = ""

    def give_up(self, key: bytes) -> None:
        """The handler raises a PermanentError."""
        if (held := self._running(key)) is not None and not held.is_lost:
            self._give_up(held)

    def tell(self) -> None:
        """Tell Redis of all ends."""
        ended = [held for held in self.in_flight.values() if held.state is State.HANDLED]
        if ended:
            self._model.run(self.group.finish([held.entry for held in ended]))
        for held in ended:
            held.state = State.TOLD

    def hear(self) -> None:
        """The answers come."""
        for id, held in list(self.in_flight.items()):
            if held.state is State.TOLD:
                if held.is_again:
                    held.state, held.is_again = State.HANDLED, False
                else:
                    del self.in_flight[id]

    @property
    def held_keys(self) -> list[bytes]:
        """The keys of which something can be handled."""
        return sorted({held.entry.key for held in self.in_flight.values() if not held.is_ending})

    def compare(self) -> None:
        """Look whether Redis holds anything for this worker that it does not have."""
        if self.token and not self.in_flight.keys() >= set(self._model.run(self.group.holdings())):
            self.token = ""

    def leave(self) -> None:
        """End in order."""
        unbegun = [held.entry for held in self.in_flight.values() if held.is_begun and held.state is State.WAITING]
        self.tell()
        self._model.run(self.group.leave(unbegun))
        self.in_flight.clear()

    def maintain(self) -> None:
        """One round of what a worker does for its group."""
        run = self._model.run
        run(self.group.trim())
        for consumer in run(self.group.find_dead(0)):
            while not run(self.group.reclaim(consumer, 0)).is_deleted:
                pass
        self._model.client.delete(self._model.keys.check)
        run(self.group.repair(1, LONGEST_WAIT_SECONDS))

    def work(self) -> int:
        """Do everything that can be done now, without a failure. Returns how much that was."""
        count = self.take(100)
        for key in sorted({held.entry.key for held in self.in_flight.values()}):
            while self._running(key) is not None or self._oldest(key) is not None:
                self.begin(key)
                self.succeed(key)
                count += 1
        for _ in range(2):
            self.tell()
            self.hear()
        return count

    def _ask(self) -> None:
        self._lease_count += 1
        self.token = f"{self.consumer}:{self._lease_count}"
        held = self._model.run(self.group.recover(self.token, LEASE_SECONDS))
        told = {taken.entry.id for taken in held}
        for id, each in list(self.in_flight.items()):
            if id not in told and not each.is_ending:
                each.is_lost = True
                if each.state is State.WAITING:
                    del self.in_flight[id]
        for entry, is_begun in held:
            if entry.id in self.in_flight:
                self.in_flight[entry.id].is_lost = False
            elif entry.fields:
                self._hold(entry, is_begun)

    def _hold(self, entry: Entry, is_begun: bool) -> None:
        known = self.in_flight.get(entry.id)
        if known is None:
            self.in_flight[entry.id] = Held(entry, is_begun)
        elif known.is_ending:
            known.is_again = True
        else:
            known.is_lost = False

    def _give_up(self, held: Held) -> None:
        if self._model.run(self.group.dead_letter(held.entry, "failed", "")) is None:
            self.token = ""
        del self.in_flight[held.entry.id]

    def _of(self, key: bytes) -> list[Held]:
        found = [held for held in self.in_flight.values() if held.entry.key == key]
        return sorted(found, key=lambda held: _order(held.entry.id))

    def _oldest(self, key: bytes) -> Held | None:
        return next((held for held in self._of(key) if held.state is State.WAITING), None)

    def _running(self, key: bytes) -> Held | None:
        return next((held for held in self._of(key) if held.state is State.RUNNING), None)


@dataclass
class Model:
    """
    A stream with its groups, its workers, and what must be true of them.

    Args:
        url: A Redis.
        prefix: Before all its keys.
    """

    url: str
    prefix: str
    workers: list[ModelWorker] = field(default_factory=list)
    # The key of each entry that was appended and that nobody has deleted since, in any way.
    appended: dict[bytes, bytes] = field(default_factory=dict)
    handled: set[bytes] = field(default_factory=set)
    # What the other group has finished.
    other_done: set[bytes] = field(default_factory=set)
    # Whether each entry is handled in its order and once: nothing was deleted, no worker has died or is deaf.
    is_calm: bool = True

    def __post_init__(self) -> None:
        self.stream = Keys(self.prefix).stream(STREAM)
        self.keys = GroupKeys(self.stream, GROUP)
        self.client: redis.Redis = clients.publisher(self.url)
        self._loop = asyncio.new_event_loop()
        self.async_client = clients.async_publisher(self.url)
        self._now_ms = self.latest_ms = BEGINNING_MS
        self._name_count = 0
        self.pass_time(0)
        self.hire()
        self.run(self.workers[0].group.create())

    def close(self) -> None:
        """Nothing is left behind."""
        names = [*self.client.scan_iter(match=f"*{self.prefix}*", count=1000)]
        if names:
            self.client.delete(*names)
        self.client.close()
        self._loop.run_until_complete(self.async_client.aclose())
        self._loop.close()

    def run[T](self, step: Coroutine[Any, Any, T]) -> T:
        """One call of Redis."""
        return self._loop.run_until_complete(step)

    def hire(self) -> None:
        """Another worker."""
        self._name_count += 1
        self.workers.append(ModelWorker(self, f"w{self._name_count}"))

    def pass_time(self, seconds: float) -> None:
        """The clock of Redis jumps."""
        self._now_ms += round(seconds * 1000)
        self.latest_ms = max(self.latest_ms, self._now_ms)
        self.client.set(f"{self.stream}:clock", self._now_ms)

    def dismiss(self, worker: ModelWorker) -> None:
        """It ends in order, and what it had in a handler is handled again."""
        self.is_calm = self.is_calm and not worker.in_flight
        worker.leave()
        self._remove(worker)

    def kill(self, worker: ModelWorker) -> None:
        """The worker dies, and its lease expires."""
        self.end_lease(worker)
        self._remove(worker)

    def end_lease(self, worker: ModelWorker) -> None:
        """It was silent for too long."""
        self.is_calm = False
        self.client.delete(self.keys.for_scripts[5] + worker.consumer)

    def _remove(self, worker: ModelWorker) -> None:
        self.workers.remove(worker)
        if not self.workers:
            self.hire()

    def replay(self) -> None:
        """All dead letters."""
        self.is_calm = False
        for letters in dead_letters.find(self.client, self.keys):
            dead_letters.replay(self.client, self.keys, letters)

    def delete(self, what: str, at: int) -> None:
        """Something of Redis; `at` says which entry, or how many stay."""
        there = [id for id, _ in self.client.xrange(self.stream)]
        if what.endswith("group"):
            if there:
                self.client.xgroup_destroy(self.stream, "other" if what == "other group" else GROUP)
        elif what == "trim":
            self.client.xtrim(self.stream, maxlen=at, approximate=False)
        elif what == "entry":
            self.client.xdel(self.stream, *there[at : at + 1] or ["0-0"])
        else:
            backlogs = {f"backlog:{key}": self.backlog(key) for key in ("a", "b")}
            keys = {"owners": self.keys.owners, "parked": self.keys.parked, "due": self.keys.due}
            self.client.delete({"stream": self.stream, **keys, **backlogs}[what])
        self.other_done |= set(there) - {id for id, _ in self.client.xrange(self.stream)}
        self.is_calm = False
        self._forget(self.appended.keys() - self._present() - self.handled - self._letters())

    def append(self, key: str) -> None:
        """An entry."""
        self.appended[self.client.xadd(self.stream, {"of": key})] = key.encode()

    def began(self, worker: ModelWorker, entry: Entry) -> None:
        """An attempt begins: in calm weather with the oldest of its key, with which no other one is under way."""
        if not self.is_calm:
            return
        key = self.appended[entry.id]
        assert entry.id not in self.handled, f"{entry.id!r} is handled again"
        older = [id for id in self.appended if self.appended[id] == key and _order(id) < _order(entry.id)]
        letters = self._letters()
        assert all(id in self.handled or id in letters for id in older), f"{entry.id!r} comes before an older one"
        others = [held for other in self.workers if other is not worker for held in other.in_flight.values()]
        assert not any(held.entry.key == key and held.state is State.RUNNING for held in others), f"two are at {key!r}"

    def backlog(self, key: str) -> str:
        """The backlog of a key."""
        return Keys(self.prefix).backlog(STREAM, GROUP, key)

    def read_by_the_other(self, count: int) -> None:
        """The other group reads and finishes some."""
        try:
            found: Any = self.client.xreadgroup("other", "somebody", {self.stream: ">"}, count=count)
        except redis.ResponseError:
            return
        for id in [id for _, entries in found for id, _ in entries]:
            self.client.xack(self.stream, "other", id)
            self.other_done.add(id)

    # What must be true -----------------------------------------------------------------------------------------------

    def check_nothing_is_lost(self) -> None:
        """Entries that are not done are unread, pending or parked; those that the other group has not read stay."""
        lost = self.appended.keys() - self._present() - self.handled - self._letters()
        assert not lost, f"lost: {lost}"
        there = {id for id, _ in self.client.xrange(self.stream)}
        assert self.appended.keys() - self.other_done <= there, "trimmed too early"

    def settle(self) -> None:
        """The living workers go on without faults until nothing is left to do: then nothing may be stuck."""
        for worker in self.workers:
            # Whoever runs a handler comes to its end.
            for key in worker.held_keys:
                worker.succeed(key)
        # Later than anything may wait for.
        self.pass_time((self.latest_ms - self._now_ms) / 1000 + 3600)
        quiet_count = 0
        for _ in range(ROUNDS):
            count = 0
            for worker in self.workers:
                worker.compare()
                worker.maintain()
                count += worker.work()
            quiet_count = 0 if count else quiet_count + 1
            if quiet_count == 2:
                break
        left = self.appended.keys() - self.handled - self._letters()
        assert not left, f"these stand for ever: {left}, {self._told()}"
        assert self.client.xpending(self.stream, GROUP)["pending"] == 0, f"pending for ever, {self._told()}"
        for name in (self.keys.parked, self.keys.owners, self.keys.due):
            assert not self.client.exists(name), f"{name} is left: {self._told()}"

    def _forget(self, ids: Iterable[bytes]) -> None:
        for id in list(ids):
            del self.appended[id]

    def _present(self) -> set[bytes]:
        """The entries of the group that are not done: on the stream and unread or pending, or parked."""
        there = [id for id, _ in self.client.xrange(self.stream)]
        read_until, pending = b"0-0", set[bytes]()
        for found in self._groups():
            if found["name"].decode() == GROUP:
                read_until = found["last-delivered-id"]
                pending = {
                    each["message_id"] for each in self.client.xpending_range(self.stream, GROUP, "-", "+", 1000)
                }
        parked = set(self.client.hkeys(self.keys.parked))
        return parked | {id for id in there if _order(id) > _order(read_until) or id in pending}

    def _groups(self) -> list[Any]:
        return list(self.client.xinfo_groups(self.stream)) if self.client.exists(self.stream) else []

    def _letters(self) -> set[bytes]:
        return {fields[b"_id"] for _, fields in self.client.xrange(self.keys.dead_letters)}

    def _told(self) -> dict[str, Any]:
        return {
            "owners": self.client.hgetall(self.keys.owners),
            "due": self.client.zrange(self.keys.due, 0, -1, withscores=True),
            "parked": {id: record[:40] for id, record in self.client.hgetall(self.keys.parked).items()},
            "now": self._now_ms,
            "in flight": {worker.consumer: worker.in_flight for worker in self.workers},
        }


def _order(id: bytes) -> tuple[int, int]:
    time, _, number = id.partition(b"-")
    return int(time), int(number)


def _with_attempt(entry: Entry, attempt: int) -> Entry:
    return Entry(entry.id, entry.fields, attempt, entry.key, entry.first_seen)
