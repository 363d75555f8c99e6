"""A Redis user that may do what the page on Redis keys says, and nothing else: the whole site works as that user."""

import asyncio
import functools
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from django.contrib.auth import get_user_model
from django.utils import timezone

from notifications.services import notify
from notifications.statistics import read_dashboard
from realtime import conf
from realtime.redis.keys import Keys
from realtime.tasks.django_api import TaskResultStatus, task, task_backends
from realtime.tasks.service import TaskService
from tests.custom_user.running import reported
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent

PAGE = (Path(__file__).resolve().parents[2] / "docs/reference/redis-keys.md").read_text()
# The password in the page's line.
PASSWORD = "a-long-random-password"
PREFIX = "shop:"
LUA = Path(__file__).resolve().parents[2] / "realtime/redis/scripts"


def line() -> list[str]:
    """The words of the ACL line on the page."""
    (found,) = re.findall(r"^ACL (SETUSER .*)$", PAGE, re.MULTILINE)
    return str(found).split()


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def admin(server: RedisServer) -> Iterator[redis.Redis]:
    """A client of an administrator, who has created the site's user."""
    with redis.Redis.from_url(server.url) as admin:
        admin.execute_command("ACL", *line())
        yield admin


def url_of(server: RedisServer, database: int = 0) -> str:
    """As the site's settings have it."""
    return f"{server.url.replace('unix://', f'unix://shop:{PASSWORD}@')}?db={database}"


def refused(admin: redis.Redis) -> set[str]:
    """The commands that Redis refused to the site's user, except for naming its client library."""
    denied = {f"{entry['reason']} {entry['object']}" for entry in admin.acl_log()}
    return denied - {"command client|setinfo"}


@pytest.mark.parametrize("database", [0, 3])
def test_a_site_lives_with_the_documented_access(
    server: RedisServer, admin: redis.Redis, tmp_path: Path, database: int
) -> None:
    """notify() and other programs, relay, bot, ingress, sockets."""
    where: Any = {"url": url_of(server, database), "keys": Keys(PREFIX), "directory": tmp_path}
    report = reported("live_site", json.dumps(["alice@example.com", "bob"]), model="EmailUser", **where)
    assert [len(each["heard"]) for each in report.values()] == [2, 2]
    assert [len(each["sent"]) for each in report.values()] == [2, 2]
    assert refused(admin) == set()


@pytest.mark.parametrize("database", [0, 3])
def test_a_site_is_operated_with_the_documented_access(
    server: RedisServer, admin: redis.Redis, tmp_path: Path, database: int
) -> None:
    """Live topics, groups, named channels, dead letters, health and commands."""
    where: Any = {"url": url_of(server, database), "keys": Keys(PREFIX), "directory": tmp_path}
    report = reported("operate", model="EmailUser", **where)
    assert refused(admin) == set()
    assert report["heard"] == ["missed", "live"]
    assert report["received"] == ["realtime.message", "realtime.message", "a.message", "to.one"]
    assert report["worker"] == "to.worker"
    assert report["left"] == 0


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("may_ask", [True, False])
def test_the_dashboard_is_read_with_the_documented_access(
    settings: Any, server: RedisServer, admin: redis.Redis, may_ask: bool
) -> None:
    """A user who may not ask for the memory of Redis gets all else."""
    settings.REALTIME = {**settings.REALTIME, "REDIS_URL": url_of(server), "KEY_PREFIX": PREFIX}
    if not may_ask:
        admin.acl_setuser("shop", enabled=True, nopass=True, reset=False, commands=["-info"])
    try:
        notify(get_user_model().objects.create(username="alice"), "Hello")
        # A loss is looked for among the entries.
        admin.delete(Keys(PREFIX).stream("notifications"))
        admin.config_set("maxmemory", "100mb")
        admin.config_set("maxmemory-policy", "allkeys-lru")
        found = read_dashboard("hour")
    finally:
        conf.sync_redis().close()
    assert (found.redis_error, found.balances[0].difference) == ("", 1)
    assert ("redis_evicts" in {notice.key for notice in found.notices}) is may_ask
    assert refused(admin) == (set() if may_ask else {"command info"})


@task
def double(number: int) -> int:
    """A task."""
    return 2 * number


async def test_tasks_run_with_the_documented_access(settings: Any, server: RedisServer, admin: redis.Redis) -> None:
    """They are enqueued, run, asked for, and run again."""
    settings.REALTIME = {**settings.REALTIME, "REDIS_URL": url_of(server), "KEY_PREFIX": PREFIX}
    settings.TASKS = {"default": {"BACKEND": "realtime.tasks.RedisStreamBackend"}}
    backend = task_backends["default"]
    declared = task(double.func)
    results = [await declared.aenqueue(1)]
    later = timezone.now() + timedelta(seconds=0.2)
    results.append(await declared.using(unique_key="{number}", run_after=later).aenqueue(2))
    service = TaskService(backend, ["default"], concurrency=2)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(service.run())
            for result in results:
                await wait_until(functools.partial(is_successful, result), seconds=90)
            assert [result.return_value for result in results] == [2, 4]
            assert backend.queue("default").run_again(conf.sync_redis(), [results[0].id]) == 1
            await wait_until(functools.partial(has_run_twice, results[0]), seconds=90)
            service.stop()
    finally:
        await conf.close_async_redis()
        conf.sync_redis().close()
    assert refused(admin) == set()


async def is_successful(result: Any) -> bool:
    await result.arefresh()
    return bool(result.status == TaskResultStatus.SUCCESSFUL)


async def has_run_twice(result: Any) -> bool:
    return await is_successful(result) and len(result.worker_ids) == 2


def test_scripts_use_commands_that_are_allowed(admin: redis.Redis) -> None:
    """Also in the ways that no test above has gone."""
    commands = {name for path in LUA.rglob("*.lua") for name in re.findall(r"call\('([A-Z]+)'", path.read_text())}
    assert len(commands) > 20
    allowed = {word[1:] for word in line() if word.startswith("+")}
    for category in [name for name in allowed if name.startswith("@")]:
        allowed |= {name.partition("|")[0] for name in admin.acl_cat(category[1:])}
    assert {name.lower() for name in commands} <= allowed


@pytest.mark.parametrize(
    "words",
    [
        ("GET", "forum:secret"),
        ("XADD", "notifications", "*", "a", "b"),
        ("PUBLISH", "forum:notification", "x"),
        ("PUBLISH", "notification", "x"),
        ("SUBSCRIBE", "asgi__group__user.1"),
        ("PSUBSCRIBE", "*"),
        ("EVAL", "return redis.call('GET', 'forum:secret')", "0"),
        ("KEYS", "*"),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("PUBSUB", "CHANNELS"),
        ("ACL", "LIST"),
        ("SCRIPT", "FLUSH"),
    ],
)
def test_nothing_else_is_allowed(server: RedisServer, admin: redis.Redis, words: tuple[str, ...]) -> None:
    """Neither another site's names nor what is for administrators."""
    admin.set("forum:secret", "x")
    with redis.Redis.from_url(url_of(server)) as site:
        assert site.set("shop:own", "x", ex=60)
        with pytest.raises(redis.ResponseError, match=r"(?i)permission|ACL failure"):
            site.execute_command(*words)
