"""
The circuit breaker of notify(): callers do not wait, one after another, for a Redis that is unavailable.

Owns when publishing is tried, and how often failures are logged. Does not own publishing (outbox).
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

from realtime.exceptions import StreamUnavailable
from realtime.statistics import register

__all__ = ["Breaker"]

logger = logging.getLogger(__name__)

# How often an ongoing outage is logged.
WARNING_INTERVAL_SECONDS = 60.0
# How long one try may take before another caller may try: more than the sum of a client's timeouts and retries.
TRY_SECONDS = 30.0


class Breaker:
    """
    Closed while publishing works; open after a failure.

    While it is open, one caller every `pause_seconds` tries to publish. All others leave their event to the sweep at
    once. It is safe in threads and event loops: no method waits.

    Args:
        pause_seconds: How long to wait after a failure before the next try.

    Attributes:
        left_count: Events left to the sweep since this process started.
    """

    def __init__(self, *, pause_seconds: float) -> None:
        self.left_count = 0
        register(self, "outbox")
        self._pause_seconds = pause_seconds
        self._lock = threading.Lock()
        # Monotonic time of the next try; None while closed.
        self._open_until: float | None = None
        # Monotonic time of the last warning, and the events left to the sweep since then.
        self._warned_at: float | None = None
        self._unlogged_count = 0
        # Whether the outage is logged and its end is not.
        self._is_logged = False

    def statistics(self) -> dict[str, int]:
        """The events left to the sweep, for `realtime.statistics`."""
        return {"left_to_sweep": self.left_count}

    def try_now(self) -> bool:
        """Whether to publish now, inside `judging`. If not, the event is counted as left in the outbox."""
        with self._lock:
            now = time.monotonic()
            if self._open_until is None:
                return True
            if now >= self._open_until:
                # If the thread dies during its try and reports nothing, another one may try after this time.
                self._open_until = now + TRY_SECONDS
                return True
            self._leave(now, "Redis is still unavailable")
            return False

    @contextlib.contextmanager
    def judging(self) -> Iterator[None]:
        """
        Wrap a try to publish: StreamUnavailable opens the breaker, and success closes it.

        After any other error, the state of Redis is unknown: the next caller may try at once.
        """
        try:
            yield
        except StreamUnavailable as error:
            self._failed(error)
            raise
        except BaseException:
            self._undecided()
            raise
        else:
            self._succeeded()

    def _failed(self, error: Exception) -> None:
        with self._lock:
            now = time.monotonic()
            self._open_until = now + self._pause_seconds
            cause = error.__cause__ or error
            self._leave(now, f"Redis is unavailable ({type(cause).__name__}: {cause})")

    def _undecided(self) -> None:
        with self._lock:
            if self._open_until is not None:
                self._open_until = time.monotonic()

    def _succeeded(self) -> None:
        with self._lock:
            self._open_until = None
            if self._is_logged:
                self._is_logged = False
                logger.info("Redis is available again: events are published on commit again")

    def _leave(self, now: float, reason: str) -> None:
        self.left_count += 1
        self._unlogged_count += 1
        if self._warned_at is None or now - self._warned_at >= WARNING_INTERVAL_SECONDS:
            logger.warning("%s: %d event(s) left in the outbox for the sweep", reason, self._unlogged_count)
            self._warned_at = now
            self._unlogged_count = 0
            self._is_logged = True
