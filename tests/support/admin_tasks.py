"""
Background tasks for the tests of the admin's pages, and what people do on these pages.

Owns the task functions, letting a worker finish them, and the forms. Does not own the settings (the fixture
`admin_tasks`).
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import redis
from django.test import Client

from realtime import conf
from realtime.tasks.backend import RedisStreamBackend
from realtime.tasks.django_api import task, task_backends
from realtime.tasks.status import STATES, KnownQueue, known_queues, read_counts
from realtime.tasks.task import RedisTask
from tests.support.task_workers import task_worker
from tests.support.waiting import wait_until_sync

__all__ = [
    "MODULE",
    "TASKS",
    "act",
    "add",
    "confirm",
    "counts",
    "default_queue",
    "echo",
    "fail",
    "finish",
    "hold_next",
    "listed",
    "make_token",
    "once",
    "one",
    "put_on_stream",
    "sign_in",
    "task_url",
    "try_again",
    "working",
]

TASKS = "/admin/realtime/task/"
MODULE = __name__


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


def unique(func: Callable[..., None]) -> RedisTask:
    """`@task` with a unique key, on each version of Django."""
    return RedisTask(priority=0, func=func, backend="default", queue_name="default", unique_key="one")


def tried_again(func: Callable[..., None]) -> RedisTask:
    """`@task` with three attempts, an hour apart."""
    return RedisTask(
        priority=0, func=func, backend="default", queue_name="default", max_attempts=3, backoff=[3600], timeout=60
    )


@tried_again
def try_again() -> None:
    raise RuntimeError("not yet")


@unique
def once() -> None:
    raise RuntimeError("no")


@contextlib.contextmanager
def working(*queues: str) -> Iterator[None]:
    """A worker of these queues."""
    found = task_backends["default"]
    assert isinstance(found, RedisStreamBackend)
    with task_worker(found, queues or ("default",), concurrency=2):
        yield


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


def default_queue() -> KnownQueue:
    """The queue "default"."""
    return known_queues(conf.sync_redis())["default"]


def put_on_stream(client: redis.Redis, known: KnownQueue) -> None:
    """What a worker does with the next task when it has room."""
    ((item, _),) = client.zpopmin(known.tasks.waiting_list.waiting)
    client.xadd(known.tasks.stream, {"item": item})


def hold_next(client: redis.Redis, known: KnownQueue) -> None:
    """A worker fetches the next task."""
    put_on_stream(client, known)
    client.xreadgroup("workers", "w", {known.tasks.stream: ">"})
