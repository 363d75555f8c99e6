"""Leases: one holder among all, another one soon after it died, and nobody who only believes to hold it."""

import asyncio
import contextlib
import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
import redis.asyncio

from realtime.redis import clients
from realtime.redis.keys import Keys
from realtime.redis.lease import Lease
from tests.support.redis_server import RedisServer
from tests.support.waiting import Standstill, wait_until

pytestmark = pytest.mark.database_independent

ROOT = Path(__file__).resolve().parent.parent.parent


class Work:
    """Work that runs until cancelled, and says whether it does."""

    def __init__(self) -> None:
        self.begun_count = 0
        self.is_running = False

    async def __call__(self) -> None:
        self.begun_count += 1
        self.is_running = True
        try:
            await asyncio.sleep(3600)
        finally:
            self.is_running = False


@contextlib.asynccontextmanager
async def wanting(lease: Lease, work: Work) -> AsyncIterator[asyncio.Task[None]]:
    """Somebody who wants the lease, until the end of the block."""
    task = asyncio.create_task(lease.run_while_held(work), name="wants the lease")
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


@contextlib.contextmanager
def holding_process(url: str, key: str, holder: str, ttl_seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.support.lease_process", url, key, holder, str(ttl_seconds)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_a_lease_has_one_holder_and_an_end(async_redis_client: redis.asyncio.Redis, keys: Keys) -> None:
    """Asking again renews one's own; it is never without a time to live; giving it up lets the other have it."""
    key = keys.lease("ingress")
    mine, theirs = (Lease(async_redis_client, key, ttl_seconds=10, holder=name) for name in ("me", "they"))
    assert not mine.is_held
    assert await mine.acquire()
    assert mine.is_held
    assert not await theirs.acquire()
    assert not theirs.is_held
    assert await mine.acquire()
    assert 9_000 < await async_redis_client.pttl(key) <= 10_000
    assert await async_redis_client.get(key) == b"me"
    await theirs.release()
    assert await async_redis_client.get(key) == b"me"
    await mine.release()
    assert not mine.is_held
    assert await theirs.acquire()


async def test_of_three_one_works_and_when_it_stops_another_does_at_once(
    async_redis_client: redis.asyncio.Redis, keys: Keys
) -> None:
    """Work never runs twice at a time, and a clean stop does not wait for the lease to end."""
    works = [Work(), Work(), Work()]
    # Long enough that none ends by itself when this process stands still.
    leases = [Lease(async_redis_client, keys.lease("ingress"), ttl_seconds=10, holder=name) for name in "abc"]
    async with contextlib.AsyncExitStack() as stack:
        tasks = [await stack.enter_async_context(wanting(*each)) for each in zip(leases, works, strict=True)]
        for _ in range(2):
            await wait_until(lambda: sum(work.is_running for work in works) == 1)
            holder = next(index for index, work in enumerate(works) if work.is_running)
            assert [lease.is_held for lease in leases] == [work.is_running for work in works]
            tasks[holder].cancel()
            await asyncio.wait([tasks[holder]])
            assert not works[holder].is_running
            # Given up, and not left to its end.
            assert not await is_holder(async_redis_client, keys.lease("ingress"), leases[holder].holder.encode())
            await wait_until(lambda: sum(work.is_running for work in works) == 1)
    assert sum(work.begun_count for work in works) == 3
    assert not await async_redis_client.exists(keys.lease("ingress"))


async def test_a_holder_killed_by_sigkill_is_followed_within_its_lease(
    redis_server: RedisServer, async_redis_client: redis.asyncio.Redis, keys: Keys
) -> None:
    """It cannot give the lease up; Redis ends it."""
    key = keys.lease("ingress")
    work = Work()
    with holding_process(redis_server.url, key, "doomed", 10.0) as process:
        await wait_until(lambda: is_holder(async_redis_client, key, b"doomed"))
        async with wanting(Lease(async_redis_client, key, ttl_seconds=10.0, holder="heir"), work):
            # The doomed one renews, and stays the holder.
            for _ in range(2):
                await wait_until(lambda: ends_within(async_redis_client, key, 9_200))
                await wait_until(lambda: lives_beyond(async_redis_client, key, 9_200))
            assert not work.is_running
            assert await is_holder(async_redis_client, key, b"doomed")
            process.kill()
            process.wait()
            assert 0 < await async_redis_client.pttl(key) <= 10_000
            await wait_until(lambda: work.is_running, seconds=90)
            assert await async_redis_client.get(key) == b"heir"


async def ends_within(client: redis.asyncio.Redis, key: str, ms: int) -> bool:
    """Whether it would, were it not renewed."""
    return await client.pttl(key) < ms


async def lives_beyond(client: redis.asyncio.Redis, key: str, ms: int) -> bool:
    return await client.pttl(key) > ms


async def is_holder(client: redis.asyncio.Redis, key: str, holder: bytes) -> bool:
    return await client.get(key) == holder


async def test_a_holder_that_cannot_reach_redis_stops_before_another_can_begin(
    keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis paused: the work ends before the lease would; when Redis is back, it begins anew."""
    work = Work()
    with RedisServer() as server:
        client = clients.async_publisher(server.url)
        lease = Lease(client, keys.lease("ingress"), ttl_seconds=2.0)
        async with wanting(lease, work), Standstill() as stood:
            await wait_until(lambda: work.is_running)
            server.pause()
            paused_at, begun_count = time.monotonic(), work.begun_count
            await wait_until(lambda: not work.is_running, seconds=90)
            # The last renewal began before the pause.
            assert time.monotonic() - paused_at - stood.seconds < 2.0
            assert not lease.is_held
            server.resume()
            await wait_until(lambda: work.is_running)
            assert work.begun_count == begun_count + 1
        await client.aclose()
    # The lease's own end came first, which is no outage: one would be logged twice, as others log it too.
    assert "Redis is unavailable" not in caplog.text


async def test_a_lease_that_another_took_ends_the_work(
    async_redis_client: redis.asyncio.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a pause of the holder, or a wipe: what Redis says counts."""
    key, work = keys.lease("ingress"), Work()
    # Long enough that it does not end by itself when this process stands still.
    async with wanting(Lease(async_redis_client, key, ttl_seconds=10.0), work):
        await wait_until(lambda: work.is_running)
        await async_redis_client.set(key, "thief", px=60_000)
        await wait_until(lambda: not work.is_running)
        assert await async_redis_client.get(key) == b"thief"
        await async_redis_client.delete(key)
        await wait_until(lambda: work.is_running)
    assert work.begun_count == 2


async def test_redis_being_away_does_not_end_the_wish(keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    """Not at the start, not in the midst, and it is said once each."""
    work = Work()
    caplog.set_level(logging.INFO)
    with RedisServer() as server:
        server.kill()
        client = clients.async_publisher(server.url)
        async with wanting(Lease(client, keys.lease("ingress"), ttl_seconds=0.4), work):
            await wait_until(lambda: "Redis is unavailable" in caplog.text)
            server.start()
            await wait_until(lambda: work.is_running)
            server.kill()
            await wait_until(lambda: not work.is_running)
            # The lease's own end may come before any attempt has failed.
            await wait_until(lambda: caplog.text.count("Redis is unavailable") == 2)
            server.start()
            await wait_until(lambda: work.is_running)
            await wait_until(lambda: lives_beyond(client, keys.lease("ingress"), 0))
        await client.aclose()
    assert caplog.text.count("Redis is unavailable") == caplog.text.count("Redis is available again") == 2


async def test_what_the_work_raises_ends_the_wish_and_the_lease(
    async_redis_client: redis.asyncio.Redis, keys: Keys
) -> None:
    """A defect is for the supervisor; another process may have the lease at once."""

    async def fail() -> None:
        raise ValueError("defect")

    with pytest.raises(ExceptionGroup) as caught:
        await Lease(async_redis_client, keys.lease("ingress")).run_while_held(fail)
    assert caught.group_contains(ValueError, match="defect")
    assert not await async_redis_client.exists(keys.lease("ingress"))
