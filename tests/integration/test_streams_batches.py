"""A handler says which entries of its batch failed, and the worker says which entries are acked."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

import pytest
import redis

from realtime.exceptions import EntriesFailed, EntryRejected, Retry, StreamFull, Unavailable
from realtime.redis.keys import Keys
from realtime.streams import Entry, StreamWorker
from tests.support.redis_server import RedisServer
from tests.support.streams import (
    GROUP,
    STREAM,
    Recorder,
    append,
    dead_letters,
    fill_backlog,
    left_count,
    pending_count,
    working,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent

# Takes the name of an entry. Returns the error with which it failed, or None if it is done.
Failing = Callable[[str], Exception | None]


class Batches:
    """
    A handler that names the failed entries of each batch.

    Args:
        failing: Returns the error of an entry, or None.
    """

    def __init__(self, failing: Failing) -> None:
        # The names of each call, and the names of the entries that it has done.
        self.calls: list[list[str]] = []
        self.done: list[str] = []
        # The attempts of each name.
        self.attempts: dict[str, list[int]] = {}
        self._failing = failing

    async def __call__(self, entries: Sequence[Entry]) -> None:
        names = [entry.fields[b"name"].decode() for entry in entries]
        self.calls.append(names)
        errors: dict[bytes, Exception] = {}
        for name, entry in zip(names, entries, strict=True):
            self.attempts.setdefault(name, []).append(entry.attempt)
            if (error := self._failing(name)) is not None:
                errors[entry.id] = error
            else:
                self.done.append(name)
        if errors:
            raise EntriesFailed(errors)


def failing(errors: Mapping[str, Exception]) -> Failing:
    return errors.get


def append_of(client: redis.Redis, keys: Keys, key: str, *names: str) -> list[bytes]:
    """Append entries of one key in one step, so that a worker reads them together."""
    with client.pipeline(transaction=True) as pipeline:
        for name in names:
            pipeline.xadd(keys.stream(STREAM), {"name": name, "of": key})
        return pipeline.execute()


async def is_idle(worker: StreamWorker) -> None:
    await wait_until(lambda: worker.statistics().in_flight_count == 0)


# Failures -------------------------------------------------------------------------------------------------------------


async def test_the_others_are_acked_and_those_that_failed_are_tried_again(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Until they are dead letters. The handler gets each of the others once."""
    handler = Batches(failing({"1": ValueError("cannot do 1"), "3": ValueError("cannot do 3")}))
    append(redis_client, keys, *range(5))
    async with working(redis_server.url, keys, handler, max_attempts=3) as worker:
        await wait_until(lambda: worker.statistics().dead_count == 2 and worker.statistics().handled_count == 3)
        assert worker.statistics().retried_count == 4
    assert handler.done == ["0", "2", "4"]
    assert handler.attempts == {"0": [1], "1": [1, 2, 3], "2": [1], "3": [1, 2, 3], "4": [1]}
    letters = dead_letters(redis_client, keys)
    assert sorted(letter[b"_error"] for letter in letters) == [b"ValueError: cannot do 1", b"ValueError: cannot do 3"]
    assert {letter[b"_attempts"] for letter in letters} == {b"3"}
    assert left_count(redis_client, keys) == 0


async def test_an_entry_that_fails_alone_has_its_own_error(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Its dead letter has the same error as if the batch had other entries."""
    handler = Batches(failing({"0": EntryRejected("it has no recipient"), "1": ValueError("cannot do 1")}))
    append(redis_client, keys, 0, 1)
    async with working(redis_server.url, keys, handler, batch_size=1, max_attempts=1) as worker:
        await wait_until(lambda: worker.statistics().dead_count == 2)
    errors = {letter[b"name"]: (letter[b"_reason"], letter[b"_error"]) for letter in dead_letters(redis_client, keys)}
    assert errors == {b"0": (b"rejected", b"it has no recipient"), b"1": (b"failed", b"ValueError: cannot do 1")}


async def test_an_entry_that_is_tried_alone_after_its_batch_failed_has_its_own_error(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """The whole batch failed. Then the entry was tried alone, and the handler named it."""

    async def handle(entries: Sequence[Entry]) -> None:
        if len(entries) > 1:
            raise RuntimeError("all of it")
        if entries[0].fields[b"name"] == b"1":
            raise EntriesFailed({entries[0].id: EntryRejected("it has no recipient")})

    append(redis_client, keys, 0, 1)
    async with working(redis_server.url, keys, handle) as worker:
        await wait_until(lambda: worker.statistics().dead_count == worker.statistics().handled_count == 1)
    (letter,) = dead_letters(redis_client, keys)
    assert (letter[b"_reason"], letter[b"_error"]) == (b"rejected", b"it has no recipient")


async def test_a_suspect_has_its_own_error(redis_server: RedisServer, redis_client: redis.Redis, keys: Keys) -> None:
    """Workers have died with it, so it is tried alone."""
    fill_backlog(redis_client, keys, "k", ("suspect", 1, 2))
    handler = Batches(failing({"suspect": EntryRejected("it has no recipient")}))
    async with working(redis_server.url, keys, handler, order_field="of") as worker:
        await wait_until(lambda: worker.statistics().dead_count == 1)
    (letter,) = dead_letters(redis_client, keys)
    assert (letter[b"_reason"], letter[b"_error"]) == (b"rejected", b"it has no recipient")


async def test_each_error_means_what_it_means_for_an_entry_alone(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """EntryRejected makes a dead letter at once, Retry delays the next attempt, and any other error has one soon."""
    failures = {"rejected": EntryRejected("no"), "later": Retry(60.0), "soon": ValueError("cannot do it")}

    def fail(name: str) -> Exception | None:
        return failures.pop(name, None)

    handler = Batches(fail)
    append(redis_client, keys, "fine", *failures)
    async with working(redis_server.url, keys, handler) as worker:
        await wait_until(lambda: worker.statistics().handled_count == 2)
        await is_idle(worker)
        assert (worker.statistics().dead_count, worker.statistics().retried_count) == (1, 2)
    assert handler.done == ["fine", "soon"]
    assert handler.attempts["soon"] == [1, 2]
    ((_, due_at),) = redis_client.zrange(keys.due_backlogs(STREAM, GROUP), 0, -1, withscores=True)
    seconds, microseconds = redis_client.time()
    assert 30 < due_at / 1000 - seconds - microseconds / 1e6 < 70


@pytest.mark.parametrize("batch_size", [1, 100])
async def test_an_entry_that_needs_something_unavailable_is_tried_again_without_counting_attempts(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, batch_size: int
) -> None:
    """As if the handler had raised `Unavailable` for it alone; the others are done meanwhile."""
    is_away, tries = True, 0

    def fail(name: str) -> Exception | None:
        nonlocal tries
        if name != "1" or not is_away:
            return None
        tries += 1
        return StreamFull("it is full")

    handler = Batches(fail)
    append(redis_client, keys, *range(3))
    options = {"batch_size": batch_size, "concurrency": 3, "max_attempts": 2}
    async with working(redis_server.url, keys, handler, **options) as worker:
        await wait_until(lambda: tries > 5)
        await wait_until(lambda: worker.statistics().handled_count == 2)
        assert worker.statistics().retried_count == worker.statistics().dead_count == 0
        is_away = False
        await wait_until(lambda: worker.statistics().handled_count == 3)
    assert sorted(handler.done[:-1]) == ["0", "2"]
    assert handler.done[-1] == "1"
    assert set(handler.attempts["1"]) == {1}


async def test_a_batch_of_which_nothing_failed_is_done(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Also a batch of one entry: no entry is named, so all are done."""

    async def handle(entries: Sequence[Entry]) -> None:
        raise EntriesFailed({})

    async with working(redis_server.url, keys, handle, batch_size=3) as worker:
        await worker.wait_ready()
        append(redis_client, keys, *range(4))
        await wait_until(lambda: worker.statistics().handled_count == 4)
        assert worker.statistics().retried_count == worker.statistics().dead_count == 0


@pytest.mark.parametrize("batch_size", [1, 100])
async def test_if_an_unknown_entry_is_said_to_have_failed_none_counts_as_done(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, batch_size: int
) -> None:
    """The handler is wrong about its batch. Acking the rest could lose the entry that it means."""

    async def handle(entries: Sequence[Entry]) -> None:
        if any(entry.fields[b"name"] == b"1" for entry in entries):
            raise EntriesFailed({"1-1": ValueError("an id is bytes")})  # type: ignore[dict-item]

    append(redis_client, keys, *range(3))
    async with working(redis_server.url, keys, handle, batch_size=batch_size, max_attempts=2) as worker:
        await wait_until(lambda: worker.statistics().dead_count == 1 and worker.statistics().handled_count == 2)
    (letter,) = dead_letters(redis_client, keys)
    assert letter[b"name"] == b"1"
    assert b"not in its batch: '1-1'" in letter[b"_error"]


async def test_later_entries_of_a_key_come_again_after_the_one_that_failed(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Also those that the handler has done: the order of a key is kept, and nothing is stuck."""
    failures = iter([ValueError("not yet"), ValueError("not yet")])

    def fail(name: str) -> Exception | None:
        return next(failures, None) if name == "1" else None

    handler = Batches(fail)
    async with working(redis_server.url, keys, handler, order_field="of") as worker:
        await worker.wait_ready()
        append_of(redis_client, keys, "k", "0", "1", "2")
        await wait_until(lambda: worker.statistics().handled_count == 3)
        await is_idle(worker)
        assert worker.statistics().retried_count == 2
        assert not redis_client.exists(keys.key_owners(STREAM, GROUP))
    assert handler.attempts["1"] == [1, 2, 3]
    assert handler.done[-2:] == ["1", "2"]
    assert left_count(redis_client, keys) == 0


async def test_later_entries_of_a_key_are_done_when_the_one_that_failed_is_a_dead_letter(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """They are not handled again."""
    handler = Batches(failing({"1": EntryRejected("no")}))
    async with working(redis_server.url, keys, handler, order_field="of") as worker:
        await worker.wait_ready()
        append_of(redis_client, keys, "k", "0", "1", "2")
        await wait_until(lambda: worker.statistics().handled_count == 2 and worker.statistics().dead_count == 1)
        await is_idle(worker)
        assert not redis_client.exists(keys.key_owners(STREAM, GROUP))
    assert handler.done == ["0", "2"]


async def test_entries_that_failed_while_the_worker_stops_have_had_an_attempt(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Another worker continues to count. `Unavailable` does not count as an attempt."""
    gate, is_running = asyncio.Event(), asyncio.Event()

    async def handle(entries: Sequence[Entry]) -> None:
        is_running.set()
        await gate.wait()
        raise EntriesFailed({entries[1].id: ValueError("no"), entries[2].id: Unavailable("away")})

    async with working(redis_server.url, keys, handle) as worker:
        await worker.wait_ready()
        append_of(redis_client, keys, "", "0", "1", "2")
        await is_running.wait()
        stopping = asyncio.create_task(worker.stop(deadline_seconds=30))
        await wait_until(worker._attempts._stopping.is_set)
        gate.set()
        async with asyncio.timeout(60):
            await stopping
        assert (worker.statistics().handled_count, worker.statistics().retried_count) == (1, 1)
    other = Recorder()
    async with working(redis_server.url, keys, other):
        await wait_until(lambda: sorted(other.names) == ["1", "2"])
    assert other.attempts == {"1": [2], "2": [1]}


@pytest.mark.parametrize("names_its_entries", [True, False])
async def test_an_entry_that_was_lost_before_a_batch_is_tried_again_is_not_acked(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, *, names_its_entries: bool
) -> None:
    """Another worker has it now. Only the entries of the last call of the handler count."""
    calls: list[list[bytes]] = []
    may_fail = asyncio.Event()

    async def handle(entries: Sequence[Entry]) -> None:
        calls.append([entry.id for entry in entries])
        if len(calls) == 1:
            await may_fail.wait()
            raise Unavailable("away")
        if len(calls) == 2:
            error = ValueError("no")
            raise EntriesFailed({entries[0].id: error}) if names_its_entries else error

    options = {"lease_seconds": 300, "claim_interval_seconds": 300}
    async with working(redis_server.url, keys, handle, **options) as worker:
        await worker.wait_ready()
        first, second = append_of(redis_client, keys, "", "0", "1")
        await wait_until(lambda: len(calls) == 1)
        redis_client.xclaim(keys.stream(STREAM), GROUP, "another", 0, [second])
        worker._attempts.lose([second])
        may_fail.set()
        await wait_until(lambda: worker.statistics().handled_count == 1)
        assert calls == [[first, second], [first], [first]]
        assert pending_count(redis_client, keys) == 1


# Acks -----------------------------------------------------------------------------------------------------------------


async def test_acked_entries_are_reported_when_redis_has_confirmed_it(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Each is reported once; those that failed or are dead letters are not."""
    acked: list[bytes] = []
    pending: list[int] = []

    def on_acked(entries: Sequence[Entry]) -> None:
        acked.extend(entry.fields[b"name"] for entry in entries)
        pending.append(len(redis_client.xpending_range(keys.stream(STREAM), GROUP, "-", "+", 100)))

    failures = {"1": ValueError("once"), "3": EntryRejected("no")}
    handler = Batches(lambda name: failures.pop(name, None))
    async with working(redis_server.url, keys, handler, on_acked=on_acked) as worker:
        await worker.wait_ready()
        append_of(redis_client, keys, "", *"01234")
        await wait_until(lambda: worker.statistics().handled_count == 4)
        await is_idle(worker)
    assert sorted(acked) == [b"0", b"1", b"2", b"4"]
    assert acked[-1] == b"1"
    assert pending[-1] == 0


async def test_entries_that_the_handler_acks_itself_are_reported(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """While they are being acked they count neither as unfinished nor, when Redis does not know them, as lost."""
    acked: list[bytes] = []
    seen: list[tuple[int, int]] = []

    async def handle(entries: Sequence[Entry]) -> None:
        worker.begin_end(entries)
        redis_client.xack(keys.stream(STREAM), GROUP, *(entry.id for entry in entries))
        worker._attempts.lose([entry.id for entry in entries])
        seen.append((worker.unfinished_count, worker.ending_count))
        worker.acked_early(entries)

    def on_acked(entries: Sequence[Entry]) -> None:
        acked.extend(entry.id for entry in entries)

    ids = append(redis_client, keys, *range(3))
    async with working(redis_server.url, keys, handle, on_acked=on_acked, batch_size=3) as worker:
        await wait_until(lambda: len(acked) == 3)
        await is_idle(worker)
        assert (worker.statistics().handled_count, worker.statistics().lost_count) == (3, 0)
    assert acked == ids
    assert seen == [(0, 3)]


async def test_acks_are_reported_before_a_worker_has_stopped(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """`stop` returns after the last report."""
    acked: list[bytes] = []
    gate = asyncio.Event()
    handler = Recorder(gate=gate)
    ids = append(redis_client, keys, *range(3))

    def on_acked(entries: Sequence[Entry]) -> None:
        acked.extend(entry.id for entry in entries)

    async with working(redis_server.url, keys, handler, on_acked=on_acked, batch_size=3) as worker:
        await wait_until(lambda: handler.running_count == 1)
        assert acked == []
        stopping = asyncio.create_task(worker.stop(deadline_seconds=30))
        await wait_until(worker._attempts._stopping.is_set)
        gate.set()
        await stopping
        assert acked == ids[: len(acked)] != []


async def test_a_report_that_raises_is_logged_and_stops_nothing(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """The entries are acked all the same, and the next ones are reported too."""
    reports = 0

    def on_acked(entries: Sequence[Entry]) -> None:
        nonlocal reports
        reports += 1
        raise RuntimeError("the disk is full")

    handler = Recorder()
    async with working(redis_server.url, keys, handler, on_acked=on_acked) as worker:
        for turn in (1, 2):
            append(redis_client, keys, turn)
            await wait_until(lambda: worker.statistics().handled_count == turn)  # noqa: B023
            await wait_until(lambda: reports == turn)  # noqa: B023
        assert pending_count(redis_client, keys) == 0
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in errors] == ["on_acked of the group workers failed for 1 entries"] * 2
    assert all(record.exc_info for record in errors)


async def test_an_entry_that_must_be_acked_again_is_reported_when_that_is_confirmed(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis handed it out again before it had confirmed its ack, so it may still come again."""
    is_told, may_hear = asyncio.Event(), asyncio.Event()
    pending: list[int] = []
    acked: list[bytes] = []

    def on_acked(entries: Sequence[Entry]) -> None:
        acked.extend(entry.fields[b"name"] for entry in entries)
        pending.append(pending_count(redis_client, keys))

    options = {"lease_seconds": 300, "claim_interval_seconds": 300, "block_seconds": 300}
    async with working(redis_server.url, keys, Recorder(), order_field="of", on_acked=on_acked, **options) as worker:
        await worker.wait_ready()
        finish = worker._group.finish

        async def finish_slowly(entries: Sequence[Entry]) -> bool:
            answer = await finish(entries)
            is_told.set()
            await may_hear.wait()
            return answer

        monkeypatch.setattr(worker._group, "finish", finish_slowly)
        append_of(redis_client, keys, "k", "one")
        await is_told.wait()
        redis_client.xgroup_destroy(keys.stream(STREAM), GROUP)
        worker._wakeup.wake()
        await wait_until(lambda: worker._in_flight.has_redelivered)
        may_hear.set()
        await wait_until(lambda: worker.statistics().handled_count == 1 and pending_count(redis_client, keys) == 0)
        await is_idle(worker)
    assert acked == [b"one"]
    assert pending == [0]
