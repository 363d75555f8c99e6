"""The admin's pages of background tasks: who sees what, what is hidden, and what staff may do."""

import asyncio
import contextlib
import datetime
import json
import logging
import queue
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.tasks import task, task_backends
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from realtime import conf
from realtime.redis.keys import Keys
from realtime.tasks import listing
from realtime.tasks.backend import RedisStreamBackend
from realtime.tasks.service import TaskService
from realtime.tasks.status import STATES, known_queues, read_counts
from tests.support.redis_server import RedisServer
from tests.support.staff import make_staff, page
from tests.support.waiting import wait_until_sync

TASKS = "/admin/realtime/task/"
MODULE = "tests.integration.test_admin_tasks"
HOSTILE = "<script>alert(1)</script>\u202egnp.exe"

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox", "backend")]


@task
def add(a: int, b: int = 0) -> int:
    return a + b


@task
def sign_in(user: str, password: str, options: Any = None, *tokens: str) -> None:
    raise ValueError(f"{user} cannot sign in with {password}")


@task
def make_token() -> str:
    return "the-secret-itself"


@task
def echo(value: Any) -> Any:
    return value


@task
def fail(text: str = "no") -> None:
    raise RuntimeError(text)


@pytest.fixture
def backend(signalbox: Any) -> Iterator[RedisStreamBackend]:
    signalbox.TASKS = {
        "default": {"BACKEND": "realtime.tasks.RedisStreamBackend", "QUEUES": ["default", "mail"]},
        "other": {"BACKEND": "django.tasks.backends.dummy.DummyBackend"},
    }
    found = task_backends["default"]
    assert isinstance(found, RedisStreamBackend)
    yield found


@pytest.fixture(autouse=True)
def _no_task_left(redis_client: redis.Redis, keys: Keys) -> Iterator[None]:
    yield
    for name in redis_client.scan_iter(match=f"*{keys.prefix}tasks*"):
        redis_client.delete(name)


@contextlib.contextmanager
def working(*queues: str) -> Iterator[None]:
    """A worker of the queues, on an event loop in another thread."""
    started = queue.Queue[tuple[asyncio.AbstractEventLoop, TaskService]]()

    async def work() -> None:
        found = task_backends["default"]
        assert isinstance(found, RedisStreamBackend)
        service = TaskService(found, queues or ("default",), concurrency=2)
        started.put((asyncio.get_running_loop(), service))
        await service.run()

    with ThreadPoolExecutor(1) as executor:
        work_done = executor.submit(asyncio.run, work())
        try:
            yield
        finally:
            loop, service = started.get(timeout=20)
            loop.call_soon_threadsafe(service.stop)
            work_done.result(20)


def counts(name: str = "default") -> dict[str, int]:
    """Of one queue, without zeros."""
    client = conf.sync_redis()
    (found,) = read_counts(client, [known_queues(client)[name]])
    return {state: count for state in STATES if (count := getattr(found, state))}


def finish(*results: Any) -> list[str]:
    """Let a worker finish these tasks; returns their ids."""
    with working():
        for result in results:
            wait_until_sync(lambda result=result: (result.refresh(), result.is_finished)[1])
    return [result.id for result in results]


def listed(client: Client, **query: str) -> dict[str, Any]:
    """The JSON of a list."""
    answer: dict[str, Any] = client.get(TASKS, {"queue": "default", **query, "format": "json"}).json()
    return answer


def one(client: Client, id: str) -> dict[str, Any]:
    """The JSON of a task."""
    answer: dict[str, Any] = client.get(f"{task_url(id)}?format=json").json()
    return answer


def task_url(id: str) -> str:
    return f"{TASKS}{id}/change/"


def act(client: Client, do: str, *ids: str, url: str = TASKS, **more: str) -> str:
    """Post a form; returns the page that follows."""
    form = {"do": do, "queue": "default", "state": "failed", "id": ids, **more}
    return client.post(url, form, follow=True).content.decode()


def confirm(client: Client, html: str, url: str = TASKS) -> str:
    """Submit the confirmation of a page."""
    fields = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', html)
    (do,) = re.findall(r'name="do" value="([^"]*)"', html)
    form: dict[str, Any] = {name: [value for each, value in fields if each == name] for name, _ in fields}
    return client.post(url, {**form, "do": do}, follow=True).content.decode()


# Counts and lists -----------------------------------------------------------------------------------------------------


def test_each_queue_has_the_count_of_each_state(admin_client: Client) -> None:
    """Also a queue that had no task."""
    finish(add.enqueue(1, 2), fail.enqueue())
    later = add.using(run_after=timezone.now() + datetime.timedelta(hours=1)).enqueue(1)
    for _ in range(3):
        add.enqueue(1)
    found = listed(admin_client)
    assert [each["queue"] for each in found["queues"]] == ["default", "mail"]
    figures, empty = found["queues"]
    assert {name: figures[name] for name in STATES} == {
        "ready": 3,
        "scheduled": 1,
        "running": 0,
        "failed": 1,
        "successful": 1,
    }
    assert {empty[name] for name in STATES} == {0}
    assert (figures["workers"], figures["is_exact"]) == (0, True)
    assert [row["id"] for row in listed(admin_client, state="scheduled")["tasks"]] == [later.id]
    html = page(admin_client, TASKS)
    assert "No worker of the queue default is running." in html
    assert "queue mail is running" not in html
    assert re.search(r'aria-current="page" aria-label="Failed, queue default: 1"', html)
