"""
Reads and checks Django's `REALTIME` setting once, and holds the Redis clients that a process shares.

Owns the defaults of `realtime`, one dataclass field each, and the shared Redis clients. The core never imports this
module: it gets values as arguments.
"""

import asyncio
import functools
import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import redis
import redis.asyncio
from django.conf import settings
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.urls import get_script_prefix

from realtime.embedded.url import EmbeddedUrl
from realtime.event_loops import before_close
from realtime.redis import clients
from realtime.redis.keys import Keys
from realtime.redis.outage import REDIS_ERRORS

if TYPE_CHECKING:
    from realtime.embedded.server import EmbeddedServer

__all__ = [
    "RealtimeSettings",
    "async_redis",
    "check_embedded_program",
    "close_async_redis",
    "embedded_server",
    "get_settings",
    "join_embedded_server",
    "keys",
    "load",
    "resolve",
    "sync_redis",
    "websocket_url",
]

logger = logging.getLogger(__name__)


_WEBSOCKET_URL = re.compile(r"(?:(?:wss?|https?)://[^\s/?#]+(?:/[^\s#]*)?|/?(?![/\\])[^\s:?#]+)", re.IGNORECASE)

type _Count = Annotated[int, msgspec.Meta(gt=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RealtimeSettings:
    """Django's `REALTIME = {…}`; the keys are these names in capitals."""

    # Where Redis or Valkey is: redis://, rediss://, unix://, or embedded:// for a server that the first process which
    # needs it starts. Required. May hold a password, so `repr` leaves it out.
    redis_url: str = field(repr=False)
    # Put before every Redis key and channel, the channel layer's too: keeps apart projects that share one Redis.
    key_prefix: str = ""
    # Origins that may open a WebSocket beside those whose host is in ALLOWED_HOSTS: "https://app.example.com".
    allowed_origins: tuple[str, ...] = ()
    # Where pages open their WebSocket: a path under the site's root path ("ws/"), a path from the host's root
    # ("/live/"), or an address ("wss://live.example.com/ws/").
    websocket_url: str = "ws/"
    # The most bytes that may wait to be sent on one socket. Beyond that it is closed, and its client resumes.
    unsent_limit_bytes: _Count = 1_048_576
    # The most topics that one connection may subscribe to.
    topics_per_connection: _Count = 128
    # The most connections of one user in one web process; further ones are refused.
    connections_per_user: _Count = 32
    # How many objects per second a client may send, on average.
    frames_per_second: Annotated[float, msgspec.Meta(gt=0)] = 20.0
    # How many objects a client may send at once, and how many may wait for an answer. Must be more than the topics that
    # a client subscribes to again when it reconnects.
    frames_burst: _Count = 256
    # How many publications of a topic Redis keeps for resuming clients, and for how long. A topic can set its own.
    history_size: Annotated[int, msgspec.Meta(ge=0)] = 100
    history_seconds: Annotated[float, msgspec.Meta(gt=0)] = 300.0
    # How often each open connection's session, account and topic permissions are checked again.
    recheck_seconds: Annotated[float, msgspec.Meta(gt=0)] = 45.0
    # The longest life of a connection; a random part of up to a quarter is taken off. Its client reconnects at once.
    connection_age_seconds: Annotated[float, msgspec.Meta(gt=0)] = 21_600.0
    # The dotted path of a function that is called as function(user_id, ids) when a client reports what its user has
    # read. It is called in a thread, unless it is async.
    on_read: str = ""
    # Whether each process pushes its counters to Redis once a second, and a relay gathers statistics for the dashboard.
    # Without it, the dashboard has no counters and is not live, and for periods with more than 10,000 notifications or
    # deliveries it misses what nobody counted in the background.
    statistics: bool = True

    def __post_init__(self) -> None:
        try:
            if EmbeddedUrl.parse(self.redis_url) is None:
                clients.check_host(self.redis_url)
        except ValueError as error:
            raise ValueError(f'REALTIME["REDIS_URL"] {error}') from error
        if re.search(r"(?:\A|[^A-Za-z0-9])db\d+:\Z", self.key_prefix):
            raise ValueError(
                f'REALTIME["KEY_PREFIX"] is {self.key_prefix!r}, but the channels of another Redis database may begin '
                'with the same text: use another ending, e.g. "shop:"'
            )
        if not _WEBSOCKET_URL.fullmatch(self.websocket_url):
            raise ValueError(
                f'REALTIME["WEBSOCKET_URL"] {self.websocket_url!r} is neither a path nor the URL of a WebSocket: '
                'write "ws/", "/live/" or "wss://live.example.com/ws/"'
            )


def load[T](cls: type[T], name: str) -> T:
    """
    Read the Django setting `name`, a dict with capital keys, into the dataclass `cls`.

    Raises:
        ImproperlyConfigured: Says which key is unknown, missing or of the wrong type.
    """
    raw = getattr(settings, name, None)
    if not isinstance(raw, Mapping):
        raise ImproperlyConfigured(
            f"the setting {name} must be a dict, e.g. {name} = {{…}}; see docs/reference/settings.md"
        )
    known = {field.name.upper() for field in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(raw) - known):
        raise ImproperlyConfigured(
            f"{name} has unknown keys {', '.join(unknown)}: known are {', '.join(sorted(known))}"
        )
    values: dict[str, Any] = {key.lower(): value for key, value in raw.items()}
    try:
        return msgspec.convert(values, cls)
    except msgspec.ValidationError as error:
        raise ImproperlyConfigured(_explained(name, str(error))) from error


def _explained(name: str, problem: str) -> str:
    """Turn msgspec's message about a field into one about the setting that the user wrote."""
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", problem):
        return f'{name}["{missing[1].upper()}"] is missing'
    problem, _, path = problem.removesuffix("`").partition(" - at `$.")
    # First our own key, then the path within its value, which keeps its spelling.
    key = re.match(r"\w*", path)[0]  # type: ignore[index]
    return f'{name}["{key.upper()}"]{path.removeprefix(key)}: {problem}' if key else problem


@functools.cache
def get_settings() -> RealtimeSettings:
    """
    The checked settings of this process. `redis_url` is as `resolve` returns it.

    Raises:
        ImproperlyConfigured: Says which key is wrong, or why the embedded server cannot be used here.
    """
    values = load(RealtimeSettings, "REALTIME")
    return replace(values, redis_url=resolve(values.redis_url))


def websocket_url() -> str:
    """
    The URL at which the page that is being rendered opens its WebSocket: `REALTIME["WEBSOCKET_URL"]`.

    A relative path is put under the site's root path (FORCE_SCRIPT_NAME, or the root path of the web server).
    """
    url = get_settings().websocket_url
    return url if url.startswith("/") or "://" in url else get_script_prefix() + url


@functools.cache
def keys() -> Keys:
    """The names of this project's keys and channels in Redis."""
    values = get_settings()
    return Keys(values.key_prefix, database=clients.database_of(values.redis_url))


# The embedded server --------------------------------------------------------------------------------------------------

# The servers that this process holds until it ends.
_held: dict[Path, "EmbeddedServer"] = {}
_holding = threading.Lock()


def resolve(url: str) -> str:
    """
    The URL that clients use. For an embedded server, it is the URL of its socket, whether it runs or not.

    Any other URL is returned as it is.

    Raises:
        ImproperlyConfigured: The embedded server cannot be used here: DEBUG is off, or no directory is known.
    """
    embedded = EmbeddedUrl.parse(url)
    if embedded is None:
        return url
    if not (settings.DEBUG or embedded.is_allowed_without_debug or _is_test_run()):
        allowed = replace(embedded, is_allowed_without_debug=True)
        raise ImproperlyConfigured(
            f'REALTIME["REDIS_URL"] is {url!r}, which is for development and tests, and DEBUG is off: use the URL of a '
            f'Redis or Valkey server, or, to use the embedded server nevertheless, "{allowed}"'
        )
    directory = embedded.directory or _default_directory()
    return _make_embedded_server(directory).url


def embedded_server() -> "EmbeddedServer | None":
    """
    The embedded server of REALTIME["REDIS_URL"], not started yet; None if the URL is that of another server.

    Raises:
        ImproperlyConfigured: As `get_settings`.
    """
    get_settings()
    embedded = EmbeddedUrl.parse(settings.REALTIME["REDIS_URL"])
    return None if embedded is None else _make_embedded_server(embedded.directory or _default_directory())


def check_embedded_program() -> None:
    """Raise ImproperlyConfigured if there is no program to start. Call it after `resolve` has succeeded."""
    from realtime.embedded.server import EmbeddedServerError, binary

    try:
        binary()
    except EmbeddedServerError as error:
        raise ImproperlyConfigured(str(error)) from error


def join_embedded_server() -> None:
    """
    Start the embedded server of REALTIME, if it has one, or join the one that runs. This process then holds it until it
    ends. The first call may take a second, and later ones cost nothing. Call it before a client is made.

    Raises:
        ImproperlyConfigured: The server does not start; says why.
    """
    server = embedded_server()
    if server is None or server.directory in _held:
        return
    from realtime.embedded.server import EmbeddedServerError

    with _holding:
        if server.directory in _held:
            return
        try:
            server.start()
        except EmbeddedServerError as error:
            raise ImproperlyConfigured(str(error)) from error
        # Never closed here, because a process that was forked from this one holds it too. The kernel releases it.
        _held[server.directory] = server


def _make_embedded_server(directory: Path) -> "EmbeddedServer":
    try:
        # Not at the top: it needs Linux or macOS, and most processes do not use it.
        from realtime.embedded.server import EmbeddedServer, EmbeddedServerError
    except ImportError as error:
        raise ImproperlyConfigured(f"the embedded server needs Linux or macOS ({error}): set REDIS_URL") from error
    try:
        return EmbeddedServer(directory)
    except EmbeddedServerError as error:
        raise ImproperlyConfigured(str(error)) from error


def _default_directory() -> Path:
    base = getattr(settings, "BASE_DIR", None)
    if base is None:
        raise ImproperlyConfigured(
            "the settings have no BASE_DIR in which the embedded server could keep its files: write "
            'REALTIME = {"REDIS_URL": "embedded:///path/of/directory"}'
        )
    return Path(base) / "var"


def _is_test_run() -> bool:
    # Django's test runner and pytest-django turn DEBUG off, and both make this list.
    return hasattr(mail, "outbox")


# Clients --------------------------------------------------------------------------------------------------------------


# URL → its client.
_sync_clients: dict[str, redis.Redis] = {}


def sync_redis() -> redis.Redis:
    """The one pooled sync client of this process for short commands; safe in threads and after a fork."""
    url = get_settings().redis_url
    client = _sync_clients.get(url)
    if client is None:
        join_embedded_server()
        made = clients.publisher(url, timeout_seconds=clients.CALLER_TIMEOUT_SECONDS)
        # Threads that ask for the first time together all get the same client. A second one would be closed when the
        # first caller drops it, although a pipeline may still use it.
        client = _sync_clients.setdefault(url, made)
    return client


# One async client for each event loop that is not closed: a connection belongs to the loop that opened it. None after
# `close_async_redis`.
_async_clients: dict[asyncio.AbstractEventLoop, redis.asyncio.Redis | None] = {}


def async_redis() -> redis.asyncio.Redis:
    """The one pooled async client of the running event loop for short commands. It is closed before the loop is."""
    loop = asyncio.get_running_loop()
    client = _async_clients.get(loop)
    if client is None:
        join_embedded_server()
        client = clients.async_publisher(get_settings().redis_url, timeout_seconds=clients.CALLER_TIMEOUT_SECONDS)
        if loop not in _async_clients:
            before_close(loop, lambda: _end_client(loop))
        _async_clients[loop] = client
    return client


async def close_async_redis() -> None:
    """Close the running event loop's client, if it has one; the next `async_redis()` opens another."""
    loop = asyncio.get_running_loop()
    if (client := _async_clients.get(loop)) is not None:
        _async_clients[loop] = None
        await clients.close(client)


def _end_client(loop: asyncio.AbstractEventLoop) -> None:
    client = _async_clients.pop(loop, None)
    if client is not None:
        try:
            loop.run_until_complete(clients.close(client))
        except REDIS_ERRORS:
            # Its connections end with the loop in any case.
            logger.debug("the client of an event loop was not closed cleanly", exc_info=True)


@receiver(setting_changed)
def _forget_settings(*, setting: str, **kwargs: Any) -> None:
    if setting == "REALTIME":
        get_settings.cache_clear()
        keys.cache_clear()
        _sync_clients.clear()
