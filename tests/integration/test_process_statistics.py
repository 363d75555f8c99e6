"""The counters of a process: `realtime.statistics.collect()` tells what really happened to real parts."""

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from unittest.mock import AsyncMock

import pytest
import redis
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from django.contrib.auth.models import User

from realtime.layer import RedisChannelLayer
from realtime.layer.event_loop import LoopLayer
from realtime.protocol.close_codes import CloseCode
from realtime.redis.keys import Keys
from realtime.statistics import ProcessStatistics, Totals, collect, register, unregister
from tests.integration.clients import Connect, tell
from tests.integration.multiplexing import numbered, publish_pipelined, running_multiplexer
from tests.integration.test_ingress import listening
from tests.support.domain import make_users
from tests.support.redis_server import RedisServer
from tests.support.streams import GROUP, Recorder, append, working
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
FORK = """
import os, threading
from realtime.statistics import collect, register

class Part:
    begun, end = threading.Event(), threading.Event()

    def statistics(self):
        self.begun.set()
        self.end.wait(0.3)
        return {}

part = Part()
register(part, "parts")
threading.Thread(target=collect).start()
part.begun.wait()
child = os.fork()
if not child:
    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(10)
    os._exit(thread.is_alive())
raise SystemExit(os.waitpid(child, 0)[1] != 0)
"""


def closed(statistics: ProcessStatistics, code: CloseCode) -> int:
    return statistics.clients.closed_counts.get(code, 0)


@pytest.mark.django_db(transaction=True)
async def test_connections_and_what_they_are_sent_are_counted(connect: Connect, alice: User, bob: User) -> None:
    """Three sockets of one user, five publications, one error, one stranger, one foreign page."""
    before = collect()
    clients = [await connect(alice) for _ in range(3)]
    for client in clients:
        await client.greeted()
    for number in range(5):
        await tell(alice, number)
    for client in clients:
        assert [(await client.object())["data"] for _ in range(5)] == list(range(5))
    assert (await clients[0].answer(type="subscribe", topic=f"user.{bob.pk}"))["code"] == "forbidden"
    stranger = await connect(headers=((b"origin", b"http://testserver"),))
    await stranger.accepted()
    await stranger.closed()
    await (await connect(alice, headers=((b"origin", b"https://evil.example"),))).closed()
    after = collect()
    assert (before.clients.open_count, after.clients.open_count) == (0, 3)
    assert after.clients.opened_count - before.clients.opened_count == 3
    assert after.clients.refused_counts["forbidden"] == before.clients.refused_counts.get("forbidden", 0) + 1
    for code in (CloseCode.UNAUTHORISED, CloseCode.FORBIDDEN_ORIGIN):
        assert closed(after, code) == closed(before, code) + 1
    hub = get_channel_layer().hub.statistics()
    assert (hub.topic_count, hub.membership_count, hub.publication_count, hub.delivery_count) == (1, 3, 5, 15)
    assert after.hub.delivery_count - before.hub.delivery_count == 15
    assert after.hub.membership_count - before.hub.membership_count == 3
    assert after.multiplexer.connected_count == before.multiplexer.connected_count + 1
    # The user's topic, and the orders to end connections.
    assert after.multiplexer.name_count == before.multiplexer.name_count + 2
    assert after.multiplexer.received_count - before.multiplexer.received_count == 5


@pytest.mark.database_independent
async def test_a_multiplexer_that_has_stopped_leaves_its_totals(
    redis_server: RedisServer, redis_client: redis.Redis, name: Callable[[str], str]
) -> None:
    """And nothing of its present state: a total never falls, which a monitor takes the rate of."""
    before = collect().multiplexer
    async with (
        running_multiplexer(redis_server.url) as multiplexer,
        multiplexer.subscribe(name("slow"), name("idle"), high_water_mark=10),
    ):
        await asyncio.to_thread(publish_pipelined, redis_client, name("slow"), numbered(100))
        await wait_until(lambda: collect().multiplexer.received_count == before.received_count + 100)
        during = collect().multiplexer
        assert during.connected_count == before.connected_count + 1
        assert during.name_count == before.name_count + 2
        assert during.listener_count == before.listener_count + 1
    await wait_until(lambda: collect().multiplexer.connected_count == before.connected_count)
    after = collect().multiplexer
    assert (after.name_count, after.listener_count) == (before.name_count, before.listener_count)
    assert after.received_count == before.received_count + 100
    assert after.dropped_count == before.dropped_count + 90


@pytest.mark.database_independent
async def test_the_workers_of_a_group_are_counted_together(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Under the group's name; those that have stopped too."""
    workers = collect().workers
    before = workers[GROUP].handled_count if GROUP in workers else 0
    gate = asyncio.Event()
    append(redis_client, keys, *range(10))
    async with (
        working(redis_server.url, keys, Recorder(gate=gate), batch_size=5) as one,
        working(redis_server.url, keys, Recorder(gate=gate), batch_size=5) as other,
    ):
        await asyncio.gather(one.wait_ready(), other.wait_ready())
        await wait_until(lambda: collect().workers[GROUP].in_flight_count == 10)
        gate.set()
        await wait_until(lambda: one.statistics().handled_count + other.statistics().handled_count == 10)
        assert collect().workers[GROUP].handled_count == before + 10
    counted = collect().workers[GROUP]
    assert (counted.in_flight_count, counted.handled_count) == (0, before + 10)


@pytest.mark.django_db(transaction=True)
async def test_other_apps_have_counters_under_names_of_their_own(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """The ingress counts what became of requests."""
    await sync_to_async(make_users)(1)
    before = collect().others.get("ingress", {})
    async with listening(redis_server.url, keys):
        redis_client.publish(keys.ingress_channel(), b"not json")
        await wait_until(
            lambda: collect().others["ingress"].get("refused:not_json", 0) == before.get("refused:not_json", 0) + 1
        )


@pytest.mark.database_independent
async def test_the_counters_are_read_from_another_thread(redis_server: RedisServer) -> None:
    """While sockets join and leave, and layers come and go; no total falls."""
    stop = threading.Event()
    readings: list[ProcessStatistics] = []
    errors: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                readings.append(collect())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for _ in range(5):
            layer = RedisChannelLayer([redis_server.url])
            channels = [await layer.new_channel() for _ in range(50)]
            for number, channel in enumerate(channels):
                await layer.group_add(f"group{number}", channel)
            await layer.flush()
    finally:
        stop.set()
        thread.join()
    assert errors == []
    assert len(readings) > 1
    received = [each.multiplexer.received_count for each in readings]
    assert received == sorted(received)


class Counting:
    """A part of the process."""

    def __init__(self, count: int) -> None:
        self.count = count

    def statistics(self) -> Totals:
        return {"seen": self.count}


def test_the_totals_of_a_hub_outlive_its_event_loop(redis_server: RedisServer) -> None:
    """A total never falls, though each event loop of a process has a hub of its own."""
    layer = RedisChannelLayer(hosts=[redis_server.url])
    before = collect().hub.slow_count

    async def close_a_slow_socket() -> None:
        layer.hub.count_slow()

    for _ in range(2):
        asyncio.run(close_a_slow_socket())
    gc.collect()
    assert collect().hub.slow_count == before + 2


def test_an_event_loop_is_closed_even_if_its_connections_cannot_be(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error propagates, such as that of Ctrl-C. The totals stay in the sum."""
    layer = RedisChannelLayer(hosts=[redis_server.url])
    before = collect().hub.slow_count
    monkeypatch.setattr(LoopLayer, "flush", AsyncMock(side_effect=KeyboardInterrupt))
    loop = asyncio.new_event_loop()

    async def close_a_slow_socket() -> None:
        layer.hub.count_slow()

    loop.run_until_complete(close_a_slow_socket())
    with pytest.raises(KeyboardInterrupt):
        loop.close()
    assert loop.is_closed()
    gc.collect()
    assert collect().hub.slow_count == before + 1


def test_a_part_that_is_forgotten_drops_out() -> None:
    """It is held weakly; one that has ended properly stays in the sum, and ends once."""
    first, second = Counting(1), Counting(2)
    register(first, "test parts")
    register(second, "test parts")
    assert collect().others["test parts"] == {"seen": 3}
    unregister(second)
    unregister(second)
    assert collect().others["test parts"] == {"seen": 3}
    del first
    gc.collect()
    assert collect().others["test parts"] == {"seen": 2}


def test_a_process_may_fork_while_a_thread_collects() -> None:
    """As a web server with workers may. The child must not wait for a thread that it does not have."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK]
    assert subprocess.run(command, cwd=ROOT, check=False, timeout=300).returncode == 0


def test_a_counter_at_zero_is_there() -> None:
    """However many parts have it."""
    first, second = Counting(0), Counting(0)
    register(first, "idle parts")
    register(second, "idle parts")
    assert collect().others["idle parts"] == {"seen": 0}
