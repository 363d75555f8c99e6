"""
Enqueueing: what `enqueue()` returns and refuses, and how arguments become JSON.

Owns these rules. They hold whether or not a worker ever runs the task.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NoReturn

from asgiref.sync import async_to_sync
from django.conf import settings
from django.utils import timezone

from realtime.extras import extra
from realtime.tasks.conformance import tasks
from realtime.tasks.conformance.base import Suite, now_ms, rule
from realtime.tasks.django_api import (
    AnyTask,
    AnyTaskResult,
    InvalidTask,
    TaskResult,
    TaskResultStatus,
    task_enqueued,
)

with extra("conformance"):
    import pytest

__all__ = ["BOTH_WAYS", "EnqueueingTasks"]

ENQUEUEING = "Django docs, Tasks framework, Enqueueing Tasks"
RESULT = "Django docs, Tasks reference, TaskResult"
TASK = "Django docs, Tasks reference, Task"
SIGNALS = "Django docs, Signals, task_enqueued"


def _enqueue(task: AnyTask, *args: Any, **kwargs: Any) -> AnyTaskResult:
    return task.enqueue(*args, **kwargs)


def _aenqueue(task: AnyTask, *args: Any, **kwargs: Any) -> AnyTaskResult:
    return async_to_sync(task.aenqueue)(*args, **kwargs)


# For tests that enqueue in both ways.
BOTH_WAYS = pytest.mark.parametrize("enqueue", [_enqueue, _aenqueue], ids=["enqueue", "aenqueue"])
# Values that JSON does not have.
NO_JSON = {
    "datetime": datetime.now(UTC),
    "object": object(),
    "set": {1, 2},
    "complex": 1j,
    "nested": [{"deep": object()}],
}
type Enqueue = Callable[..., AnyTaskResult]


class EnqueueingTasks(Suite):
    """The rules about enqueueing."""

    @BOTH_WAYS
    @rule(ENQUEUEING)
    def test_enqueueing_returns_a_result(self, enqueue: Enqueue) -> None:
        """enqueue() returns a TaskResult, with the task, its arguments and the backend that it is from."""
        result = enqueue(tasks.add, 1, b=2)
        assert isinstance(result, TaskResult)
        assert result.task == tasks.add
        assert (result.args, result.kwargs) == ([1], {"b": 2})
        assert result.backend == self.alias

    @BOTH_WAYS
    @rule(RESULT)
    def test_a_task_that_was_enqueued_is_ready(self, enqueue: Enqueue) -> None:
        """READY: the Task has just been enqueued. Nothing has happened to it. An immediate backend has run it."""
        result = enqueue(tasks.add, 1)
        if self.runs == "immediately":
            assert (result.status, result.is_finished, result.attempts) == (TaskResultStatus.SUCCESSFUL, True, 1)
            return
        assert (result.status, result.is_finished, result.attempts) == (TaskResultStatus.READY, False, 0)
        assert (result.errors, result.worker_ids) == ([], [])
        assert (result.started_at, result.last_attempted_at, result.finished_at) == (None, None, None)

    @BOTH_WAYS
    @rule(RESULT)
    def test_a_result_knows_when_it_was_enqueued(self, enqueue: Enqueue) -> None:
        """enqueued_at is the time when the Task was enqueued, with a time zone where USE_TZ is set."""
        before = now_ms()
        result = enqueue(tasks.add, 1)
        assert result.enqueued_at is not None
        assert timezone.is_aware(result.enqueued_at) == settings.USE_TZ
        assert before <= result.enqueued_at <= timezone.now()

    @rule(RESULT)
    def test_the_id_of_a_result_is_unique_and_short(self) -> None:
        """Task result ids are always strings less than 64 characters; each TaskResult has a unique id."""
        ids = [tasks.add.enqueue(1).id for _ in range(50)]
        assert all(isinstance(each, str) and 0 < len(each) < 64 for each in ids)
        assert len(set(ids)) == len(ids)

    @rule(RESULT)
    def test_a_result_cannot_be_changed(self) -> None:
        """Attributes of TaskResult cannot be modified."""
        result = tasks.add.enqueue(1)
        for name in ("id", "status", "enqueued_at", "args", "backend"):
            with pytest.raises(AttributeError):
                setattr(result, name, None)

    @rule("Django docs, Tasks reference, BaseTaskBackend.enqueue")
    def test_the_backend_itself_can_enqueue(self) -> None:
        """backend.enqueue(task, args, kwargs) enqueues the task, as task.enqueue(*args, **kwargs) does."""
        for args in ((1,), [1]):
            result = self.backend.enqueue(tasks.add, args, {"b": 2})  # type: ignore[arg-type]
            assert (result.args, result.kwargs, result.task) == ([1], {"b": 2}, tasks.add)
        result = async_to_sync(self.backend.aenqueue)(tasks.add, [1], {"b": 2})
        assert (result.args, result.kwargs, result.task) == ([1], {"b": 2}, tasks.add)

    @BOTH_WAYS
    @rule(TASK)
    def test_an_invalid_task_is_refused(self, enqueue: Enqueue, monkeypatch: pytest.MonkeyPatch) -> None:
        """If the Task is not valid according to the backend, enqueue() raises InvalidTask."""

        def refuse(*_: object) -> NoReturn:
            raise InvalidTask("refused by the test")

        task = tasks.add
        monkeypatch.setattr(type(self.backend), "validate_task", refuse)
        with pytest.raises(InvalidTask, match="refused by the test"):
            enqueue(task, 1)

    @pytest.mark.parametrize("value", NO_JSON.values(), ids=NO_JSON.keys())
    @BOTH_WAYS
    @rule(ENQUEUEING)
    def test_an_argument_that_is_no_json_is_refused(self, enqueue: Enqueue, value: object) -> None:
        """Arguments must be JSON-serializable, or a TypeError is raised. Nothing is enqueued then."""
        sent: list[object] = []

        def receive(**sending: object) -> None:
            sent.append(sending["task_result"])

        task_enqueued.connect(receive)
        try:
            with pytest.raises(TypeError):
                enqueue(tasks.echo, value)
            with pytest.raises(TypeError):
                enqueue(tasks.echo, named=value)
        finally:
            task_enqueued.disconnect(receive)
        assert sent == []

    @rule("django/utils/json.py: normalize_json")
    def test_bytes_that_are_no_text_are_refused(self) -> None:
        """Bytes become text; those that are not UTF-8 are refused."""
        with pytest.raises((ValueError, TypeError)):
            tasks.echo.enqueue(b"\xff")

    @BOTH_WAYS
    @rule(ENQUEUEING)
    def test_the_arguments_of_a_result_are_json(self, enqueue: Enqueue) -> None:
        """A tuple becomes a list, and bytes become text."""
        result = enqueue(tasks.echo, (1, (2,)), {"key": (b"text",)}, named=(3,))
        assert result.args == [[1, [2]], {"key": ["text"]}]
        assert result.kwargs == {"named": [3]}

    @rule(ENQUEUEING)
    def test_arguments_are_those_of_the_moment(self) -> None:
        """Arguments are serialized when the task is enqueued: what the caller changes later is not in them."""
        items = ["before"]
        result = tasks.echo.enqueue(items, named=items)
        items.append("after")
        assert (result.args, result.kwargs) == ([["before"]], {"named": ["before"]})

    @BOTH_WAYS
    @rule(SIGNALS)
    def test_a_signal_is_sent_when_a_task_is_enqueued(self, enqueue: Enqueue) -> None:
        """task_enqueued is sent once, with the backend class as sender and the result, which is READY."""
        sent: list[tuple[object, str, str]] = []

        def receive(sender: object, task_result: AnyTaskResult, **_: object) -> None:
            sent.append((sender, task_result.id, task_result.status))

        task_enqueued.connect(receive)
        try:
            result = enqueue(tasks.add, 1)
        finally:
            task_enqueued.disconnect(receive)
        assert sent == [(type(self.backend), result.id, TaskResultStatus.READY)]
