"""Whatever a task raises or returns: it ends, and the worker goes on."""

import asyncio
from typing import Any

import pytest

from realtime.exceptions import PermanentError, Retry
from realtime.tasks import await_result
from realtime.tasks.django_api import task_finished, task_started
from tests.support.tasks import Tasks
from tests.support.tasks_of_tests import ERRORS, VALUES, aadd, add, afail, calls, cancel_itself, fail, give, note
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent

CLASSES = {
    "value": ValueError,
    "exit": SystemExit,
    "interrupt": KeyboardInterrupt,
    "generator": GeneratorExit,
    "stop": StopIteration,
    "timeout": TimeoutError,
    "permanent": PermanentError,
    "retry": Retry,
    "surrogates": ValueError,
    "group": ExceptionGroup,
}


@pytest.mark.parametrize("function", [fail, afail], ids=["sync", "async"])
async def test_a_task_may_raise_anything(tasks: Tasks, function: Any) -> None:
    """It fails with its traceback; the same threads and the same loop run the next tasks."""
    async with tasks.working(concurrency=2):
        results = {kind: await function.aenqueue(kind) for kind in ERRORS}
        for kind, result in results.items():
            await await_result(result, 60)
            assert result.status == "FAILED"
            (error,) = result.errors
            assert ("left out" if kind == "long" else "Traceback") in error.traceback
            assert len(error.traceback) < 30_000
            if kind in CLASSES and not (kind == "stop" and function is afail):
                assert error.exception_class is CLASSES[kind]
        assert (await await_result(await add.aenqueue(1, 2), 60)).return_value == 3
    assert tasks.left_count() == 0


@pytest.mark.parametrize("kind", ["nan", "infinite", "negative", "retry", "exit", "unprintable", "long"])
async def test_a_task_with_attempts_may_raise_anything(tasks: Tasks, kind: str) -> None:
    """The next attempt comes at a time, or much later if that is what the error asks for."""
    result = fail.using(max_attempts=2, backoff=0).enqueue(kind)
    async with tasks.working():
        if kind == "infinite":
            await wait_until(lambda: tasks.fields(result.id).get("error_count") == "1")
            assert tasks.status(result) == "READY"
            await wait_until(lambda: tasks.left_count() == 0)
        else:
            await await_result(result, 60)
            assert result.status == "FAILED"
            assert calls == [kind, kind]
            assert len(result.errors) == 2


@pytest.mark.parametrize("kind", VALUES)
async def test_a_value_that_is_no_json_fails_at_once(tasks: Tasks, kind: str) -> None:
    """The task did its work: it is not done again for its value."""
    result = give.using(max_attempts=3, backoff=0).enqueue(kind)
    async with tasks.working():
        await await_result(result, 60)
        assert result.status == "FAILED"
        assert calls == [kind]
        (error,) = result.errors
        if kind == "huge":
            assert "store them, and return a key" in error.traceback


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
async def test_receivers_that_raise_change_nothing(
    tasks: Tasks, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """The task runs, its end is recorded, and the threads live on."""

    def refuse(**kwargs: Any) -> None:
        raise error("a receiver's own")

    task_finished.connect(refuse)
    if error is RuntimeError:
        task_started.connect(refuse)
    try:
        async with tasks.working(concurrency=2):
            results = [note.enqueue(number) for number in range(6)] + [fail.enqueue("value")]
            for result in results:
                await await_result(result, 60)
            assert [str(result.status) for result in results] == ["SUCCESSFUL"] * 6 + ["FAILED"]
            await wait_until(lambda: caplog.text.count("a receiver of task_finished failed") == 7)
    finally:
        task_finished.disconnect(refuse)
        task_started.disconnect(refuse)
    assert sorted(each for each in calls if each != "value") == [*range(6)]


async def test_receivers_get_the_end_of_a_task(tasks: Tasks) -> None:
    """With the value, the error and the times that Redis has."""
    heard: list[Any] = []

    def hear(task_result: Any, **kwargs: Any) -> None:
        heard.append(task_result)

    task_finished.connect(hear)
    try:
        async with tasks.working():
            good, bad = add.enqueue(1, 2), fail.enqueue("value")
            await wait_until(lambda: len(heard) == 2)
    finally:
        task_finished.disconnect(hear)
    ends = {result.id: result for result in heard}
    assert ends[good.id].return_value == 3
    assert ends[bad.id].errors[0].exception_class is ValueError
    good.refresh()
    assert abs((ends[good.id].finished_at - good.finished_at).total_seconds()) < 5


async def test_an_unprintable_error_ends_the_task(tasks: Tasks) -> None:
    """Also when it is an error of its own class with a text that raises."""
    result = fail.enqueue("unprintable")
    async with tasks.working():
        await await_result(result, 60)
    assert result.errors[0].exception_class_path.endswith("Unprintable")


async def test_an_async_task_that_cancels_itself_has_failed(tasks: Tasks) -> None:
    """It leaves its slot to the next one."""
    async with tasks.working(concurrency=1):
        result = cancel_itself.enqueue()
        other = aadd.enqueue(1, 2)
        await await_result(result, 60)
        assert (await await_result(other, 60)).return_value == 3
    assert result.status == "FAILED"
    assert result.errors[0].exception_class is asyncio.CancelledError
