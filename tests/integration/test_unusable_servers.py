"""A server that refuses commands because of its state: its connections are closed, and clients wait for it."""

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from realtime.redis import clients
from realtime.redis.keys import Keys
from realtime.redis.lease import Lease
from realtime.redis.outage import Outage
from realtime.streams.append import append_entries
from tests.acceptance.site import free_port
from tests.integration.multiplexing import receive_many, running_multiplexer
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.streams import GROUP, Recorder, working
from tests.support.waiting import wait_until, wait_until_sync

pytestmark = pytest.mark.database_independent

# Nobody listens there.
NOWHERE = ("127.0.0.1", 1)


def make_replica(admin: redis.Redis) -> None:
    admin.replicaof(*NOWHERE)


def make_cut_off_replica(admin: redis.Redis) -> None:
    admin.config_set("replica-serve-stale-data", "no")
    admin.replicaof(*NOWHERE)


def ask_for_replicas(admin: redis.Redis) -> None:
    admin.config_set("min-replicas-to-write", 1)


def lose_slots(admin: redis.Redis) -> None:
    admin.execute_command("CLUSTER", "DELSLOTS", 0)
    wait_until_sync(lambda: admin.cluster("INFO")["cluster_state"] != "ok")


STATES: dict[str, tuple[Callable[[redis.Redis], None], tuple[str, ...]]] = {
    "READONLY": (make_replica, ()),
    "MASTERDOWN": (make_cut_off_replica, ()),
    "NOREPLICAS": (ask_for_replicas, ()),
    "CLUSTERDOWN": (lose_slots, ("--cluster-enabled", "yes")),
}


@pytest.fixture(params=STATES)
def turning(request: pytest.FixtureRequest) -> Iterator[tuple[RedisServer, str, Callable[[], None]]]:
    """A server that can be used, the code of its errors to come, and what makes it refuse."""
    spoil, options = STATES[request.param]
    with RedisServer(options=options) as server, redis.Redis.from_url(server.url) as admin:
        if options:
            admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
            wait_until_sync(lambda: admin.cluster("INFO")["cluster_state"] == "ok")
        yield server, request.param, lambda: spoil(admin)


def commands(code: str) -> list[Callable[[Any], Any]]:
    """What such a server refuses: alone, in a script, in a transaction, and by a script in a pipeline."""
    words = ("GET", "a") if code == "MASTERDOWN" else ("SET", "a", "1")
    script = f"return redis.call({', '.join(map(repr, words)).replace(repr('a'), 'KEYS[1]')})"
    return [
        lambda client: client.execute_command(*words),
        lambda client: client.eval(script, 1, "a"),
        lambda client: client.pipeline(transaction=True).execute_command(*words).execute(),
        lambda client: client.pipeline(transaction=False).eval(script, 1, "a").execute(),
    ]


def test_its_connections_are_closed(turning: tuple[RedisServer, str, Callable[[], None]]) -> None:
    """For any command, the error is a connection error that names the state."""
    server, code, spoil = turning
    with clients.publisher(server.url, retries=0) as client:
        for ask in commands(code):
            ask(client)
        connection = client.connection_pool.get_connection()
        client.connection_pool.release(connection)
        assert connection._sock is not None
        spoil()
        for ask in commands(code):
            with pytest.raises(redis.ConnectionError, match=f"^(?!.*refused).*{code} "):
                ask(client)
            assert connection._sock is None


@pytest.mark.parametrize("make", [clients.async_reader, clients.async_publisher])
async def test_its_connections_are_closed_by_async_clients_too(
    turning: tuple[RedisServer, str, Callable[[], None]], make: Callable[[str], redis.asyncio.Redis]
) -> None:
    """The same."""
    server, code, spoil = turning
    client = make(server.url)
    for ask in commands(code):
        await ask(client)
    connection = await client.connection_pool.get_connection()
    await client.connection_pool.release(connection)
    assert connection.is_connected
    spoil()
    for ask in commands(code):
        with pytest.raises(redis.ConnectionError, match=f"^(?!.*refused).*{code} "):
            await ask(client)
        assert not connection.is_connected
    await client.aclose()


def test_a_server_that_loads_its_data_is_waited_for() -> None:
    """It takes connections meanwhile, and refuses everything on them."""
    slow = ("--enable-debug-command", "yes", "--key-load-delay", "20000", "--loading-process-events-interval-bytes")
    with RedisServer(options=(*slow, "1024")) as server, clients.publisher(server.url, retries=0) as client:
        client.mset({f"{number}": "x" * 1024 for number in range(200)})
        with socket.socket(socket.AF_UNIX) as loading:
            loading.connect(server.url.removeprefix("unix://"))
            loading.sendall(b"DEBUG RELOAD\r\n")
            with pytest.raises(redis.ConnectionError, match="loading"):
                while True:
                    client.get("1")
            assert loading.recv(100) == b"+OK\r\n"
        assert client.get("1") is not None


@contextlib.contextmanager
def primary_and_replica() -> Iterator[tuple[RedisServer, RedisServer, Callable[[], None]]]:
    """Two servers in step, and what makes the second the primary of the first."""
    ports = [free_port(), free_port()]
    options = [("--port", str(port), "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0") for port in ports]
    with (
        RedisServer(options=options[0]) as old,
        RedisServer(options=options[1]) as new,
        redis.Redis.from_url(old.url) as old_admin,
        redis.Redis.from_url(new.url) as new_admin,
    ):
        new_admin.replicaof("127.0.0.1", ports[0])

        def fail_over() -> None:
            # Nothing that the old one has taken is lost.
            old_admin.execute_command("FAILOVER", "TO", "127.0.0.1", ports[1], "TIMEOUT", 10_000)
            wait_until_sync(lambda: roles() == ["slave", "master"])

        def roles() -> list[str]:
            return [admin.info("replication")["role"] for admin in (old_admin, new_admin)]

        wait_until_sync(lambda: new_admin.info("replication")["master_link_status"] == "up")
        yield old, new, fail_over


async def test_a_failover_with_connections_left_open_heals(keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    """Worker, lease, publishing and subscriptions go on with the new primary, and it is one outage."""
    handler, outage = Recorder(), Outage("Redis")
    with primary_and_replica() as (old, new, fail_over):
        async with Proxy(old.url) as proxy:
            client = clients.async_publisher(proxy.url)
            lease = Lease(client, keys.lease("ingress"), ttl_seconds=1.0, outage=outage)

            async def work() -> None:
                await asyncio.Event().wait()

            wanting = asyncio.create_task(lease.run_while_held(work))
            async with (
                working(proxy.url, keys, handler, outage=outage, lease_seconds=1.0, claim_interval_seconds=0.1),
                running_multiplexer(proxy.url) as multiplexer,
                multiplexer.subscribe("news") as news,
            ):
                with clients.publisher(proxy.url) as sender:

                    def send(name: str) -> None:
                        append_entries(
                            sender,
                            keys.stream("notifications"),
                            keys.stream_guard("notifications", name),
                            [{"name": name.encode()}],
                            guard_seconds=60,
                        )

                    await asyncio.to_thread(send, "before")
                    await wait_until(lambda: handler.names == ["before"])
                    await wait_until(lambda: lease.is_held)
                    await asyncio.to_thread(fail_over)
                    # The worker meets the old one, as the address leads there still.
                    await wait_until(lambda: outage.is_on)
                    proxy.lead_to(new.url)
                    await asyncio.to_thread(send, "after")
                    await wait_until(lambda: handler.names == ["before", "after"])
                    await wait_until(lambda: lease.is_held)
                    await wait_until(lambda: not outage.is_on)
                    await asyncio.to_thread(sender.publish, "news", "after")
                    assert await receive_many(news, 1) == [b"after"]
            wanting.cancel()
            await asyncio.wait([wanting])
            await client.aclose()
        with redis.Redis.from_url(new.url) as admin:
            assert admin.xpending(keys.stream("notifications"), GROUP)["pending"] == 0
    lines = [record.getMessage() for record in caplog.records if record.name == "realtime.redis.outage"]
    assert [re.sub(r"\(.*\)|[\d.]+ s", "…", line) for line in lines] == [
        "Redis is unavailable …: trying again until it is available",
        "Redis is available again after …",
    ]
