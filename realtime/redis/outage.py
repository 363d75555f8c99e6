"""
Logs once that something is unavailable, waits between attempts, and logs once that it is available again.

Owns the log lines and the waits of an outage. Does not own what is retried.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self

import redis

from realtime.redis.backoff import Backoff

__all__ = ["REDIS_ERRORS", "Observer", "Outage"]

logger = logging.getLogger(__name__)

# What redis-py raises when the server is unavailable, starting, read-only, full or broken; TimeoutError is an OSError.
REDIS_ERRORS = (redis.RedisError, OSError)


class Outage:
    """
    The state of one resource that may be unavailable, shared by everything in the process that uses it.

    Args:
        what: The name of the resource in the log: "Redis".
        backoff: How long its users wait between attempts.

    Guarantees:
        An outage begins with the first failure that any observer reports. It ends with the first success after which
        every observer that has failed has succeeded or left. The log has one line for the beginning and one for the
        end, however many observers fail, and one for each new refusal in between. The first success in an outage wakes
        all observers that wait, so that nobody sleeps while the resource is available.
    """

    def __init__(self, what: str, *, backoff: Backoff | None = None) -> None:
        self._what = what
        # How long its users wait between attempts.
        self.backoff = backoff or Backoff()
        # When the present outage began, on the monotonic clock; None if there is none.
        self._since: float | None = None
        # When it last worked.
        self._worked_at = -math.inf
        # Observers that have failed and have not succeeded since, with the time of their last failure.
        self._failing: dict[Observer, float] = {}
        # The last refusal that was logged in this outage.
        self._refusal = ""
        # Whether a success in this outage has woken the observers. Only the first one does: for the whole of an outage,
        # one command may work while another fails.
        self._is_woken = False
        self._wakeup = asyncio.Event()

    @property
    def is_on(self) -> bool:
        """Whether there is an outage."""
        return self._since is not None

    def observer(self) -> "Observer":
        """An observer for one user of the resource, who retries until it succeeds."""
        return Observer(self)

    async def until_done[T](
        self, command: Callable[..., Awaitable[T]], *arguments: Any, errors: tuple[type[Exception], ...] = REDIS_ERRORS
    ) -> T:
        """As `Observer.until_done`, with an observer for this call alone."""
        with self.observer() as observer:
            return await observer.until_done(command, *arguments, errors=errors)

    def _fail(self, observer: "Observer", error: BaseException, asked_at: float | None) -> None:
        is_refusal = isinstance(error, redis.ResponseError)
        # A lost connection is ignored if its request was made before the last success. A refusal is not, because one
        # command may be refused while others work.
        if not is_refusal and observer not in self._failing and asked_at is not None and asked_at < self._worked_at:
            return
        now = time.monotonic()
        self._failing[observer] = now
        if self._since is None:
            self._since, self._refusal, self._is_woken = now, "", False
        elif not is_refusal or str(error) == self._refusal:
            return
        cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if is_refusal:
            self._refusal = str(error)
            logger.warning("%s refuses a command (%s): trying again until it accepts it", self._what, cause)
        else:
            logger.warning("%s is unavailable (%s): trying again until it is available", self._what, cause)

    def _work(self, observer: "Observer", asked_at: float | None) -> None:
        if self._since is not None:
            failed_at = self._failing.get(observer, self._since)
            if asked_at is not None and asked_at < failed_at:
                return
            self._failing.pop(observer, None)
            self._wake()
        self._worked_at = time.monotonic()
        if self._since is not None and not self._failing:
            logger.warning("%s is available again after %.1f s", self._what, self._worked_at - self._since)
            self._since = None

    def _wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            self._wakeup.set()
            self._wakeup = asyncio.Event()

    async def _sleep(self, attempt: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.backoff.delay_seconds(attempt)):
                await self._wakeup.wait()

    def _leave(self, observer: "Observer") -> None:
        self._failing.pop(observer, None)


class Observer:
    """
    One user of a resource, which reports each failure and each success; made by `Outage.observer`.

    A user that may be cancelled uses it in a `with` statement, so that it leaves.
    """

    def __init__(self, outage: Outage) -> None:
        self._outage = outage

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.leave()

    def failed(self, error: BaseException, *, asked_at: float | None = None) -> None:
        """
        Report a failure of the resource; logged at the beginning of an outage.

        A refusal is logged during an outage too, because it may persist after the outage.

        Args:
            asked_at: When the failed request was made, by `time.monotonic`. A lost connection is ignored if the
                resource has worked since then.
        """
        self._outage._fail(self, error, asked_at)

    def worked(self, *, asked_at: float | None = None) -> None:
        """
        Report a success; logged if it ends the outage.

        Args:
            asked_at: When the request was made. The success is ignored if this observer has failed since then.
        """
        self._outage._work(self, asked_at)

    def leave(self) -> None:
        """This user does not retry any more, so the outage may end without its success."""
        self._outage._leave(self)

    async def wait(self, error: BaseException, attempt: int, *, asked_at: float | None = None) -> None:
        """
        Report a failure as `failed` does, and wait before the next attempt, with full jitter.

        Args:
            attempt: How many attempts of this user failed in a row before this one.
            asked_at: As in `failed`.
        """
        self.failed(error, asked_at=asked_at)
        await self._outage._sleep(attempt)

    async def until_done[T](
        self, command: Callable[..., Awaitable[T]], *arguments: Any, errors: tuple[type[Exception], ...] = REDIS_ERRORS
    ) -> T:
        """
        Retry a command until it succeeds, and return its answer.

        Args:
            command: Must be safe to repeat.
            errors: Those that mean that the resource is unavailable. Others are raised.
        """
        failures = 0
        while True:
            asked_at = time.monotonic()
            try:
                answer = await command(*arguments)
            except errors as error:
                await self.wait(error, failures, asked_at=asked_at)
                failures += 1
            else:
                self.worked(asked_at=asked_at)
                return answer
