"""
Every Redis client of the project is made here, with its timeouts on purpose.

Owns URLs → clients. redis-py 8 defaults to `socket_timeout=5` and ten retries: that kills blocking reads that are
merely idle (channels_redis#422), and may repeat an XREADGROUP whose entries were already handed out. So there are two
kinds:

- *publishers* send and expect an answer soon: 5 s, a few quick retries (every script they run may be run twice);
- *readers* wait as long as it takes: no socket timeout, no retry; their owner handles each error itself.

Does not own reconnecting of readers (multiplexer, streams) nor settings (conf).
"""

from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import FullJitterBackoff, NoBackoff
from redis.retry import Retry

__all__ = ["async_publisher", "async_reader", "impatient_publisher", "publisher"]

CONNECT_TIMEOUT_SECONDS = 2.0
PUBLISH_TIMEOUT_SECONDS = 5.0
PUBLISH_RETRIES = 2
IMPATIENT_TIMEOUT_SECONDS = 1.0
HEALTH_CHECK_SECONDS = 30
# More threads than this that publish at once wait for one another; far above what one web process runs.
MAX_CONNECTIONS = 64

_COMMON: dict[str, Any] = {
    # RESP2 everywhere: pub/sub replies are plain lists on it, and every Redis since 6.2 and every Valkey speaks it.
    "protocol": 2,
    "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
}
_PUBLISHER: dict[str, Any] = {
    **_COMMON,
    "socket_timeout": PUBLISH_TIMEOUT_SECONDS,
    "health_check_interval": HEALTH_CHECK_SECONDS,
}
_READER: dict[str, Any] = {
    **_COMMON,
    "socket_timeout": None,
    # The owner of a reader probes it in its own way; a PING between two blocking reads would be answered out of turn.
    "health_check_interval": 0,
}


def publisher(url: str) -> redis.Redis:
    """A sync, thread-safe, pooled client for short commands: a lost server is an error within about 10 seconds."""
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=PUBLISH_TIMEOUT_SECONDS,
        retry=Retry(FullJitterBackoff(base=0.05, cap=0.5), PUBLISH_RETRIES),
        **_PUBLISHER,
    )
    return redis.Redis.from_pool(pool)


def impatient_publisher(url: str) -> redis.Redis:
    """A sync client for a page that can do without Redis: a lost server is an error within 2 seconds. Close it."""
    return redis.Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        **{**_COMMON, "socket_connect_timeout": IMPATIENT_TIMEOUT_SECONDS, "socket_timeout": IMPATIENT_TIMEOUT_SECONDS},
    )


def async_publisher(url: str) -> redis.asyncio.Redis:
    """The async twin of `publisher`; belongs to the event loop on which it is first used."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=int(PUBLISH_TIMEOUT_SECONDS),
        retry=AsyncRetry(FullJitterBackoff(base=0.05, cap=0.5), PUBLISH_RETRIES),
        **_PUBLISHER,
    )
    return redis.asyncio.Redis.from_pool(pool)


def async_reader(url: str) -> redis.asyncio.Redis:
    """An async client for blocking reads and pub/sub: never times out, never retries; its owner handles errors."""
    pool = redis.asyncio.ConnectionPool.from_url(url, retry=AsyncRetry(NoBackoff(), 0), **_READER)
    return redis.asyncio.Redis.from_pool(pool)
