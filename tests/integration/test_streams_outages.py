"""A stream worker and a Redis that goes, comes back, forgets everything, stops answering, or cuts connections."""

import asyncio
import re
from typing import Any

import pytest
import redis

from realtime.redis import clients
from realtime.redis.keys import Keys
from realtime.streams import StreamWorker, Unavailable, group
from realtime.streams.keys import GroupKeys
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.streams import GROUP, STREAM, Recorder, append, consumers, pending_count, working
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent

PATIENT = {"lease_seconds": 300, "claim_interval_seconds": 300}


def outage_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of Redis being away, without what differs from run to run."""
    lines = [re.sub(r"\(.*\)|[\d.]+ s", "…", record.getMessage()) for record in caplog.records]
    return [line for line in lines if line.startswith("Redis")]


AWAY_AND_BACK = ["Redis is unavailable …: trying again until it is available", "Redis is available again after …"]


async def test_a_worker_waits_for_a_redis_that_is_not_there_yet(keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    """It says so once, comes up by itself, and stops in time when asked meanwhile."""
    handler = Recorder()
    with RedisServer() as server:
        server.kill()
        async with working(server.url, keys, handler) as impatient:
            await wait_until(lambda: outage_lines(caplog) == AWAY_AND_BACK[:1])
            async with asyncio.timeout(60):
                await impatient.stop()
        caplog.clear()
        async with working(server.url, keys, handler):
            await wait_until(lambda: outage_lines(caplog) == AWAY_AND_BACK[:1])
            server.start()
            with clients.publisher(server.url) as client:
                append(client, keys, "one")
            await wait_until(lambda: handler.names == ["one"])
    assert outage_lines(caplog) == AWAY_AND_BACK


async def test_redis_killed_and_restarted_with_its_data_under_load(
    keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything is handled, at least once, what was in hand is acked, and the outage is said once."""
    gate = asyncio.Event()
    handler = Recorder(gate=gate)
    with RedisServer(append_only=True) as server, clients.publisher(server.url) as client:
        append(client, keys, *range(100))
        async with working(server.url, keys, handler, batch_size=7, **PATIENT) as worker:
            await wait_until(lambda: handler.running_count == 1)
            server.kill()
            gate.set()
            await wait_until(lambda: outage_lines(caplog) == AWAY_AND_BACK[:1])
            server.start()
            await wait_until(lambda: worker.statistics().handled_count == 100)
            assert pending_count(client, keys) == 0
    assert handler.names == [str(number) for number in range(100)]
    assert outage_lines(caplog) == AWAY_AND_BACK


async def test_a_wiped_redis_is_set_up_again(keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    """All groups are made from the first entry on, before anybody trims; it is said in the log; the worker goes on."""
    handler = Recorder()
    with RedisServer() as server, clients.publisher(server.url) as client:
        async with working(server.url, keys, handler, groups=("bot",)):
            append(client, keys, "before")
            await wait_until(lambda: handler.names == ["before"])
            for turn in range(3):
                client.flushall()
                append(client, keys, f"after {turn}")
                await wait_until(lambda: handler.names[-1] == f"after {turn}")  # noqa: B023
        groups = {group["name"]: group["entries-read"] for group in client.xinfo_groups(keys.stream(STREAM))}
        assert groups[b"workers"] == 1
        assert b"bot" in groups
    assert handler.names == ["before", "after 0", "after 1", "after 2"]
    assert "the group workers of the stream" in caplog.text
    assert "created again, from the first entry" in caplog.text


async def test_a_wipe_while_entries_are_in_hand_stops_nobody(keys: Keys) -> None:
    """Their ends are told to a group that does not know them, retries and burials included."""
    gate = asyncio.Event()

    def fail(name: str) -> None:
        if name == "bad":
            raise ValueError(name)

    handler = Recorder(gate=gate, fail=fail)
    with RedisServer() as server, clients.publisher(server.url) as client:
        append(client, keys, "good", "bad")
        async with working(server.url, keys, handler, max_attempts=2) as worker:
            await wait_until(lambda: handler.running_count == 1)
            client.flushall()
            gate.set()
            await wait_until(lambda: worker.statistics().in_flight_count == 0)
            append(client, keys, "after")
            await wait_until(lambda: handler.names == ["good", "after"])


async def test_killed_connections_lose_nothing(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """CLIENT KILL in storms, under load: every entry is handled, and none stays pending."""
    handler = Recorder()
    async with working(redis_server.url, keys, handler, batch_size=3, concurrency=3, **PATIENT) as worker:
        await worker.wait_ready()
        for turn in range(20):
            append(redis_client, keys, *(f"{turn}-{number}" for number in range(20)))
            # Of the worker's connections: those that run stream commands.
            for client in redis_client.client_list():
                if client["cmd"] in ("xread", "evalsha"):
                    redis_client.execute_command("CLIENT", "KILL", "ID", client["id"])
            await asyncio.sleep(0)
        await wait_until(lambda: len(set(handler.names)) == 400)
        await wait_until(lambda: pending_count(redis_client, keys) == 0)


async def test_entries_whose_delivery_was_lost_on_the_way_are_read_again(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Redis handed them out, the answer never arrived: the own pending list has them, no lease is waited for."""
    handler = Recorder()
    options = {**PATIENT, "publisher_url": redis_server.url}
    async with Proxy(redis_server.url) as proxy, working(proxy.url, keys, handler, **options) as worker:
        await wait_idle(worker, proxy, redis_client)
        proxy.go_deaf()
        append(redis_client, keys, "lost on the way")
        worker._wakeup.wake()
        await wait_until(lambda: pending_count(redis_client, keys) == 1)
        assert handler.names == []
        proxy.cut()
        await wait_until(lambda: handler.names == ["lost on the way"])
        assert consumers(redis_client, keys) == [worker.consumer]


async def test_it_is_known_when_a_group_was_created_though_the_answer_was_lost(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """The call is repeated, and then the group exists."""
    stream = keys.stream(STREAM)
    async with Proxy(redis_server.url) as proxy:
        client = clients.async_publisher(proxy.url)
        first, second = (
            group.ConsumerGroup(
                reader=client,
                redis=client,
                keys=GroupKeys(stream, name),
                consumer="creator",
                groups=(),
                order_field="",
            )
            for name in ("first", "second")
        )
        # It connects, and Redis knows the script from now on.
        await first.create()
        proxy.go_deaf()
        creating = asyncio.create_task(second.create())
        await wait_until(lambda: len(redis_client.xinfo_groups(stream)) == 2)
        proxy.cut()
        await creating
        await clients.close(client)
    first_at, second_at = (int(redis_client.get(keys.group_made(STREAM, name)) or 0) for name in ("first", "second"))
    assert 0 < first_at <= second_at


async def test_a_connection_that_has_gone_deaf_is_noticed(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """A reader has no socket timeout, yet no read waits for longer than its block and a grace."""
    handler = Recorder()
    options = {**PATIENT, "block_seconds": 0.5, "publisher_url": redis_server.url}
    async with Proxy(redis_server.url) as proxy, working(proxy.url, keys, handler, **options) as worker:
        await wait_idle(worker, proxy, redis_client)
        proxy.go_deaf()
        append(redis_client, keys, "one")
        await wait_until(lambda: worker.statistics().handled_count == 1)
    assert handler.names == ["one"]
    assert outage_lines(caplog) == AWAY_AND_BACK


async def test_redis_paused_for_a_while_is_waited_for(keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    """It accepts connections and says nothing; what was asked of it before may be done when it goes on."""
    handler = Recorder()
    with RedisServer() as server, clients.publisher(server.url) as client:
        async with working(server.url, keys, handler, block_seconds=0.2, **PATIENT) as worker:
            await worker.wait_ready()
            append(client, keys, "before")
            await wait_until(lambda: handler.names == ["before"])
            server.pause()
            await wait_until(lambda: outage_lines(caplog) == AWAY_AND_BACK[:1])
            server.resume()
            append(client, keys, "after")
            await wait_until(lambda: handler.names == ["before", "after"])
            await wait_until(lambda: pending_count(client, keys) == 0)
    assert outage_lines(caplog) == AWAY_AND_BACK


@pytest.mark.parametrize("error", [ValueError, Unavailable])
async def test_nothing_is_tried_again_while_the_lease_may_be_over(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, error: type[Exception]
) -> None:
    """Cut off from Redis for longer than its lease, a worker waits, and leaves out what others have by then."""

    def fail(name: str) -> None:
        raise error(name)

    gate = asyncio.Event()
    cut_off, other = Recorder(gate=gate, fail=fail), Recorder()
    options = {"order_field": "name", "lease_seconds": 0.4, "claim_interval_seconds": 0.05, "block_seconds": 0.1}
    append(redis_client, keys, "one", "two")
    async with Proxy(redis_server.url) as proxy, working(proxy.url, keys, cut_off, **options) as worker:
        await wait_until(lambda: cut_off.running_count == 1)
        proxy.go_away()
        await wait_until(lambda: not worker._lease.is_held)
        async with working(redis_server.url, keys, other, **options):
            await wait_until(lambda: other.names == ["one", "two"])
            gate.set()
            await wait_until(lambda: cut_off.running_count == 0)
            proxy.come_back()
            await wait_until(lambda: worker.statistics().lost_count == 2 and worker.statistics().in_flight_count == 0)
    assert cut_off.calls == [["one", "two"]]


async def test_a_stream_key_of_the_wrong_type_is_said_and_does_not_end_the_worker(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """An operator's slip: the worker goes on when it is put right."""
    handler = Recorder()
    redis_client.set(keys.stream(STREAM), "not a stream")
    async with working(redis_server.url, keys, handler):
        await wait_until(lambda: "WRONGTYPE" in caplog.text)
        redis_client.delete(keys.stream(STREAM))
        append(redis_client, keys, "one")
        await wait_until(lambda: handler.names == ["one"])
        assert pending_count(redis_client, keys, GROUP) in (0, 1)


async def test_an_entry_that_ends_while_the_own_pending_list_is_read_is_not_handled_again(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis says that it is pending; by the time that its answer is looked at, the entry has been acked."""
    gate = asyncio.Event()
    handler = Recorder(gate=gate)
    async with working(redis_server.url, keys, handler, batch_size=1, concurrency=2, **PATIENT) as worker:
        append(redis_client, keys, "one")
        await wait_until(lambda: handler.running_count == 1)
        await wait_until(lambda: blocked_reader(redis_client) is not None)
        recover, answers = worker._group.recover, []

        async def ask_slowly(*arguments: Any) -> Any:
            answer = await recover(*arguments)
            answers.append([entry.fields for entry, _ in answer])
            gate.set()
            await wait_until(lambda: worker.statistics().in_flight_count == 0)
            return answer

        monkeypatch.setattr(worker._group, "recover", ask_slowly)
        # Its lease is over: it recovers.
        redis_client.set(keys.worker_lease(STREAM, GROUP, worker.consumer), "another", px=60_000)
        worker._wakeup.wake()
        await wait_until(lambda: answers == [[{b"name": b"one"}]])
        append(redis_client, keys, "two")
        await wait_until(lambda: worker.statistics().handled_count == 2)
    assert handler.names == ["one", "two"]


async def wait_idle(worker: StreamWorker, proxy: Proxy, client: redis.Redis) -> None:
    """Wait until the worker waits on one connection, and has another one for its next read."""

    def has_both() -> bool:
        if proxy.accepted_count == 2 and blocked_reader(client):
            return True
        worker._wakeup.wake()
        return False

    await worker.wait_ready()
    await wait_until(has_both)


def blocked_reader(client: redis.Redis) -> str | None:
    """The id of the connection that waits for entries."""
    return next((each["id"] for each in client.client_list() if each["cmd"] == "xread"), None)
