"""
A lease: one holder among all processes, and another one soon after the holder dies.

Owns getting, renewing and ending it. Does not own the work that it guards.
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

# The work of a holder that cannot renew ends this share of the lease before Redis gives it to another.
MARGIN = 0.1
_RENEW, _RELEASE = scripts.Script("renew_lease", answer=int), scripts.Script("release_lease", answer=int)


class LeaseClock:
    """
    Until when a lease is certainly held, on the clock of the event loop.

    Args:
        lease_seconds: How long Redis keeps the lease after a renewal.

    Guarantees:
        `is_held` is false before Redis gives the lease to another, if the clocks of both run at the same pace: a holder
        that was held up finds it false when it goes on.
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
        redis: A client for short commands (`connections.async_publisher`).
        key: The lease's name in Redis; its value is the holder's id.
        ttl_seconds: How long it lasts unrenewed: how soon another takes over from a holder that died. It is renewed,
            and asked for, at every quarter.
        holder: This holder's id, by default host-pid-random.
        outage: The state of Redis, shared by all its users in the process so that an outage is logged once.

    Guarantees:
        The key never lives without an end. `is_held` as in LeaseClock.
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
        Get the lease if nobody has it, or renew one's own.

        Returns:
            Whether this holder has it now.

        Raises:
            redis.RedisError: Redis is away. What was held stays held until its end.
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
        """Give it up, so that another gets it at once; nothing if it is not held. Raises redis.RedisError."""
        self._held_until = 0.0
        await _RELEASE.arun(self._redis, [self._key], [self.holder])

    async def run_while_held(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """
        For ever: wait for the lease, run `work` as long as it is held, and wait again.

        Args:
            work: Runs until it is cancelled; begun anew each time that the lease is had. What it raises ends this.

        Guarantees:
            Cancelling this ends the work and gives the lease up. Redis being away is waited for.
        """
        try:
            while True:
                await self._redis_observer.until_done(self._wait_for_it)
                logger.info("lease %s: held by %s", self._key, self.holder)
                await self._work(work)
                logger.warning("lease %s: lost by %s", self._key, self.holder)
        finally:
            self._redis_observer.leave()
            with contextlib.suppress(*REDIS_ERRORS):
                async with asyncio.timeout(2.0):
                    await self.release()

    async def _wait_for_it(self) -> None:
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
        """Wait for a quarter of the lease and renew it. False when it is over."""
        loop = asyncio.get_running_loop()
        await asyncio.wait([task], timeout=self._lease_seconds / 4)
        asked_at = time.monotonic()
        # Of several tries, none may wait for Redis beyond the end of the lease.
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
