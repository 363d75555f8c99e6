"""
Reads a state from Redis while a subscription receives its changes. If changes were missed meanwhile, reads it again.

Owns when it is read again, and what is logged then. Does not own what is read, nor the changes that are held meanwhile.
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


async def _no_wait() -> None:
    """The default of `ready`."""


async def read_without_gap[T](
    read: Callable[[], Awaitable[T]],
    *,
    what: str,
    gap_count: Callable[[], int],
    on_repeat: Callable[[], None],
    outage: Outage,
    ready: Callable[[], Awaitable[None]] = _no_wait,
) -> T:
    """
    Read a state while no change is missed. After a gap or an error, wait with the backoff of `outage`, and retry.

    Args:
        read: Reads the state.
        what: The state, for the log.
        gap_count: Returns how often changes may have been missed until now.
        on_repeat: Called each time that the state is read again because of a gap.
        outage: The state of Redis. Errors of Redis are reported to it; any other error is a defect, which is logged.
        ready: Awaited before each attempt; returns when the subscription is live. By default nothing is awaited.

    Returns:
        What `read` returned. `gap_count` was the same before and after it.

    Guarantees:
        No error ends it, except cancellation.
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
                # Without the state, it is unknown which changes were missed. So a defect is retried, too.
                _log.exception(type(error).__name__, error, "%s could not be read: trying again", what)
                await asyncio.sleep(outage.backoff.delay_seconds(attempt))
            else:
                observer.worked()
                if gap_count() == count_before:
                    return state
                on_repeat()
                await asyncio.sleep(outage.backoff.delay_seconds(attempt))
            attempt += 1
