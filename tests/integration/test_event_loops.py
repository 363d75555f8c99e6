"""Code that runs on an event loop of its own, as `async_to_sync` makes one for each call: it leaves nothing behind."""

import asyncio
import functools
import gc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
import uvloop
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

from realtime import conf
from realtime.conf import async_redis, get_settings
from realtime.event_loops import before_close
from realtime.layer import RedisChannelLayer
from realtime.redis import clients
from realtime.websocket import consumer
from tests.support.redis_server import RedisServer
from tests.support.tasks import Tasks
from tests.support.tasks_of_tests import aadd
from tests.support.waiting import wait_until, wait_until_sync

pytestmark = [pytest.mark.usefixtures("signalbox"), pytest.mark.database_independent]


@pytest.fixture
def connections(redis_client: redis.Redis) -> Callable[[], int]:
    """How many were opened in this test and are open."""
    before = {each["id"] for each in redis_client.client_list()}
    return lambda: len({each["id"] for each in redis_client.client_list()} - before)


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_client_of_a_loop_is_closed_with_it(
    connections: Callable[[], int], factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Otherwise the client would keep its loop and its connection for ever."""
    loops = []

    async def ask() -> None:
        assert await async_redis().ping()
        loops.append(weakref.ref(asyncio.get_running_loop()))
        assert connections() == 1

    for _ in range(3):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(ask())
            # It may be closed earlier, and another one opened.
            runner.run(conf.close_async_redis())
            runner.run(ask())
        wait_until_sync(lambda: connections() == 0)
    gc.collect()
    assert [loop() for loop in loops] == [None] * 6


def test_clients_may_be_closed_and_opened_any_number_of_times() -> None:
    """On one loop, as the loop of a whole test run."""

    async def reopen() -> None:
        for _ in range(3000):
            async_redis()
            await conf.close_async_redis()

    with asyncio.Runner() as runner:
        runner.run(reopen())
        loop = runner.get_loop()
    assert loop.is_closed()
    assert loop not in conf._async_clients


def test_any_number_of_functions_may_be_called_before_a_loop_is_closed() -> None:
    """As of one loop for a whole test run, in which each test has a channel layer of its own."""
    calls: list[int] = []
    loop = asyncio.new_event_loop()
    for number in range(3000):
        before_close(loop, functools.partial(calls.append, number))
    loop.close()
    assert calls == [*reversed(range(3000))]
    assert loop.is_closed()


def test_async_calls_of_sync_code_leave_no_connections(tasks: Tasks, connections: Callable[[], int]) -> None:
    """As an async view of a WSGI site makes them."""
    results = [async_to_sync(aadd.aenqueue)(1, 2) for _ in range(5)]
    assert [tasks.status(result) for result in results] == ["READY"] * 5
    wait_until_sync(lambda: connections() == 0)


@pytest.mark.parametrize("user", ["client", "layer"])
def test_a_connection_that_cannot_be_closed_is_no_error_of_the_caller(
    monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    """As one over TLS to a machine that is gone. The call that used it has returned."""

    async def use() -> str:
        if user == "client":
            await async_redis().ping()
        else:
            await get_channel_layer().group_send("a-group", {"type": "a.message"})
        return "result"

    closed = _close_fails(monkeypatch)
    assert async_to_sync(use)() == "result"
    assert closed


async def test_a_host_that_cannot_be_left_does_not_hold_the_others(
    monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer, key_prefix: str
) -> None:
    layer = RedisChannelLayer(hosts=[redis_server.url, redis_server.url], prefix=key_prefix)
    await layer.group_send("a-group", {"type": "a.message"})
    closed = _close_fails(monkeypatch)
    with pytest.raises(redis.TimeoutError):
        await layer.flush()
    assert len(closed) == 2


def _close_fails(monkeypatch: pytest.MonkeyPatch) -> list[redis.asyncio.Redis]:
    """Closing a client raises an error from now on; the clients that were closed."""
    closed: list[redis.asyncio.Redis] = []

    async def close(client: redis.asyncio.Redis) -> None:
        await client.aclose()
        closed.append(client)
        raise redis.TimeoutError("closing takes too long")

    monkeypatch.setattr(clients, "close", close)
    return closed


def test_connections_to_browsers_leave_no_loop() -> None:
    """They are found by the loop's hub, to which they refer themselves."""

    async def use() -> weakref.ref[Any]:
        assert consumer._roster_of(get_channel_layer(), get_settings()).count_of(1) == 0
        return weakref.ref(asyncio.get_running_loop())

    before = dict(consumer._rosters)
    loop = asyncio.run(use())
    gc.collect()
    assert loop() is None
    assert consumer._rosters == before


async def test_a_loop_may_be_closed_while_another_one_runs(connections: Callable[[], int]) -> None:
    """As one that a notebook has made and stopped."""
    loop = asyncio.new_event_loop()
    with ThreadPoolExecutor(1) as threads:
        threads.submit(loop.run_until_complete, _ask()).result()
    loop.close()
    assert loop.is_closed()
    assert loop not in conf._async_clients
    await wait_until(lambda: connections() == 0)


async def _ask() -> None:
    assert await async_redis().ping()


def test_a_running_loop_is_not_closed() -> None:
    """What has to happen before it is closed happens later, when it is closed."""
    calls: list[str] = []

    async def close() -> None:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop().close()

    loop = asyncio.new_event_loop()
    before_close(loop, lambda: calls.append("called"))
    loop.run_until_complete(close())
    assert calls == []
    loop.close()
    assert calls == ["called"]


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
    # One that is added while the loop is being closed.
    before_close(loop, lambda: before_close(loop, lambda: loop.run_until_complete(note("added"))))
    before_close(loop, lambda: loop.run_until_complete(note("last")))
    with pytest.raises(ValueError, match="of the function"):
        loop.close()
    loop.close()
    assert calls == ["last", "added", "first"]
    assert loop.is_closed()
