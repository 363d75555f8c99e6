"""
A lease: one process at a time holds it, and another one takes over soon after the holder dies.

Owns acquiring, renewing and releasing it. Does not own the work that it guards.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import redis.asyncio

from realtime.redis import scripts
from realtime.redis.outage import REDIS_ERRORS, Outage

__all__ = ["Lease", "LeaseClock"]

logger = logging.getLogger(__name__)

# A holder that cannot renew ends its work this fraction of the lease before Redis lets another acquire it.
MARGIN = 0.1
_RENEW, _RELEASE = scripts.Script("renew_lease", answer=int), scripts.Script("release_lease", answer=int)


class LeaseClock:
    """
    Until when a lease is certainly held, on the clock of the event loop.

    Args:
        lease_seconds: How long Redis keeps the lease after a renewal.

    Guarantees:
        `is_held` is false before Redis lets another acquire the lease, if the clocks of both run at the same speed. A
        holder that was suspended finds it false when it continues.
    """

    def __init__(self, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._held_until = 0.0

    @property
    def is_held(self) -> bool:
        """Whether the lease is held now."""
        return asyncio.get_running_loop().time() < self._held_until

    def renewed(self, asked_at: float) -> None:
        """Redis has renewed the lease, in answer to a request made at `asked_at` on the loop's clock."""
        self._held_until = max(self._held_until, asked_at + self._lease_seconds * (1 - MARGIN))


class Lease(LeaseClock):
    """
    Args:
        redis: A client for short commands (`clients.async_publisher`).
        key: The lease's name in Redis; its value is the holder's id.
        ttl_seconds: How long it lasts without renewal, so how soon another takes over from a holder that died. It is
            renewed, or tried again, four times in this period.
        holder: This holder's id, by default host-pid-random.
        outage: The state of Redis, shared by all its users in the process so that an outage is logged once.

    Guarantees:
        The key always has an expiry. `is_held` as in LeaseClock.
    """

    def __init__(
        self,
        redis: redis.asyncio.Redis,
        key: str,
        *,
        ttl_seconds: float = 10.0,
        holder: str | None = None,
        outage: Outage | None = None,
    ) -> None:
        super().__init__(ttl_seconds)
        self.holder = holder or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._redis = redis
        self._key = key
        self._redis_observer = (outage or Outage("Redis")).observer()

    async def acquire(self) -> bool:
        """
        Acquire the lease if nobody holds it, or renew it if this holder does.

        Returns:
            Whether this holder has the lease now.

        Raises:
            redis.RedisError: Redis is unavailable. A lease that was held stays held until it expires.
        """
        asked_at = asyncio.get_running_loop().time()
        ttl_ms = round(self._lease_seconds * 1000)
        is_ours: bool = await _RENEW.arun(self._redis, [self._key], [self.holder, ttl_ms]) == 1
        if not is_ours:
            is_ours = bool(await self._redis.set(self._key, self.holder, nx=True, px=ttl_ms))
        if is_ours:
            self.renewed(asked_at)
        else:
            self._held_until = 0.0
        return is_ours

    async def release(self) -> None:
        """Let another acquire it at once. Does nothing if it is not held. Raises redis.RedisError."""
        self._held_until = 0.0
        await _RELEASE.arun(self._redis, [self._key], [self.holder])

    async def run_while_held(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """
        Wait for the lease, run `work` while it is held, and wait again; runs until cancelled.

        Args:
            work: Runs until it is cancelled; called again each time the lease is acquired. Exceptions propagate.

        Guarantees:
            Cancelling ends the work and releases the lease. While Redis is unavailable, it waits.
        """
        try:
            while True:
                await self._redis_observer.until_done(self._wait_until_acquired)
                logger.info("lease %s: held by %s", self._key, self.holder)
                await self._work(work)
                logger.warning("lease %s: lost by %s", self._key, self.holder)
        finally:
            self._redis_observer.leave()
            with contextlib.suppress(*REDIS_ERRORS):
                async with asyncio.timeout(2.0):
                    await self.release()

    async def _wait_until_acquired(self) -> None:
        while True:
            asked_at = time.monotonic()
            is_ours = await self.acquire()
            self._redis_observer.worked(asked_at=asked_at)
            if is_ours:
                return
            await asyncio.sleep(self._lease_seconds / 4)

    async def _work(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `work` until it ends or the lease does."""
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(work(), name=f"lease {self._key}: work")
            while not task.done() and await self._keep(task):
                pass
            task.cancel()

    async def _keep(self, task: asyncio.Task[None]) -> bool:
        """Wait for a quarter of the lease and renew it. Returns whether it is still held."""
        loop = asyncio.get_running_loop()
        await asyncio.wait([task], timeout=self._lease_seconds / 4)
        asked_at = time.monotonic()
        # No attempt may wait for Redis beyond the end of the lease.
        end_of_lease = asyncio.timeout_at(self._held_until)
        try:
            async with end_of_lease:
                if not await self.acquire():
                    return False
                self._redis_observer.worked(asked_at=asked_at)
        except REDIS_ERRORS as error:
            # If the lease ended first, the wait may have been very short: that alone does not mean an outage.
            if not end_of_lease.expired():
                self._redis_observer.failed(error, asked_at=asked_at)
        return loop.time() < self._held_until
