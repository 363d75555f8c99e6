"""
The lease of a stream worker: whether the worker may begin attempts, as far as it can know.

Owns the lease's token and the waits for it. Does not own the calls to Redis (group) nor when they are made (worker).
"""

import asyncio
import secrets

from realtime.redis.lease import LeaseClock

__all__ = ["WorkerLease"]


class WorkerLease(LeaseClock):
    """
    The lease of one worker. Each recovery starts a new one, with a token of its own.

    Args:
        lease_seconds: How long Redis keeps the lease after a renewal.
    """

    def __init__(self, lease_seconds: float) -> None:
        super().__init__(lease_seconds)
        # The value of the lease in Redis. Empty while the worker must recover: at its start, and after any error.
        self.token = ""
        # How often the worker has asked Redis what it holds.
        self.recovery_count = 0
        self._is_closed = False
        self._changed = asyncio.Event()

    def new_token(self) -> str:
        """A token for the next lease."""
        return secrets.token_hex(8)

    def invalidate(self) -> None:
        """The worker must recover before it reads again. It may go on with the entries that it holds."""
        self.token = ""

    def renewed(self, asked_at: float) -> None:
        """Redis has renewed the lease, in answer to a request made at `asked_at` on the loop's clock."""
        super().renewed(asked_at)
        self.wake()

    def recovered(self, token: str, asked_at: float) -> None:
        """The lease with this token has started, and Redis has answered what the worker holds."""
        self.token = token
        self.recovery_count += 1
        self.renewed(asked_at)

    def close(self) -> None:
        """The worker stops: there will be no further recovery."""
        self._is_closed = True
        self.wake()

    def wake(self) -> None:
        """Let all waiting tasks check again."""
        self._changed.set()

    async def wait_held(self, stopping: asyncio.Event) -> None:
        """Wait until attempts may begin or the worker stops."""
        while not self.is_held and not stopping.is_set():
            self._changed.clear()
            await self._changed.wait()

    async def wait_recovered(self, since: int) -> bool:
        """Wait until there were more than `since` recoveries. False if the worker stops first."""
        while self.recovery_count == since and not self._is_closed:
            self._changed.clear()
            await self._changed.wait()
        return not self._is_closed
