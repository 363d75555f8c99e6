"""A stream worker whose handler fails: poison ends as dead letters, outages are waited for, the others go on."""

import asyncio
import logging
import re
import time
from collections.abc import Sequence

import pytest
import redis

from realtime.exceptions import EntryRejected, PermanentError, Retry, Unavailable
from realtime.redis.backoff import Backoff
from realtime.redis.keys import Keys
from realtime.streams import Entry
from tests.support.redis_server import RedisServer
from tests.support.streams import GROUP, STREAM, Recorder, append, dead_letters, left_count, pending_count, working
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent


def fail_on(*poison: str, error: type[Exception] = ValueError):
    def fail(name: str) -> None:
        if name in poison:
            raise error(f"cannot do {name}")

    return fail


@pytest.mark.parametrize("options", [{"batch_size": 100}, {"batch_size": 1, "concurrency": 5}])
async def test_a_poison_entry_ends_as_a_dead_letter_and_the_others_go_on(
    redis_server: RedisServer,
    redis_client: redis.Redis,
    keys: Keys,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, int],
) -> None:
    """It is tried `max_attempts` times; the dead letter has its fields, the reason, the attempts and the last error."""
    handler = Recorder(fail=fail_on("4", "7"))
    ids = append(redis_client, keys, *range(10))
    async with working(redis_server.url, keys, handler, max_attempts=3, **options) as worker:
        await wait_until(lambda: worker.statistics().dead_count == 2)
        await wait_until(lambda: worker.statistics().handled_count == 8)
        assert sorted(handler.names) == ["0", "1", "2", "3", "5", "6", "8", "9"]
        assert sorted(set(handler.attempts["4"])) == [1, 2, 3]
        assert worker.statistics().retried_count == 4
        append(redis_client, keys, "after")
        await wait_until(lambda: handler.names[-1] == "after")
    assert left_count(redis_client, keys) == 0
    letters = sorted(dead_letters(redis_client, keys), key=lambda letter: letter[b"name"])
    assert all(0 <= time.time() - int(letter.pop(b"_first_seen")) / 1000 < 60 for letter in letters)
    assert letters == [
        {
            b"_id": ids[number],
            b"_reason": b"failed",
            b"_attempts": b"3",
            b"_error": b"ValueError: cannot do %d" % number,
            b"_key": ids[number],
            b"name": b"%d" % number,
        }
        for number in (4, 7)
    ]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert all(record.exc_info for record in errors)


async def test_entries_that_have_not_failed_are_not_tried_again_with_those_that_have(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """After a batch failed each entry is tried alone, once; from then on only the guilty one is."""
    handler = Recorder(fail=fail_on("1"))
    async with working(redis_server.url, keys, handler, max_attempts=3) as worker:
        await worker.wait_ready()
        append(redis_client, keys, 0, 1, 2)
        await wait_until(lambda: worker.statistics().dead_count == 1)
    together = handler.calls.index(["1"]) - 1
    assert handler.calls[together:] == [["0"], ["1"], ["2"], ["1"], ["1"]]


async def test_an_entry_that_fails_for_a_while_is_handled_in_the_end(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Retries are what they are for."""
    failures = iter(range(3))

    def fail(name: str) -> None:
        if next(failures, None) is not None:
            raise RuntimeError(name)

    handler = Recorder(fail=fail)
    append(redis_client, keys, "one")
    async with working(redis_server.url, keys, handler) as worker:
        await wait_until(lambda: worker.statistics().handled_count == 1)
    assert handler.attempts == {"one": [1, 2, 3, 4]}
    assert dead_letters(redis_client, keys) == []


async def test_a_rejected_entry_is_a_dead_letter_at_once(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """No attempt would help; its neighbours are handled."""

    def reject(name: str) -> None:
        if name == "1":
            raise EntryRejected("it has no recipient")

    handler = Recorder(fail=reject)
    append(redis_client, keys, *range(3))
    async with working(redis_server.url, keys, handler) as worker:
        await wait_until(lambda: worker.statistics().handled_count == 2 and worker.statistics().dead_count == 1)
        assert worker.statistics().retried_count == 0
    (letter,) = dead_letters(redis_client, keys)
    assert letter[b"_reason"] == b"rejected"
    assert letter[b"_error"] == b"it has no recipient"
    assert letter[b"_attempts"] == b"1"


async def test_an_absurd_entry_can_become_a_dead_letter(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Thousands of fields, bytes that are no text, fields named like ours, an endless error: nothing sticks."""
    append(redis_client, keys, "first")
    fields = {b"name": b"poison\xff\x00", b"_reason": b"mine"} | {f"f{number}": "x" for number in range(5000)}
    redis_client.xadd(keys.stream(STREAM), fields)

    async def handle(entries) -> None:
        for entry in entries:
            if b"\xff" in entry.fields[b"name"]:
                raise ValueError("\ud800" + "long" * 10_000)

    async with working(redis_server.url, keys, handle, max_attempts=2) as worker:
        await wait_until(lambda: worker.statistics().dead_count == worker.statistics().handled_count == 1)
    ((_, letter),) = redis_client.xrange(keys.dead_letters(STREAM, "workers"))
    assert letter[b"name"] == b"poison\xff\x00"
    assert len(letter[b"_error"]) < 3000 and letter[b"_error"].decode().endswith("…")
    assert 2000 <= len(letter) <= 2005


async def test_a_handler_that_raises_cancelled_error_fails_like_any_other(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Nobody cancelled it: the entry must not hang in the worker for ever."""
    handler = Recorder(fail=fail_on("bad", error=asyncio.CancelledError))
    append(redis_client, keys, "bad", "good")
    async with working(redis_server.url, keys, handler, max_attempts=2) as worker:
        await wait_until(lambda: worker.statistics().dead_count == worker.statistics().handled_count == 1)


async def test_what_the_handler_needs_being_away_is_waited_for_without_counting_attempts(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once when it begins and once when it is over; nothing more is read meanwhile; order is kept."""
    away = True
    tries = 0

    def fail(name: str) -> None:
        nonlocal tries
        if away:
            tries += 1
            raise Unavailable("the database is away")

    handler = Recorder(fail=fail)
    append(redis_client, keys, *range(30))
    async with working(redis_server.url, keys, handler, batch_size=10, max_attempts=2) as worker:
        await wait_until(lambda: tries > 10)
        assert worker.statistics().in_flight_count == 10
        away = False
        await wait_until(lambda: worker.statistics().handled_count == 30)
        assert worker.statistics().retried_count == 0
    assert handler.names == [str(number) for number in range(30)]
    assert set(handler.attempts["0"]) == {1}
    assert [re.sub(r"[\d.]+ s", "N s", record.getMessage()) for record in caplog.records] == [
        "a service that the group workers needs is unavailable (Unavailable: the database is away): "
        "trying again until it is available",
        "a service that the group workers needs is available again after N s",
    ]


async def test_stopping_does_not_wait_for_what_is_away(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """The entries are given back, and another worker has them at once."""
    handler = Recorder(fail=fail_on("1", error=Unavailable))
    append(redis_client, keys, 1)
    waits = Backoff(base_seconds=60, cap_seconds=60)
    async with working(redis_server.url, keys, handler, backoff=waits) as worker:
        await wait_until(lambda: len(handler.calls) == 1)
        async with asyncio.timeout(60):
            await worker.stop(deadline_seconds=30)
    assert left_count(redis_client, keys) == 1
    other = Recorder()
    async with working(redis_server.url, keys, other):
        await wait_until(lambda: other.names == ["1"])
    assert other.attempts == {"1": [1]}


async def test_attempts_and_the_first_sight_of_an_entry_survive_its_worker(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Between two attempts an entry is in Redis and nobody's: whoever comes first when it is due has it."""
    seen: list[float] = []

    async def note(entries: Sequence[Entry]) -> None:
        seen.append(entries[0].first_seen)
        # Later than this test has stopped the worker.
        raise Retry(3.0)

    append(redis_client, keys, 1)
    async with working(redis_server.url, keys, note, max_attempts=4) as worker:
        await wait_until(lambda: worker.statistics().retried_count == 1)
        await wait_until(lambda: worker.statistics().in_flight_count == 0)
        assert pending_count(redis_client, keys) == 0
        assert left_count(redis_client, keys) == 1
        async with asyncio.timeout(60):
            await worker.stop(deadline_seconds=30)
    other = Recorder(fail=fail_on("1"))

    async def handle(entries: Sequence[Entry]) -> None:
        seen.append(entries[0].first_seen)
        await other(entries)

    async with working(redis_server.url, keys, handle, max_attempts=4) as worker:
        await wait_until(lambda: worker.statistics().dead_count == 1)
    assert other.attempts == {"1": [2, 3, 4]}
    assert max(seen) - min(seen) < 0.1


async def test_a_handler_may_say_when_the_next_attempt_is_worth_while(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Not before, and long before the backoff would; the others do not wait for it."""
    begun: list[float] = []

    async def handle(entries: Sequence[Entry]) -> None:
        if entries[0].fields[b"name"] == b"limited":
            begun.append(asyncio.get_running_loop().time())
            if len(begun) == 1:
                raise Retry(3.0, "the provider is full")

    append(redis_client, keys, "limited", *range(10))
    waits = Backoff(base_seconds=60, cap_seconds=60)
    async with working(redis_server.url, keys, handle, batch_size=1, backoff=waits) as worker:
        await wait_until(lambda: worker.statistics().handled_count == 10)
        assert len(begun) == 1
        await wait_until(lambda: worker.statistics().handled_count == 11)
    assert 3.0 <= begun[1] - begun[0] < 60


async def test_a_handler_that_says_nonsense_ends_nobody(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Waits below zero and no numbers are the usual ones, endless ones are a week; a reason may be any object."""
    failed: set[bytes] = set()

    async def handle(entries: Sequence[Entry]) -> None:
        name = entries[0].fields[b"name"]
        if name in failed:
            return
        failed.add(name)
        if name == b"reason":
            raise PermanentError(ValueError("as it came"))
        raise Retry(float(name))

    append(redis_client, keys, "-inf", "-5", "nan", "inf", "1e300", "reason")
    async with working(redis_server.url, keys, handle, batch_size=1) as worker:
        await wait_until(lambda: worker.statistics().handled_count == 3 and worker.statistics().dead_count == 1)
        await wait_until(lambda: worker.statistics().in_flight_count == 0)
        assert worker.statistics().retried_count == 5
    due = [
        score / 1000 - time.time()
        for _, score in redis_client.zrange(keys.due_backlogs(STREAM, GROUP), 0, -1, withscores=True)
    ]
    assert [round(seconds / 86_400) in (7, 8) for seconds in due] == [True, True]
    assert dead_letters(redis_client, keys)[0][b"_error"] == b"as it came"


async def test_what_will_never_succeed_is_a_dead_letter_at_once(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """A handler says so by `PermanentError`."""
    handler = Recorder(fail=fail_on("1", error=PermanentError))
    append(redis_client, keys, 1, 2)
    async with working(redis_server.url, keys, handler) as worker:
        await wait_until(lambda: worker.statistics().dead_count == worker.statistics().handled_count == 1)
        assert worker.statistics().retried_count == 0
    assert dead_letters(redis_client, keys)[0][b"_error"] == b"cannot do 1"


async def test_a_limit_of_delayed_entries_stops_reading_and_not_the_retries(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """When everything fails a worker does not swallow the whole stream."""
    away = True

    def fail(name: str) -> None:
        if away:
            raise ValueError(name)

    handler = Recorder(fail=fail)
    append(redis_client, keys, *range(100))
    waits = Backoff(base_seconds=0.2, cap_seconds=0.4)
    options = {"batch_size": 5, "max_delayed": 10, "backoff": waits, "max_attempts": 1000}
    async with working(redis_server.url, keys, handler, **options) as worker:
        await wait_until(lambda: worker.statistics().retried_count > 40)
        assert left_count(redis_client, keys) <= 10 + 5
        away = False
        await wait_until(lambda: worker.statistics().handled_count == 100)


async def test_a_retry_waits_while_the_others_do_not(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """A poison entry holds no slot between its attempts."""
    handler = Recorder(fail=fail_on("poison"))
    waits = Backoff(base_seconds=60, cap_seconds=60)
    append(redis_client, keys, "poison", *range(50))
    async with working(redis_server.url, keys, handler, batch_size=1, backoff=waits) as worker:
        await wait_until(lambda: worker.statistics().handled_count == 50)
        await wait_until(lambda: worker.statistics().in_flight_count == 0)
        assert (pending_count(redis_client, keys), left_count(redis_client, keys)) == (0, 1)
