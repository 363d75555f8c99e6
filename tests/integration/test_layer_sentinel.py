"""The channel layer behind a real Sentinel: it finds the master, and the next one when that is gone."""

import asyncio
import contextlib
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from realtime.broker.history import HistoryPolicy
from realtime.broker.publish import PublishRequest
from realtime.embedded import server as embedded
from realtime.exceptions import StreamUnavailable
from realtime.layer import RedisChannelLayer
from realtime.redis import clients
from realtime.streams.append import append_entries
from tests.acceptance.site import free_port
from tests.support.topic_clients import Client, ClientSink
from tests.support.waiting import wait_until, wait_until_sync

pytestmark = pytest.mark.database_independent

HOST = "127.0.0.1"
MASTER_NAME = "signalbox"
TOPIC = "news.today"
POLICY = HistoryPolicy()


class Hears(Client):
    """Data do not matter here, but that there is no gap."""

    def check(self, data: Any, position: Any) -> None: ...


class SentinelSite:
    """A master, its replica, and a Sentinel that watches them; on ports, as Sentinels know nothing else."""

    def __init__(self) -> None:
        self.ports = [free_port(), free_port()]
        self.sentinel_port = free_port()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._exits = ExitStack()

    def __enter__(self) -> "SentinelSite":
        directory = Path(self._exits.enter_context(tempfile.TemporaryDirectory(prefix="sb-")))
        master, replica = self.ports
        common = ["--bind", HOST, "--dir", str(directory), "--save", ""]
        self._start("--port", str(master), *common)
        self._start(
            "--port", str(replica), "--replicaof", f"{HOST} {master}", "--repl-diskless-sync-delay", "0", *common
        )
        configuration = directory / "sentinel.conf"
        lines = [f"port {self.sentinel_port}", f"bind {HOST}", f"sentinel monitor {MASTER_NAME} {HOST} {master} 1"]
        # Longer than a loaded machine lets a process wait: otherwise a server that is up would count as down.
        lines += [f"sentinel down-after-milliseconds {MASTER_NAME} 6000"]
        configuration.write_text("\n".join(lines))
        self.wait_for(replica, lambda client: client.info("replication")["master_link_status"] == "up")
        self._start(str(configuration), "--sentinel")
        self.wait_for(self.sentinel_port, lambda client: len(client.sentinel_slaves(MASTER_NAME)) == 1)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._exits.close()

    def wait_for(self, port: int, fact: Callable[[redis.Redis], bool]) -> None:
        """Wait until `fact` is true of the server at `port`."""

        def holds() -> bool:
            with contextlib.suppress(redis.ConnectionError), redis.Redis(HOST, port) as client:
                return fact(client)
            return False

        wait_until_sync(holds, seconds=90)

    def kill_master(self) -> None:
        """With SIGKILL, as a crash."""
        self._processes[0].kill()
        self._processes[0].wait()

    def _start(self, *arguments: str) -> None:
        self._processes.append(
            subprocess.Popen([str(embedded.binary()), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )


@pytest.fixture
def site() -> Iterator[SentinelSite]:
    with SentinelSite() as site:
        yield site


@pytest.fixture
async def layer(site: SentinelSite) -> AsyncIterator[RedisChannelLayer]:
    layer = RedisChannelLayer(
        [{"master_name": MASTER_NAME, "sentinels": [(HOST, site.sentinel_port)]}],
        on_disconnect="redis.lost",
        on_reconnect="redis.back",
    )
    yield layer
    await layer.flush()


async def test_a_layer_follows_its_master(site: SentinelSite, layer: RedisChannelLayer) -> None:
    """The master is killed: consumers are told, and are back on the promoted replica; sockets have no silent gap."""
    channel, hears = await layer.new_channel(), Hears(None)
    await layer.group_add(TOPIC, channel)
    await layer.hub.join(TOPIC, ClientSink(hears))
    first = await layer.publish(PublishRequest(TOPIC, b'"before"', POLICY))
    layer.publish_now(PublishRequest(TOPIC, b'"before, from sync code"', POLICY))
    await wait_until(lambda: len(hears.received) == 2)
    with redis.Redis(HOST, site.ports[0]) as master:
        assert master.hget(layer.keys.topic_position(TOPIC), "offset") == b"2"
        site.wait_for(site.ports[1], lambda replica: replica.hget(layer.keys.topic_position(TOPIC), "offset") == b"2")
    site.kill_master()
    async with asyncio.timeout(120):
        events = [(await layer.receive(channel))["type"] for _ in range(4)]
    assert events == ["realtime.message", "realtime.message", "redis.lost", "redis.back"]
    # By the Sentinel's word it is the master now; publishers ask it too.
    await wait_until(lambda: publishes(layer), seconds=90)
    async with asyncio.timeout(120):
        assert (await layer.receive(channel))["data"] == '"after"'
    await wait_until(lambda: len(hears.received) >= 3)
    await wait_until(lambda: publishes_now(layer), seconds=90)
    await wait_until(lambda: hears.received[-1] == (first.position.epoch, len(hears.received)))
    # Everything was on the replica before: nothing is missing, and nobody is told so.
    assert hears.recovered == [False]
    with redis.Redis(HOST, site.ports[1]) as promoted:
        assert promoted.info("replication")["role"] == "master"
    await layer.flush()
    with redis.Redis(HOST, site.sentinel_port) as sentinel:
        # Of clients of ours: the sync publisher's, and the one that asks.
        await wait_until(lambda: sum("redis-py" in each["lib-name"] for each in sentinel.client_list()) <= 2)


def test_a_sentinel_in_the_place_of_a_redis_is_called_by_its_name(site: SentinelSite) -> None:
    """It takes connections and answers PING; what it refuses says what the address is."""
    with clients.publisher(f"redis://{HOST}:{site.sentinel_port}") as client:
        assert client.ping()
        with pytest.raises(StreamUnavailable, match="is this the port of a Sentinel"):
            append_entries(client, "stream", "guard", [{"name": b"one"}], guard_seconds=1)


async def publishes(layer: RedisChannelLayer) -> bool:
    with contextlib.suppress(redis.RedisError, OSError):
        await layer.publish(PublishRequest(TOPIC, b'"after"', POLICY))
        return True
    return False


def publishes_now(layer: RedisChannelLayer) -> bool:
    with contextlib.suppress(redis.RedisError, OSError):
        layer.publish_now(PublishRequest(TOPIC, b'"after, from sync code"', POLICY))
        return True
    return False
