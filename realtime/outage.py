"""
Saying once that something is away, waiting, and saying once that it is back.

Owns the log lines and the waits of an outage. Does not own what is tried again.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis

from realtime.backoff import Backoff

__all__ = ["REDIS_ERRORS", "Outage"]

logger = logging.getLogger(__name__)

# What redis-py raises when the server is away, starting, read-only, full or in disorder; TimeoutError is an OSError.
REDIS_ERRORS = (redis.RedisError, OSError)


class Outage:
    """
    The state of one thing that may be away; whoever uses the thing shares it.

    Args:
        what: Its name in the log: "Redis".
        backoff: How long the users wait between tries.
    """

    def __init__(self, what: str, *, backoff: Backoff | None = None) -> None:
        self._what = what
        self._backoff = backoff or Backoff()
        # When it went away, on the monotonic clock; None while it is there.
        self._since: float | None = None
        # When it last worked.
        self._worked_at = -math.inf
        # What was said last of the commands that it refuses.
        self._refusal = ""

    @property
    def is_on(self) -> bool:
        """Whether it is away."""
        return self._since is not None

    def begin(self, error: BaseException, *, asked_at: float | None = None) -> None:
        """
        It failed with `error`: say so, if it is news.

        That it answers and refuses is also news while it is away: the one may follow from the other, and never end.

        Args:
            asked_at: When it was asked for what failed, by `time.monotonic`: that is no news if it has worked since.
        """
        if self._since is None:
            if asked_at is not None and asked_at < self._worked_at:
                return
            self._since, self._refusal = time.monotonic(), ""
        elif not isinstance(error, redis.ResponseError) or str(error) == self._refusal:
            return
        if isinstance(error, redis.ResponseError):
            self._refusal = str(error)
            text = "%s refuses a command (%s: %s): trying again until it does not"
        else:
            text = "%s is away (%s: %s): trying again until it is back"
        logger.warning(text, self._what, type(error).__name__, error)

    def over(self, *, asked_at: float | None = None) -> None:
        """
        It worked: say so, if it is news.

        Args:
            asked_at: When it was asked for what worked: that is no news if it has failed since.
        """
        if self._since is not None and asked_at is not None and asked_at < self._since:
            return
        self._worked_at = time.monotonic()
        if self._since is not None:
            logger.warning("%s: back after %.1f s", self._what, time.monotonic() - self._since)
            self._since = None

    async def wait(self, error: BaseException, attempt: int, *, asked_at: float | None = None) -> None:
        """
        It failed with `error`: say so, if it is news, and sleep before the next try, with full jitter.

        Args:
            attempt: How many tries of this user have failed in a row before this one.
            asked_at: As in `begin`.
        """
        self.begin(error, asked_at=asked_at)
        await asyncio.sleep(self._backoff.delay_seconds(attempt))

    async def until_done[T](self, command: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Send a Redis command that may be sent twice until Redis has taken it, and return its answer."""
        failures = 0
        while True:
            asked_at = time.monotonic()
            try:
                answer = await command(*arguments)
            except REDIS_ERRORS as error:
                await self.wait(error, failures, asked_at=asked_at)
                failures += 1
            else:
                self.over(asked_at=asked_at)
                return answer
