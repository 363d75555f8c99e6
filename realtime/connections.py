"""
Every Redis client of the project is made here, with its timeouts on purpose.

Owns URLs → clients. redis-py 8 defaults to `socket_timeout=5` and ten retries: that kills blocking reads that are
merely idle (channels_redis#422), and may repeat an XREADGROUP whose entries were already handed out. So there are two
kinds:

- *publishers* send and expect an answer soon: 5 s, or 2 s where somebody waits for a page; a lost connection is tried
  again (every script they run may be run twice);
- *readers* wait as long as it takes: no socket timeout, no retry; their owner handles each error itself.

Does not own reconnecting of readers (multiplexer, streams) nor settings (conf).
"""

from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import FullJitterBackoff, NoBackoff
from redis.retry import Retry

__all__ = ["CALLER_TIMEOUT_SECONDS", "async_publisher", "async_reader", "publisher"]

CONNECT_TIMEOUT_SECONDS = 2.0
PUBLISH_TIMEOUT_SECONDS = 5.0
PUBLISH_RETRIES = 2
# The same for somebody who waits for a page: what Redis does not take by then, the outbox keeps.
CALLER_TIMEOUT_SECONDS = 2.0
HEALTH_CHECK_SECONDS = 30
# More threads than this that publish at once wait for one another; far above what one web process runs.
MAX_CONNECTIONS = 64

_COMMON: dict[str, Any] = {
    # RESP2 everywhere: pub/sub replies are plain lists on it, and every Redis since 6.2 and every Valkey speaks it.
    "protocol": 2,
    "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
}
_PUBLISHER: dict[str, Any] = {**_COMMON, "health_check_interval": HEALTH_CHECK_SECONDS}
# A lost connection is tried again at once, as a restarted server is there already. One that hangs is not: the caller
# would wait three times as long.
_RETRIED = (redis.ConnectionError,)
_BACKOFF = FullJitterBackoff(base=0.05, cap=0.5)
_READER: dict[str, Any] = {
    **_COMMON,
    "socket_timeout": None,
    # The owner of a reader probes it in its own way; a PING between two blocking reads would be answered out of turn.
    "health_check_interval": 0,
}


def publisher(url: str, *, timeout_seconds: float = PUBLISH_TIMEOUT_SECONDS) -> redis.Redis:
    """
    A sync, thread-safe, pooled client for short commands.

    Args:
        timeout_seconds: The longest wait for an answer: a server that hangs is an error after it, one that is gone
            after three quick tries. Pages take CALLER_TIMEOUT_SECONDS.
    """
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=timeout_seconds,
        retry=Retry(_BACKOFF, PUBLISH_RETRIES, supported_errors=_RETRIED),
        **{**_PUBLISHER, "socket_timeout": timeout_seconds},
    )
    return redis.Redis.from_pool(pool)


def async_publisher(url: str, *, timeout_seconds: float = PUBLISH_TIMEOUT_SECONDS) -> redis.asyncio.Redis:
    """The async twin of `publisher`; belongs to the event loop on which it is first used."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=round(timeout_seconds),
        retry=AsyncRetry(_BACKOFF, PUBLISH_RETRIES, supported_errors=_RETRIED),
        **{**_PUBLISHER, "socket_timeout": timeout_seconds},
    )
    return redis.asyncio.Redis.from_pool(pool)


def async_reader(url: str) -> redis.asyncio.Redis:
    """An async client for blocking reads and pub/sub: never times out, never retries; its owner handles errors."""
    pool = redis.asyncio.ConnectionPool.from_url(url, retry=AsyncRetry(NoBackoff(), 0), **_READER)
    return redis.asyncio.Redis.from_pool(pool)
