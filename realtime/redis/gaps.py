"""
Reads a state from Redis whose changes arrive on a subscription, again and again until no change was missed meanwhile.

Owns when it is read again, and what is logged then. Does not own what is read, nor the changes that wait for it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from realtime.exceptions import SubscriptionClosed
from realtime.redis.outage import REDIS_ERRORS, Outage
from realtime.untrusted.text import LimitedLog

__all__ = ["read_without_gap"]

logger = logging.getLogger(__name__)
_log = LimitedLog(logger)


async def _is_ready() -> None:
    """The default of `ready`: the subscription is not waited for."""


async def read_without_gap[T](
    read: Callable[[], Awaitable[T]],
    *,
    what: str,
    gap_count: Callable[[], int],
    on_repeat: Callable[[], None],
    outage: Outage,
    ready: Callable[[], Awaitable[None]] = _is_ready,
) -> T:
    """
    What `read` returned when the number of gaps was the same before and after it.

    Otherwise, and after any error, it is read again after a wait, with the backoff of `outage`.

    Args:
        read: Reads the state.
        what: What is read, for the log.
        gap_count: How often changes may have been missed until now.
        on_repeat: Called each time that it is read again because changes were missed.
        outage: Of what is read. Errors of Redis are reported to it; any other error is a defect, which is logged.
        ready: Awaited before each reading: the subscription is live.
    """
    with outage.observer() as observer:
        attempt = 0
        while True:
            try:
                await ready()
                count_before = gap_count()
                state = await read()
            except (*REDIS_ERRORS, SubscriptionClosed) as error:
                await observer.wait(error, attempt)
            except Exception as error:
                # Those who need the state wait after any error, because it is unknown what they have missed.
                _log.exception(type(error).__name__, error, "%s could not be read: trying again", what)
                await asyncio.sleep(outage.backoff.delay_seconds(attempt))
            else:
                observer.worked()
                if gap_count() == count_before:
                    return state
                on_repeat()
                await asyncio.sleep(outage.backoff.delay_seconds(attempt))
            attempt += 1
