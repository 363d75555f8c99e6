"""
Creates every Redis client of the project, with deliberate timeouts.

Owns the step from a URL to a client. Does not own reconnecting of readers (pubsub, streams) nor settings (conf).

The defaults of redis-py 8, `socket_timeout=5` and ten retries, break blocking reads that are merely idle
(channels_redis#422), and may repeat an XREADGROUP whose entries were already delivered. So there are two kinds:

- *publishers* expect an answer soon: within 5 s, or 2 s where a page waits for it. They retry after a lost connection,
  unless their commands must not run twice.
- *readers* wait as long as it takes: no socket timeout, no retries. Their owner handles each error.
"""

import contextlib
import re
from collections.abc import Mapping
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import FullJitterBackoff, NoBackoff
from redis.retry import Retry

from realtime.redis.connection_checks import checked

__all__ = [
    "CALLER_TIMEOUT_SECONDS",
    "Host",
    "async_publisher",
    "async_reader",
    "check_host",
    "close",
    "database_of",
    "place_of",
    "publisher",
]

CONNECT_TIMEOUT_SECONDS = 2.0
PUBLISH_TIMEOUT_SECONDS = 5.0
PUBLISH_RETRIES = 2
# The same where a page waits for it: an event that Redis does not accept by then stays in the outbox.
CALLER_TIMEOUT_SECONDS = 2.0
HEALTH_CHECK_SECONDS = 30
# If more threads than this publish at once, they wait for each other. No web process runs that many.
MAX_CONNECTIONS = 64

_NO_SENTINEL_URL = (
    "which is not supported yet: write the redis:// URL of an address that always leads to the primary, such as a "
    'proxy or a virtual IP. The channel layer takes a Sentinel: "hosts": [{"master_name": "mymaster", '
    '"sentinels": [("host", 26379)]}]'
)
_BAD_PORT = "the port is not a number up to 65535; in a password, write #, / and ? as %23, %2F and %3F"

# A URL, or any other form that channels_redis accepts: {"address": URL, …}, {"host": …, "port": …, …}, or a Sentinel's
# {"master_name": …, "sentinels": [(host, port), …], "sentinel_kwargs": {…}, …}; further items go to redis-py.
type Host = str | Mapping[str, Any]


def _driver() -> dict[str, Any]:
    """What new connections tell the server of redis-py. Otherwise redis-py reads its version from disk for each one."""
    try:
        from redis.driver_info import DriverInfo
    except ImportError:
        # Releases without it read the version once.
        return {}
    return {"driver_info": DriverInfo()}


_COMMON: dict[str, Any] = {
    **_driver(),
    # RESP2 everywhere: pub/sub replies are plain lists on it, and every Redis since 6.2 and every Valkey speaks it.
    "protocol": 2,
    "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
}
_PUBLISHER: dict[str, Any] = {**_COMMON, "health_check_interval": HEALTH_CHECK_SECONDS}
# A lost connection is retried at once, because a restarted server accepts connections again. A timeout is not retried:
# the caller would wait three times as long.
_RETRIED = (redis.ConnectionError,)
_BACKOFF = FullJitterBackoff(base=0.05, cap=0.5)
_READER: dict[str, Any] = {
    **_COMMON,
    "socket_timeout": None,
    # The owner of a reader has its own probes. A PING between two blocking reads would be answered out of turn.
    "health_check_interval": 0,
}


def check_host(host: Host) -> None:
    """
    Check whether clients can be created for a host; opens no connection.

    Raises:
        ValueError: Says what is wrong and what to write instead, without the password that the URL may have.
    """
    url = host.get("address") if isinstance(host, Mapping) else host
    scheme = url.partition("://")[0] if isinstance(url, str) else ""
    if "sentinel" in scheme:
        raise ValueError(f"is the address of a Sentinel ({scheme}://…), {_NO_SENTINEL_URL}")
    if not isinstance(url, str | None):
        raise ValueError(f"is of type {type(url).__name__}: write redis://localhost:6379/0")
    if url is not None:
        scheme, _, rest = url.rpartition("://")
        # A user and a password stay out of the log.
        place = re.sub(r"^(rediss?|unix):/*", "", rest.rpartition("@")[2])
        if scheme not in ("redis", "rediss", "unix"):
            raise ValueError(
                f"is not a Redis URL ({place!r}): write redis://{place or 'localhost:6379/0'}, rediss://… for TLS, "
                "or unix://… and the path of a socket"
            )
        if scheme == "unix" and not place.strip("/"):
            raise ValueError("has no path: write unix:///run/redis.sock")
    try:
        publisher(host).connection_pool.make_connection()
    except (TypeError, ValueError, KeyError, redis.RedisError) as error:
        # The text that redis-py takes for a port may be the end of a password.
        problem = _BAD_PORT if str(error).startswith("Port ") else str(error)
        raise ValueError(f"cannot be used ({problem}): write redis://user:password@host:port/number") from error


def place_of(host: Host) -> str | None:
    """The server of a host, as "cache:6379" or the path of a socket; None if a Sentinel decides it."""
    if isinstance(host, Mapping) and "master_name" in host:
        return None
    options = publisher(host).connection_pool.connection_kwargs
    name = options.get("host", "localhost")
    return options.get("path") or f"{'localhost' if name == '127.0.0.1' else name}:{options.get('port', 6379)}"


def database_of(host: Host) -> int:
    """The database number in a host's URL or options; 0 if they have none."""
    return int(publisher(host).connection_pool.connection_kwargs.get("db") or 0)


def publisher(
    host: Host, *, timeout_seconds: float = PUBLISH_TIMEOUT_SECONDS, retries: int = PUBLISH_RETRIES
) -> redis.Redis:
    """
    A sync, thread-safe, pooled client for short commands.

    Args:
        timeout_seconds: The longest wait for an answer; CALLER_TIMEOUT_SECONDS for pages. A server that refuses
            connections is an error sooner, after three quick attempts.
        retries: How often a command is sent again after its connection was lost. With 0 it runs at most once; a
            connection that broke while it was idle is still replaced before the command is sent.
    """
    retry = Retry(_BACKOFF, retries, supported_errors=_RETRIED)
    options = {**_PUBLISHER, "socket_timeout": timeout_seconds, "retry": retry}
    if isinstance(host, Mapping) and "master_name" in host:
        sentinel, master_name, rest = _sentinel(redis.sentinel.Sentinel, host)
        client: redis.Redis = sentinel.master_for(master_name, **{**options, **rest})
        checked(client.connection_pool)
        return client
    pool_options = {"max_connections": MAX_CONNECTIONS, "timeout": timeout_seconds}
    return redis.Redis.from_pool(_pool(redis.BlockingConnectionPool, host, {**options, **pool_options}))


def async_publisher(
    host: Host, *, timeout_seconds: float = PUBLISH_TIMEOUT_SECONDS, retries: int = PUBLISH_RETRIES
) -> redis.asyncio.Redis:
    """The async twin of `publisher`; belongs to the event loop on which it is first used."""
    retry = AsyncRetry(_BACKOFF, retries, supported_errors=_RETRIED)
    options = {**_PUBLISHER, "socket_timeout": timeout_seconds, "retry": retry}
    pool_options = {"max_connections": MAX_CONNECTIONS, "timeout": round(timeout_seconds)}
    return _async_client(redis.asyncio.BlockingConnectionPool, host, options, pool_options)


def async_reader(host: Host) -> redis.asyncio.Redis:
    """An async client for blocking reads and pub/sub: no timeout, no retries; its owner handles errors."""
    return _async_client(redis.asyncio.ConnectionPool, host, {**_READER, "retry": AsyncRetry(NoBackoff(), 0)}, {})


async def close(client: redis.asyncio.Redis) -> None:
    """Close an async client with all its connections, including those to Sentinels, which redis-py leaves open."""
    manager = getattr(client.connection_pool, "sentinel_manager", None)
    # If one cannot be closed, the others still are.
    async with contextlib.AsyncExitStack() as closing:
        for each in (client, *(() if manager is None else manager.sentinels)):
            closing.push_async_callback(each.aclose)


def _async_client(
    pool_class: Any, host: Host, options: Mapping[str, Any], pool_options: Mapping[str, Any]
) -> redis.asyncio.Redis:
    if isinstance(host, Mapping) and "master_name" in host:
        sentinel, master_name, rest = _sentinel(redis.asyncio.sentinel.Sentinel, host)
        client: redis.asyncio.Redis = sentinel.master_for(master_name, **{**options, **rest})
        checked(client.connection_pool)
        return client
    return redis.asyncio.Redis.from_pool(_pool(pool_class, host, {**options, **pool_options}))


def _pool(pool_class: Any, host: Host, options: Mapping[str, Any]) -> Any:
    if isinstance(host, str):
        return checked(pool_class.from_url(host, **options))
    own = {**options, **host}
    address = own.pop("address", None)
    return checked(pool_class.from_url(address, **own) if address else pool_class(**own))


def _sentinel(sentinel_class: Any, host: Mapping[str, Any]) -> tuple[Any, str, dict[str, Any]]:
    rest = dict(host)
    master_name, sentinels = rest.pop("master_name"), rest.pop("sentinels")
    sentinel = sentinel_class(sentinels, sentinel_kwargs=rest.pop("sentinel_kwargs", None) or dict(_COMMON))
    return sentinel, master_name, rest
