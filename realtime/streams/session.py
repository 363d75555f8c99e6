"""
Whether a worker may begin attempts: its lease, as far as the worker can know.

Owns the session's name and its end on the worker's own clock. Does not own asking Redis (worker, group).
"""

import asyncio
import secrets

__all__ = ["Session"]

# No attempt begins in this last share of the lease.
MARGIN = 0.1


class Session:
    """
    Args:
        lease_seconds: How long Redis keeps the lease after it has been renewed.

    Guarantees:
        `is_held` is false before Redis gives what the worker holds to others, as long as the clocks of both run at the
        same pace: a worker that was held up finds it false when it goes on.
    """

    def __init__(self, lease_seconds: float) -> None:
        # Its name in Redis; empty while the worker must ask what it holds, which is at the start and after any error.
        self.name = ""
        # How often the worker has asked.
        self.reconciliation_count = 0
        self._lease_seconds = lease_seconds
        # Until when, on the loop's clock, the lease is certainly this worker's.
        self._held_until = 0.0
        self._is_closed = False
        self._changed = asyncio.Event()

    @property
    def is_held(self) -> bool:
        """Whether attempts may begin now."""
        return asyncio.get_running_loop().time() < self._held_until

    def begin(self) -> str:
        """A name for a new session."""
        return secrets.token_hex(8)

    def end(self) -> None:
        """The worker must ask what it holds; what it does hold, it may go on with."""
        self.name = ""

    def renewed(self, asked_at: float) -> None:
        """Redis renewed the lease, when asked at this time of the loop's clock."""
        self._held_until = max(self._held_until, asked_at + self._lease_seconds * (1 - MARGIN))
        self.wake()

    def reconciled(self, name: str, asked_at: float) -> None:
        """Redis has said what the worker holds, and the session of this name has begun."""
        self.name = name
        self.reconciliation_count += 1
        self.renewed(asked_at)

    def close(self) -> None:
        """Nobody asks any more: the worker stops."""
        self._is_closed = True
        self.wake()

    def wake(self) -> None:
        """Let those who wait look again."""
        self._changed.set()

    async def wait_held(self, stopping: asyncio.Event) -> None:
        """Wait until attempts may begin, or the worker stops."""
        while not self.is_held and not stopping.is_set():
            self._changed.clear()
            await self._changed.wait()

    async def wait_reconciled(self, since: int) -> bool:
        """Wait until the worker has asked what it holds, after `since` times; False if it stops."""
        while self.reconciliation_count == since and not self._is_closed:
            self._changed.clear()
            await self._changed.wait()
        return not self._is_closed
