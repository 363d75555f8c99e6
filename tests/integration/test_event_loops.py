"""Code that runs on an event loop of its own, as `async_to_sync` makes one for each call: it leaves nothing behind."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import redis
import uvloop
from asgiref.sync import async_to_sync

from realtime import conf
from realtime.conf import async_redis, get_settings
from realtime.event_loops import before_close
from tests.support.proxy import Proxy
from tests.support.tasks import Tasks
from tests.support.tasks_of_tests import aadd
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.usefixtures("signalbox"), pytest.mark.database_independent]


def connection_count(client: redis.Redis) -> int:
    return len(client.client_list())


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_client_of_a_loop_is_closed_with_it(
    redis_client: redis.Redis, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Otherwise the client would keep its loop and its connection for ever."""
    before, loops = connection_count(redis_client), []

    async def ask() -> None:
        assert await async_redis().ping()
        loops.append(weakref.ref(asyncio.get_running_loop()))
        assert connection_count(redis_client) == before + 1

    for _ in range(3):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(ask())
            # It may be closed earlier, and another one opened.
            runner.run(conf.close_async_redis())
            runner.run(ask())
        wait_until_sync(lambda: connection_count(redis_client) == before)
    gc.collect()
    assert [loop() for loop in loops] == [None] * 6


def test_async_calls_of_sync_code_leave_no_connections(tasks: Tasks, redis_client: redis.Redis) -> None:
    """As an async view of a WSGI site makes them."""
    before = connection_count(redis_client)
    results = [async_to_sync(aadd.aenqueue)(1, 2) for _ in range(5)]
    assert [tasks.status(result) for result in results] == ["READY"] * 5
    wait_until_sync(lambda: connection_count(redis_client) == before)


def test_a_loop_is_closed_although_redis_is_gone(signalbox: Any) -> None:
    """The caller of `asyncio.run` has its result."""

    async def lose_redis() -> str:
        async with Proxy(get_settings().redis_url) as proxy:
            signalbox.REALTIME = {**signalbox.REALTIME, "REDIS_URL": proxy.url}
            assert await async_redis().ping()
        return "result"

    with asyncio.Runner() as runner:
        assert runner.run(lose_redis()) == "result"
        loop = runner.get_loop()
    assert loop.is_closed()


def test_what_happens_before_a_loop_is_closed() -> None:
    """Once, in reverse order, and the loop is closed even if it fails."""
    calls: list[str] = []

    async def note(name: str) -> None:
        calls.append(name)

    def fail() -> None:
        raise ValueError("of the function")

    loop = asyncio.new_event_loop()
    before_close(loop, lambda: loop.run_until_complete(note("first")))
    before_close(loop, fail)
    before_close(loop, lambda: loop.run_until_complete(note("last")))
    with pytest.raises(ValueError, match="of the function"):
        loop.close()
    loop.close()
    assert calls == ["last", "first"]
    assert loop.is_closed()
