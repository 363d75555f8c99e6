"""What every test may ask for: one real Redis for the run, a key prefix of its own, and a check of what it leaves."""

import inspect
import os
import shutil
import sys
import uuid
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from asgiref.sync import SyncToAsync
from django.conf import settings as django_settings
from django.db import connections as database_connections
from hypothesis import settings as hypothesis_settings

from realtime import conf
from realtime.redis import clients
from realtime.redis.keys import Keys
from realtime.untrusted.text import LimitedLog
from tests.support.emptying import Emptying
from tests.support.redis_server import RedisServer

# The same examples in each run, so that a failure is a change's and can be repeated. And a machine that stands still
# for a moment is no failure of a test.
hypothesis_settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis_settings.load_profile("repeatable")

UNIT_TESTS = Path(__file__).parent / "unit"
# Keys that a test may leave without a time to live, after its prefix: streams, their dead letters, counters, and tasks
# until they have finished.
PERMANENT = ("notifications", "signalbox:counters:", "signalbox:streams", "tasks:")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Several runs beside each other share the tests by this option."""
    parser.addoption("--part", metavar="N/COUNT", default="1/1", help="run this part of the test files: 1/2 or 2/2")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Leave out the tests of other parts. On a second database, leave out what the first has shown for both; on SQLite,
    what it has no locks for.
    """
    left_out = _is_database_independent if "DATABASE_URL" in os.environ else _is_for_postgres
    part, count = map(int, config.getoption("--part").split("/"))
    kept = [item for item in items if not left_out(item) and _part_of(item, count) == part]
    config.hook.pytest_deselected(items=[*set(items) - set(kept)])
    items[:] = kept


def _part_of(item: pytest.Item, count: int) -> int:
    """From 1 to `count`. All tests of a file are in one part, which a new file does not change."""
    return zlib.crc32(item.path.name.encode()) % count + 1


def _is_database_independent(item: pytest.Item) -> bool:
    return UNIT_TESTS in item.path.parents or item.get_closest_marker("database_independent") is not None


def _is_for_postgres(item: pytest.Item) -> bool:
    return item.get_closest_marker("postgres") is not None


@pytest.fixture(scope="session", autouse=True)
def _test_directory() -> Iterator[None]:
    yield
    shutil.rmtree(django_settings.TEST_DIR, ignore_errors=True)


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """As pytest-django's; the thread of sync_to_async gives its connection back before Postgres drops the database."""
    with django_db_blocker.unblock():
        emptying = Emptying(database_connections)
    with emptying:
        yield
    SyncToAsync.single_thread_executor.submit(database_connections.close_all).result()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The run's own Redis; tests that kill or pause one start another: `with RedisServer() as server`."""
    with RedisServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _fresh_log_limits() -> None:
    """Lines that were logged in earlier tests suppress none of this one."""
    for name, module in tuple(sys.modules.items()):
        if name.startswith(("realtime.", "notifications.")) and isinstance(log := vars(module).get("_log"), LimitedLog):
            log._buckets.clear()
            log.left_out.clear()


@pytest.fixture
def key_prefix() -> str:
    """Put before every Redis key of this test."""
    return f"t{uuid.uuid4().hex[:8]}:"


@pytest.fixture
def keys(key_prefix: str) -> Keys:
    """The Redis names of this test."""
    return Keys(key_prefix)


@pytest.fixture
def redis_client(redis_server: RedisServer, key_prefix: str) -> Iterator[redis.Redis]:
    """A sync client; when the test ends, each of its keys must be permanent by name or have a time to live."""
    with clients.publisher(redis_server.url) as client:
        yield client
        leaked = []
        for raw in client.scan_iter(match=f"*{key_prefix}*", count=1000):
            name = raw.decode()
            is_queue = name.startswith(f"{key_prefix}tasks:")
            if client.ttl(raw) == -1 and not is_queue and not any(part in name for part in PERMANENT):
                leaked.append(name)
            client.delete(raw)
        assert not leaked, f"keys without a time to live: {leaked}"


@pytest.fixture
async def async_redis_client(
    redis_server: RedisServer, redis_client: redis.Redis
) -> AsyncIterator[redis.asyncio.Redis]:
    """An async publisher client."""
    client = clients.async_publisher(redis_server.url)
    yield client
    await client.aclose()


@pytest.fixture
async def _closing_async_redis() -> AsyncIterator[None]:
    """The client that an async test shares with what it calls is closed on the test's own event loop."""
    yield
    await conf.close_async_redis()


@pytest.fixture
def signalbox(
    request: pytest.FixtureRequest,
    settings: Any,
    redis_server: RedisServer,
    redis_client: redis.Redis,
    key_prefix: str,
) -> Iterator[Any]:
    """Django's settings, with REALTIME and CHANNEL_LAYERS on the run's Redis under this test's prefix."""
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("_closing_async_redis")
    settings.REALTIME = {**settings.REALTIME, "REDIS_URL": redis_server.url, "KEY_PREFIX": key_prefix}
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "realtime.layer.RedisChannelLayer",
            "CONFIG": {"hosts": [redis_server.url], "prefix": f"{key_prefix}asgi"},
        }
    }
    yield settings
    conf.sync_redis().close()
