"""Unique keys: while a task has not finished, no second one with its key is enqueued."""

import threading
from typing import Any

import pytest
import redis

from realtime.conf import keys
from realtime.exceptions import TaskQueueFull
from realtime.tasks import await_result
from realtime.tasks.django_api import InvalidTask, task_enqueued
from tests.support.tasks import Tasks
from tests.support.tasks_of_tests import add, calls, context_of, echo, fail, fail_times, gates, hold, note
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent


async def test_a_second_task_is_the_first_one(tasks: Tasks, redis_client: redis.Redis) -> None:
    """While it waits, while it runs, and no longer when it has finished. Only one signal is sent for it."""
    unique = hold.using(unique_key=True)
    heard: list[Any] = []

    def hear(task_result: Any, **kwargs: Any) -> None:
        heard.append(task_result.id)

    task_enqueued.connect(hear)
    try:
        first = unique.enqueue("a")
        second, third = unique.enqueue("a"), await unique.aenqueue("a")
        assert first.id == second.id == third.id
        assert first.enqueued_at == second.enqueued_at == third.enqueued_at
        other = unique.enqueue("b")
        assert other.id != first.id
        async with tasks.working(concurrency=2):
            await wait_until(lambda: sorted(calls) == ["a", "b"])
            assert unique.enqueue("a").id == first.id
            gates["a"].set()
            gates["b"].set()
            await await_result(second, 60)
            again = unique.enqueue("a")
            assert again.id != first.id
            await await_result(again, 60)
        assert heard == [first.id, other.id, again.id]
    finally:
        task_enqueued.disconnect(hear)
    assert sorted(calls) == ["a", "a", "b"]
    assert not [*redis_client.scan_iter(match=f"*{keys().task_queue('default')}*unique*")]


async def test_a_failed_task_gives_its_key_back(tasks: Tasks) -> None:
    """But not between two attempts."""
    unique = fail_times.using(unique_key="{name}", max_attempts=2, backoff=60)
    async with tasks.working():
        first = unique.enqueue("a", 5)
        await wait_until(lambda: tasks.fields(first.id).get("error_count") == "1")
        await wait_until(lambda: tasks.status(first) == "READY")
        assert unique.enqueue("a", 5).id == first.id
        second = fail.using(unique_key=True).enqueue("value")
        await await_result(second, 60)
        assert fail.using(unique_key=True).enqueue("value").id != second.id


@pytest.mark.parametrize("count", [2, 8])
def test_of_many_at_the_same_time_one_is_enqueued(tasks: Tasks, count: int) -> None:
    """The others get its id."""
    found: list[str] = []
    barrier = threading.Barrier(count)

    def enqueue() -> None:
        barrier.wait()
        found.append(note.using(unique_key="same").enqueue("a").id)

    threads = [threading.Thread(target=enqueue) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == count
    assert len(set(found)) == 1


@pytest.mark.parametrize(
    ("rule", "first", "second", "is_same"),
    [
        (True, (1, 2), (1, 2), True),
        (True, (1, 2), (2, 1), False),
        ("{a}", (1, 2), (1, 3), True),
        ("{a}-{b}", (1, 23), (12, 3), False),
        ("fixed", (1, 2), (3, 4), True),
        (lambda a, b: str(a + b), (1, 3), (2, 2), True),
        ("", (1, 2), (1, 2), False),
        (False, (1, 2), (1, 2), False),
        (lambda a, b: "x" * 1000 + str(a), (1, 2), (1, 3), True),
        (lambda a, b: "x" * 1000 + str(a), (1, 2), (2, 2), False),
        (lambda a, b: "lone \ud800 surrogate", (1, 2), (2, 2), True),
    ],
)
def test_rules_of_keys(tasks: Tasks, rule: Any, first: Any, second: Any, is_same: bool) -> None:
    """A text with names of arguments, a function, or all arguments."""
    unique = add.using(unique_key=rule)
    assert (unique.enqueue(*first).id == unique.enqueue(*second).id) is is_same


def test_named_and_default_arguments_are_the_same(tasks: Tasks) -> None:
    """For rules of names; the context is none of them."""
    unique = add.using(unique_key="{a}{b}")
    assert unique.enqueue(1, 2).id == unique.enqueue(b=2, a=1).id == unique.enqueue(1, b=2).id
    named = context_of.using(unique_key="{name}")
    assert named.enqueue("x").id == named.enqueue(name="x").id


def test_keys_of_different_functions_are_different(tasks: Tasks) -> None:
    assert note.using(unique_key="same").enqueue("a").id != hold.using(unique_key="same").enqueue("a").id


@pytest.mark.parametrize(
    ("rule", "arguments"),
    [
        ("{c}", (1, 2)),
        ("{0}", (1, 2)),
        ("{", (1, 2)),
        ("{a}", (1,)),
        (lambda a, b: 7, (1, 2)),
        (lambda a, b: "", (1, 2)),
        (lambda: "x", (1, 2)),
    ],
)
def test_a_key_that_cannot_be_made_is_an_error(tasks: Tasks, rule: Any, arguments: Any) -> None:
    """Nothing is enqueued."""
    with pytest.raises(InvalidTask, match=r"the unique_key of tests\.support\.tasks_of_tests\.add cannot be made"):
        add.using(unique_key=rule).enqueue(*arguments)


async def test_a_key_whose_task_is_gone_is_free(tasks: Tasks, redis_client: redis.Redis) -> None:
    """For example after an operator deleted its hash."""
    unique = echo.using(unique_key=True)
    first = unique.enqueue()
    redis_client.delete(tasks.backend.queue("default").task_key(first.id))
    second = unique.enqueue()
    assert second.id != first.id
    async with tasks.working():
        await await_result(second, 60)


async def test_a_full_queue_still_knows_its_unique_tasks(tasks: Tasks, signalbox: Any) -> None:
    """Only what would be another task is refused."""
    signalbox.TASKS = {"default": {**signalbox.TASKS["default"], "OPTIONS": {"length_limit": 1}}}
    task = note.using(unique_key="{name}")
    first = task.enqueue("a")
    assert task.enqueue("a").id == first.id
    with pytest.raises(TaskQueueFull):
        task.enqueue("b")
