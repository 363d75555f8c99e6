"""Entries with which workers died: no attempt with them begins before Redis knows, however they were handed out."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from realtime.redis.keys import Keys
from realtime.streams import StreamWorker
from realtime.streams.entry import TakeResult
from tests.support.redis_server import RedisServer
from tests.support.streams import Recorder, dead_letters, fill_backlog, working
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent

# Whatever happens late does not happen by a next look.
PATIENT = {"order_field": "of", "lease_seconds": 300, "claim_interval_seconds": 300, "block_seconds": 300}


def fail_first(name: str, times: int = 1) -> Callable[[str], None]:
    left = [name] * times

    def fail(name: str) -> None:
        if left and name == left[-1]:
            left.pop()
            raise ValueError(name)

    return fail


def answer_late(worker: StreamWorker, monkeypatch: pytest.MonkeyPatch, name: str, fact: Callable[[], Any]) -> None:
    """The answer of a command comes only when something is so."""
    command = getattr(worker._group, name)

    async def ask(*arguments: Any, **options: Any) -> Any:
        answer = await command(*arguments, **options)
        worker._wakeup.wake()
        await wait_until(fact)
        return answer

    monkeypatch.setattr(worker._group, name, ask)


@pytest.mark.parametrize("deaths", [0, 2])
async def test_what_comes_while_an_entry_before_it_is_given_up_goes_on_at_once(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch, deaths: int
) -> None:
    """It is handed out after the one before it became a dead letter, before the worker knows; a suspect stays one."""
    handler = Recorder()
    async with working(redis_server.url, keys, handler, **PATIENT) as worker:
        await worker.wait_ready()
        answer_late(worker, monkeypatch, "dead_letter", lambda: worker.statistics().in_flight_count == 2)
        fill_backlog(redis_client, keys, "a", ("dead", 5, 2), ("next", 1, deaths))
        worker._wakeup.wake()
        await wait_until(lambda: worker.statistics().handled_count == 1)
        assert worker.statistics().dead_count == 1
    assert handler.attempts == {"next": [2]}
    assert dead_letters(redis_client, keys)[0][b"_reason"] == b"unfinished"


async def test_a_suspect_that_comes_again_before_its_failure_is_confirmed_begins_anew(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis has it in its backlog and hands it out, while the worker still waits for the answer."""
    handler = Recorder(fail=fail_first("bad"))
    async with working(redis_server.url, keys, handler, **PATIENT) as worker:
        await worker.wait_ready()
        answer_late(worker, monkeypatch, "park", lambda: worker._in_flight.has_redelivered)
        fill_backlog(redis_client, keys, "a", ("bad", 1, 2))
        worker._wakeup.wake()
        await wait_until(lambda: worker.statistics().handled_count == 1)
    assert handler.attempts == {"bad": [2, 3]}


async def test_a_suspect_whose_delivery_was_lost_on_the_way_is_still_one(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker asks what it holds; its attempt is counted before it begins."""
    handler = Recorder()
    async with working(redis_server.url, keys, handler, **PATIENT) as worker:
        take, lost = worker._group.take, []

        async def lose_answer(*arguments: Any, **options: Any) -> TakeResult | None:
            result = await take(*arguments, **options)
            if result is not None and result.redelivered:
                lost.append([(each.entry.attempt, each.is_begun) for each in result.redelivered])
                raise redis.ConnectionError("lost on the way")
            return result

        monkeypatch.setattr(worker._group, "take", lose_answer)
        await worker.wait_ready()
        fill_backlog(redis_client, keys, "a", ("one", 1, 2))
        worker._wakeup.wake()
        await wait_until(lambda: worker.statistics().handled_count == 1)
    assert lost == [[(1, False)]]
    assert handler.attempts == {"one": [2]}


async def test_a_beginning_that_is_told_twice_counts_once(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answer was lost: the entry is still this worker's, and tried alone."""
    handler = Recorder()
    async with working(redis_server.url, keys, handler, **PATIENT) as worker:
        await worker.wait_ready()
        begin = worker._group.begin_attempts

        async def tell_twice(*arguments: Any) -> set[bytes]:
            await begin(*arguments)
            return await begin(*arguments)

        monkeypatch.setattr(worker._group, "begin_attempts", tell_twice)
        fill_backlog(redis_client, keys, "a", ("one", 1, 2))
        worker._wakeup.wake()
        await wait_until(lambda: worker.statistics().handled_count == 1)
        assert worker.statistics().lost_count == 0
    assert handler.attempts == {"one": [2]}
