"""Enqueuing tasks, what may be in them, and reading their results."""

import datetime
import math
from typing import Any

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone

from realtime.conf import keys, sync_redis
from realtime.exceptions import TasksUnavailable
from realtime.tasks import RedisTask, await_result
from realtime.tasks.backend import RedisStreamBackend
from realtime.tasks.django_api import (
    InvalidTask,
    TaskResultDoesNotExist,
    TaskResultMismatch,
    TaskResultStatus,
    default_task_backend,
    task_backends,
    task_enqueued,
    task_finished,
)
from tests.support.tasks import Tasks, backend_settings
from tests.support.tasks_of_tests import aadd, add, calls, context_of, echo, fail, nested, note, nothing
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent


async def test_a_task_gives_its_value(tasks: Tasks) -> None:
    """From sync and async functions, enqueued in both ways; the result has its times, its worker and no error."""
    async with tasks.working() as worker:
        results = [
            add.enqueue(1, b=2),
            await add.aenqueue(1, b=2),
            aadd.enqueue(1, b=2),
            await aadd.aenqueue(1, b=2),
        ]
        for result in results:
            assert result.status == TaskResultStatus.READY
            assert (result.args, result.kwargs) == ([1], {"b": 2})
            await await_result(result, 60)
            assert result.return_value == 3
            assert result.worker_ids == [worker.consumer]
            assert result.attempts == 1
            assert result.errors == []
            assert result.enqueued_at <= result.started_at <= result.finished_at
            assert result.last_attempted_at == result.started_at
            again = await default_task_backend.aget_result(result.id)
            assert again == default_task_backend.get_result(result.id) == result.task.get_result(result.id)
            assert again.return_value == 3
    assert tasks.left_count() == 0


async def test_none_is_a_value(tasks: Tasks) -> None:
    """A task that returns nothing has finished."""
    async with tasks.working():
        result = await await_result(nothing.enqueue(), 60)
    assert result.is_finished
    assert result.return_value is None


async def test_a_failed_task_has_its_traceback(tasks: Tasks) -> None:
    """And no value."""
    async with tasks.working():
        result = await await_result(fail.enqueue("value"), 60)
    assert result.status == TaskResultStatus.FAILED
    (error,) = result.errors
    assert error.exception_class is ValueError
    assert "no good" in error.traceback
    assert "tasks_of_tests.py" in error.traceback
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value


@pytest.mark.parametrize(
    "value",
    [
        "grüezi 🚋",
        "a lone \ud800 surrogate",
        "zero \x00 byte",
        ["nested", {"with": [None, True, 1.5, -0.0]}],
        {"": {}},
        2**64,
        "#:# default.x#1",
        "x" * 200_000,
    ],
    ids=["text", "surrogate", "zero", "nested", "empty", "big", "item", "long"],
)
async def test_arguments_arrive_as_they_were(tasks: Tasks, value: Any) -> None:
    """By position and by name, and back as a value."""
    async with tasks.working():
        result = await await_result(echo.enqueue(value, name="x"), 60)
    assert result.return_value == [[value], {"name": "x"}]
    assert default_task_backend.get_result(result.id).args == [value]


async def test_arguments_become_json(tasks: Tasks) -> None:
    """Tuples are lists, and bytes of UTF-8 are text, as Django has it."""
    async with tasks.working():
        result = await await_result(echo.enqueue((1, 2), b"abc", {"a": (3,)}), 60)
    assert result.return_value == [[[1, 2], "abc", {"a": [3]}], {}]


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (object(), TypeError),
        (math.nan, ValueError),
        (-math.inf, ValueError),
        (b"\xff", ValueError),
        (datetime.datetime(2026, 1, 1), TypeError),
        ("x" * 262_144, ValueError),
        (10**5000, ValueError),
        (nested(100_000), RecursionError),
    ],
    ids=["object", "nan", "infinity", "bytes", "datetime", "too long", "digits", "deep"],
)
async def test_what_is_no_json_is_refused_at_once(
    tasks: Tasks, redis_client: redis.Redis, value: Any, error: type[Exception]
) -> None:
    """Nothing is enqueued."""
    with pytest.raises(error):
        echo.enqueue(value)
    with pytest.raises(error):
        await echo.aenqueue(name=value)
    assert not redis_client.exists(keys().task_queue("default"))


async def test_wrong_arguments_fail_the_task(tasks: Tasks) -> None:
    """They are only seen when the function is called."""
    async with tasks.working():
        result = await await_result(add.enqueue(1, 2, 3), 60)
    assert result.errors[0].exception_class is TypeError


async def test_a_task_gets_its_context(tasks: Tasks) -> None:
    """With its own id, and the number of the attempt."""
    async with tasks.working():
        result = await await_result(context_of.enqueue("x"), 60)
    assert result.return_value == ["x", 1, result.id, "RUNNING"]


@pytest.mark.parametrize(
    "id",
    [
        "",
        ".",
        "default",
        "default.",
        "default.unknown",
        ".x",
        "de fault.x",
        "other.x",
        "x" * 100,
        "default.\ud800",
        "a.b.c",
    ],
)
async def test_an_id_that_nobody_gave_is_unknown(tasks: Tasks, id: str) -> None:
    """Whatever it is made of."""
    with pytest.raises(TaskResultDoesNotExist):
        default_task_backend.get_result(id)
    with pytest.raises(TaskResultDoesNotExist):
        await default_task_backend.aget_result(id)


def test_the_result_of_another_function_is_no_match(tasks: Tasks) -> None:
    """As in Django's own backends."""
    with pytest.raises(TaskResultMismatch):
        add.get_result(echo.enqueue().id)


async def test_a_finished_task_expires(tasks: Tasks, redis_client: redis.Redis) -> None:
    """Successful and failed ones after their own times; they leave the lists as well."""
    tasks.configure(keep_successful_seconds=0.05, keep_failed_seconds=1000)
    async with tasks.working():
        good, bad = note.enqueue("a"), fail.enqueue("value")
        await wait_until(lambda: tasks.status(bad) == "FAILED")
        await wait_until(lambda: "a" in calls and not tasks.fields(good.id))
        with pytest.raises(TaskResultDoesNotExist):
            good.refresh()
        await await_result(bad, 60)
        queue = tasks.backend.queue("default")
        assert 990 < redis_client.ttl(queue.task_key(bad.id)) <= 1000
        await await_result(fail.enqueue("value"), 60)
        assert redis_client.zcard(queue.failed) == 2
        assert redis_client.zcard(queue.successful) == 0


async def test_a_function_that_cannot_be_found_fails_the_task(
    tasks: Tasks, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Moved, no task, not importable, or a module that ends the process: the worker goes on, and logs which it was."""
    paths = {
        "tests.support.tasks_of_tests.moved": "cannot be imported",
        "tests.support.no_such_module.task": "cannot be imported",
        "tests.support.tasks_of_tests.no_task": "not a task",
        "tests.support.tasks_of_tests.calls": "not a task",
        "nodots": "cannot be imported",
        "": "cannot be imported",
        "tests.support.raises_on_import.task": "cannot be imported",
        "tests.support.exits_on_import.task": "cannot be imported",
        "\x00": "cannot be imported",
    }
    results = {path: note.enqueue(path) for path in paths}
    for path, result in results.items():
        redis_client.hset(tasks.backend.queue("default").task_key(result.id), "func", path)
    async with tasks.working():
        for path, reason in paths.items():
            result = results[path]
            await wait_until(lambda result=result: tasks.is_over(result))
            fields = tasks.fields(result.id)
            assert fields["status"] == "FAILED"
            assert "TaskUnknown" in fields["error1"]
            assert reason in fields["error1"]
            await wait_until(lambda result=result: f"the task {result.id} has failed" in caplog.text)
            with pytest.raises(TaskResultDoesNotExist):
                default_task_backend.get_result(result.id)
        await await_result(note.enqueue("last"), 60)
    assert calls == ["last"]


@pytest.mark.parametrize(
    "field", ["options", "call", "func", "priority", "workers", "deaths_limit", "earlier_attempts"]
)
@pytest.mark.parametrize("value", [None, "nonsense", ""])
async def test_a_damaged_task_does_not_hold_up_others(
    tasks: Tasks, redis_client: redis.Redis, field: str, value: str | None
) -> None:
    """It ends, or is left alone; the others of its batch run."""
    bad = note.enqueue("bad")
    good = [note.enqueue(number) for number in range(3)]
    key = tasks.backend.queue("default").task_key(bad.id)
    if value is None:
        redis_client.hdel(key, field)
    else:
        redis_client.hset(key, field, value)
    async with tasks.working(concurrency=10):
        for result in good:
            await await_result(result, 60)
        await wait_until(lambda: tasks.is_over(bad))
        await wait_until(lambda: tasks.left_count() == 0)


# Redis ----------------------------------------------------------------------------------------------------------------


async def test_without_redis_a_task_is_not_enqueued(signalbox: Any, tasks: Tasks) -> None:
    """The error says what may have happened, and what to do."""
    signalbox.REALTIME = {**signalbox.REALTIME, "REDIS_URL": "unix:///nobody.sock"}
    with pytest.raises(TasksUnavailable, match="it may have been enqueued"):
        note.enqueue("a")
    with pytest.raises(TasksUnavailable, match="it may have been enqueued"):
        await note.aenqueue("a")
    with pytest.raises(TasksUnavailable, match="try again later"):
        default_task_backend.get_result("default.x")
    with pytest.raises(TasksUnavailable, match="try again later"):
        await default_task_backend.aget_result("default.x")
    sync_redis().close()


# Backends -------------------------------------------------------------------------------------------------------------


async def test_two_backends_have_their_own_queues(tasks: Tasks) -> None:
    """A task knows its backend; a worker of one runs nothing of the other."""
    one = note.enqueue("one")
    other = note.using(backend="other", queue_name="other").enqueue("other")
    async with tasks.working(alias="other"):
        await await_result(other, 60)
        assert calls == ["other"]
        assert other.backend == "other"
    async with tasks.working():
        await await_result(one, 60)
        assert task_backends["other"].get_result(other.id).task.backend == "other"
        with pytest.raises(TaskResultDoesNotExist):
            default_task_backend.get_result(other.id)


async def test_a_backend_without_queues_takes_any(tasks: Tasks, signalbox: Any) -> None:
    """If its name is valid; a worker names the queues that it runs."""
    signalbox.TASKS = {"default": {**backend_settings(), "QUEUES": []}}
    result = note.using(queue_name="some.queue-1").enqueue("a")
    for name in ("", "a b", "a:b", "{a}", "x" * 41, "ä"):
        with pytest.raises(InvalidTask, match="1 to 40 letters"):
            note.using(queue_name=name)
    async with tasks.working("some.queue-1"):
        await await_result(result, 60)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "{a}", "x" * 41])
def test_the_names_of_queues_are_checked(tasks: Tasks, signalbox: Any, name: Any) -> None:
    """A backend with another one is made, and takes no task."""
    signalbox.TASKS = {"default": {**backend_settings(), "QUEUES": ["default", name]}}
    with pytest.raises(ImproperlyConfigured, match="1 to 40 letters"):
        note.enqueue("a")


async def test_times_are_naive_without_time_zones(tasks: Tasks, signalbox: Any) -> None:
    """As Django's own: all of a result can be compared with each other and with timezone.now()."""
    signalbox.USE_TZ = False
    signalbox.TIME_ZONE = "Europe/Zurich"
    heard: list[Any] = []

    def hear(task_result: Any, **kwargs: Any) -> None:
        heard.append(task_result)

    task_finished.connect(hear)
    try:
        async with tasks.working():
            due = timezone.now() + datetime.timedelta(milliseconds=50)
            result = note.using(run_after=due).enqueue("a")
            await await_result(result, 60)
            await wait_until(lambda: heard)
            assert due <= result.started_at <= result.finished_at <= timezone.now()
            assert heard[0].started_at <= heard[0].finished_at
            assert abs(default_task_backend.get_result(result.id).task.run_after - due).total_seconds() < 0.01
    finally:
        task_finished.disconnect(hear)


def test_the_signal_is_sent_when_a_task_is_enqueued(tasks: Tasks) -> None:
    """With its id and the time."""
    heard: list[Any] = []

    def hear(task_result: Any, **kwargs: Any) -> None:
        heard.append((task_result.id, task_result.enqueued_at))

    task_enqueued.connect(hear)
    try:
        result = note.enqueue("a")
    finally:
        task_enqueued.disconnect(hear)
    assert heard == [(result.id, result.enqueued_at)]
    assert isinstance(result.task, RedisTask)


def test_queues_are_no_text(signalbox: Any) -> None:
    """A text would be a queue for each letter."""
    problem = RedisStreamBackend("default", {"QUEUES": "mail"}).problem
    assert problem == 'TASKS["default"]["QUEUES"] is a text: write a list, such as ["mail"]'
