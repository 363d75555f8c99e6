"""Tasks that are enqueued in a transaction of the database, and connections to it in workers."""

import asyncio
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, transaction

from realtime.conf import close_async_redis
from realtime.exceptions import TasksUnavailable
from realtime.tasks import await_result
from tests.support.tasks import Tasks
from tests.support.tasks_of_tests import calls, note, query
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_task_is_enqueued_when_the_transaction_is_committed(tasks: Tasks) -> None:
    """The result has its id before, but there is no task yet."""
    with transaction.atomic():
        result = note.enqueue("a")
        assert result.enqueued_at is None
        assert tasks.status(result) == ""
    assert tasks.status(result) == "READY"
    assert result.enqueued_at is not None


def test_a_task_of_a_transaction_that_is_rolled_back_does_not_exist(tasks: Tasks) -> None:
    """Also of a savepoint."""
    with transaction.atomic():
        kept = note.enqueue("kept")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            inner = note.enqueue("inner")
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        outer = note.enqueue("outer")
        raise ZeroDivisionError
    assert [tasks.status(result) for result in (kept, inner, outer)] == ["READY", "", ""]


def test_a_task_may_be_enqueued_at_once(tasks: Tasks) -> None:
    """By its own option, or by that of the backend."""
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        first = note.using(enqueue_on_commit=False).enqueue("first")
        tasks.configure(enqueue_on_commit=False)
        second = note.enqueue("second")
        third = note.using(enqueue_on_commit=True).enqueue("third")
        raise ZeroDivisionError
    assert [tasks.status(result) for result in (first, second, third)] == ["READY", "READY", ""]


def test_what_is_not_valid_is_refused_in_the_transaction(tasks: Tasks) -> None:
    """Not when it is committed."""
    with transaction.atomic(), pytest.raises(TypeError):
        note.enqueue(object())


def test_without_redis_the_commit_raises(tasks: Tasks, signalbox: Any) -> None:
    """The transaction is committed all the same."""
    signalbox.REALTIME = {**signalbox.REALTIME, "REDIS_URL": "unix:///nobody.sock"}
    with pytest.raises(TasksUnavailable), transaction.atomic():
        note.enqueue("a")


async def test_async_code_has_no_transaction(tasks: Tasks) -> None:
    """So aenqueue enqueues at once; sync code in a thread that async code calls waits for its transaction."""
    assert tasks.status(await note.aenqueue("at once")) == "READY"

    def in_a_transaction() -> list[str]:
        with transaction.atomic():
            result = note.enqueue("later")
            before = tasks.status(result)
        return [before, tasks.status(result)]

    assert await sync_to_async(in_a_transaction)() == ["", "READY"]


def test_aenqueue_in_a_transaction_of_its_caller_enqueues_at_once(tasks: Tasks) -> None:
    """Async code cannot see the connections of the thread that called it."""
    with transaction.atomic(), asyncio.Runner() as runner:
        assert tasks.status(runner.run(note.aenqueue("a"))) == "READY"
        runner.run(close_async_redis())


async def test_the_threads_of_a_worker_leave_no_connection_open(tasks: Tasks) -> None:
    """Old ones are closed after each task, like after a request."""
    async with tasks.working(concurrency=2):
        for _ in range(6):
            assert (await await_result(query.enqueue(), 60)).return_value == 1
    assert len(calls) == 6
    await wait_until(lambda: all(wrapper.connection is None for wrapper in calls))
    assert all(wrapper is not connection for wrapper in calls)


async def test_a_broken_connection_fails_no_other_task(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever closing it raises."""
    from realtime.tasks import runner

    def close() -> None:
        raise RuntimeError("the driver is confused")

    monkeypatch.setattr(runner, "close_old_connections", close)
    async with tasks.working(concurrency=1):
        for number in range(3):
            assert (await await_result(note.enqueue(number), 60)).status == "SUCCESSFUL"
