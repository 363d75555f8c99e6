"""Enqueuing many tasks in one call."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import transaction

from realtime.exceptions import TaskQueueFull, TasksUnavailable
from realtime.statistics.counting import counted
from realtime.tasks import await_result
from realtime.tasks.django_api import InvalidTask, task_enqueued
from tests.support.tasks import Tasks
from tests.support.tasks_of_tests import add, fail, fail_times, note
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

MANY = 1201


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """The ids for which task_enqueued is sent."""
    ids: list[str] = []

    def hear(task_result: Any, **kwargs: Any) -> None:
        assert task_result.enqueued_at is not None
        ids.append(task_result.id)

    task_enqueued.connect(hear)
    try:
        yield ids
    finally:
        task_enqueued.disconnect(hear)


@pytest.mark.parametrize("is_async", [False, True])
async def test_many_tasks_run_as_others_do(tasks: Tasks, is_async: bool) -> None:
    """In both ways, more of them than go to Redis at a time, and those of several queues; results in the same order."""
    calls = [(add.using(queue_name="mail" if n % 3 == 0 else "default"), (n,), {"b": 1}) for n in range(MANY)]
    with heard() as ids:
        if is_async:
            results = await tasks.backend.aenqueue_many(calls)
        else:
            results = tasks.backend.enqueue_many(calls)
    assert [result.args for result in results] == [[n] for n in range(MANY)]
    assert sorted(ids) == sorted({result.id for result in results})
    async with tasks.working("default", "mail"):
        for result in results:
            await await_result(result, 60)
    assert [result.return_value for result in results] == list(range(1, MANY + 1))
    assert tasks.left_count() == 0


def test_many_tasks_wait_for_the_commit(tasks: Tasks) -> None:
    """Except those that do not wait for it."""
    at_once = note.using(enqueue_on_commit=False)
    with transaction.atomic():
        first, second = tasks.backend.enqueue_many([(note, ("a",), {}), (at_once, ("b",), {})])
        assert [tasks.status(first), tasks.status(second)] == ["", "READY"]
    assert tasks.status(first) == "READY"
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        (third,) = tasks.backend.enqueue_many([(note, ("c",), {})])
        raise ZeroDivisionError
    assert tasks.status(third) == ""


def test_a_unique_key_counts_among_many(tasks: Tasks) -> None:
    """The second result is that of the first task, and the signal is sent once."""
    unique = note.using(unique_key="{name}")
    with heard() as ids:
        first, second, third = tasks.backend.enqueue_many([(unique, (name,), {}) for name in "aab"])
    assert first.id == second.id
    assert ids == [first.id, third.id]


@pytest.mark.parametrize(
    ("make_call", "error"),
    [
        (lambda: (note, (object(),), {}), TypeError),
        (lambda: (note.using(unique_key="{unknown}"), ("b",), {}), InvalidTask),
        (lambda: (note.using(backend="other", queue_name="other"), ("b",), {}), InvalidTask),
    ],
)
def test_if_one_is_not_valid_none_is_enqueued(tasks: Tasks, make_call: Any, error: type[Exception]) -> None:
    """It is refused before anything is sent."""
    with heard() as ids, pytest.raises(error):
        tasks.backend.enqueue_many([(note, ("a",), {}), make_call()])
    assert ids == []


@pytest.mark.parametrize("is_async", [False, True])
async def test_full_queues_say_how_many_were_not_enqueued(tasks: Tasks, is_async: bool) -> None:
    """The other tasks are, also those of a queue that comes after a full one."""
    tasks.configure("default", "mail", "rest", length_limit=2)
    queues = ["default"] * 3 + ["mail"] * 4 + ["rest"]
    calls = [(note.using(enqueue_on_commit=False, queue_name=name), ("a",), {}) for name in queues]
    with heard() as ids, pytest.raises(TaskQueueFull, match=r"^3 of 8 tasks were not enqueued.*: default, mail; "):
        if is_async:
            await tasks.backend.aenqueue_many(calls)
        else:
            tasks.backend.enqueue_many(calls)
    assert [id.partition(".")[0] for id in ids] == ["default", "default", "mail", "mail", "rest"]


async def test_without_redis_it_raises(tasks: Tasks, signalbox: Any) -> None:
    """As for one task."""
    signalbox.REALTIME = {**signalbox.REALTIME, "REDIS_URL": "unix:///nobody.sock"}
    calls = [(note.using(enqueue_on_commit=False), ("a",), {})] * 2
    with pytest.raises(TasksUnavailable, match="it may have been enqueued"):
        tasks.backend.enqueue_many(calls)
    with pytest.raises(TasksUnavailable, match="it may have been enqueued"):
        await tasks.backend.aenqueue_many(calls)


def test_none_are_none(tasks: Tasks) -> None:
    """Nothing is sent."""
    assert tasks.backend.enqueue_many([]) == []


async def test_tasks_are_counted_by_queue(tasks: Tasks) -> None:
    """Each once when it is enqueued and when it ends; attempts that fail are counted for themselves."""
    before, successful = counted(), ("tasks.successful", "default")
    results = [
        *await tasks.backend.aenqueue_many([(add, (n,), {"b": 1}) for n in range(5)]),
        fail.using(max_attempts=1).enqueue("value"),
        note.using(queue_name="mail").enqueue("a"),
        fail_times.using(max_attempts=3, backoff=[0.01]).enqueue("twice", 2),
    ]
    same = add.using(unique_key="7")
    results += [same.enqueue(1, 2), same.enqueue(1, 2)]
    async with tasks.working("default", "mail"):
        await wait_until(lambda: tasks.is_over(*results))
        await wait_until(lambda: counted()[successful] - before[successful] == 7)
    grown = {key: number - before[key] for key, number in counted().items() if number != before[key]}
    assert {key: number for key, number in grown.items() if key[0].startswith("tasks.")} == {
        ("tasks.enqueued", "default"): 8,
        ("tasks.enqueued", "mail"): 1,
        ("tasks.successful", "default"): 7,
        ("tasks.successful", "mail"): 1,
        ("tasks.failed", "default"): 1,
        ("tasks.retried", "default"): 2,
    }
