"""
Running: what the function of a task gets, and what its result says afterwards.

Owns these rules. They need a backend that runs tasks.
"""

import asyncio
import json
import threading
from functools import partial
from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings
from django.db import connections, transaction
from django.utils import timezone

from realtime.extras import extra
from realtime.tasks.conformance import tasks
from realtime.tasks.conformance.base import Suite, now_ms, rule
from realtime.tasks.django_api import TaskResultStatus

with extra("conformance"):
    import pytest

__all__ = ["RunningTasks"]

ENQUEUEING = "Django docs, Tasks framework, Enqueueing Tasks"
CONTEXT = "Django docs, Tasks framework, Task context"
RETURN_VALUES = "Django docs, Tasks framework, Return values"
FUNDAMENTALS = "Django docs, Tasks framework, Background Task fundamentals"
RESULT = "Django docs, Tasks reference, TaskResult"

# Values that come through JSON as they are. Some stores mix them up: none and empty, list and object, large numbers.
VALUES: dict[str, Any] = {
    "none": None,
    "true": True,
    "false": False,
    "zero": 0,
    "large": 2**63 + 1,
    "exact": 2**53 + 1,
    "negative": -1.5,
    "tiny": 5e-324,
    "fraction": 0.1,
    "empty-text": "",
    "text": 'Grüße, 世界, 🚉, "quoted" \\ and\nlines',
    "empty-list": [],
    "empty-object": {},
    "nested": {"a": [{}, [], None, [[]]], "": {"b": [1, 2.0, "3"]}},
}


class RunningTasks(Suite):
    """The rules about the way of a task that succeeds."""

    @rule(FUNDAMENTALS)
    def test_a_worker_runs_the_task_and_saves_its_result(self) -> None:
        """A worker executes the Task, and saves the status and result."""
        result = self.run(tasks.add, 1, b=2)
        assert (result.status, result.is_finished) == (TaskResultStatus.SUCCESSFUL, True)
        assert result.return_value == 3
        assert result.errors == []

    @pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
    @rule(RETURN_VALUES)
    def test_what_goes_in_comes_out(self, value: Any) -> None:
        """Arguments and return values that JSON has keep their value and type; so do empty ones."""
        result = self.run(tasks.echo, value, named=value)
        assert result.status == TaskResultStatus.SUCCESSFUL
        expected = {"args": [value], "kwargs": {"named": value}, "types": [type(value).__name__]}
        assert json.dumps(result.return_value, sort_keys=True) == json.dumps(expected, sort_keys=True)
        assert json.dumps([result.args, result.kwargs]) == json.dumps([[value], {"named": value}])

    @rule(RETURN_VALUES)
    def test_a_task_may_return_none(self) -> None:
        """None is a return value like others: the task is SUCCESSFUL, and return_value is None."""
        result = self.run(tasks.note, self.journal.path, "ran")
        assert (result.status, result.return_value) == (TaskResultStatus.SUCCESSFUL, None)

    @rule(ENQUEUEING)
    def test_a_tuple_arrives_as_a_list(self) -> None:
        """Arguments are serialized to JSON: the function gets a list where a tuple was given, and text for bytes."""
        result = self.run(tasks.echo, (1, 2), b"text")
        assert result.return_value == {"args": [[1, 2], "text"], "kwargs": {}, "types": ["list", "str"]}

    @rule("Django docs, Tasks reference, Task.enqueue")
    def test_arguments_go_through_json(self) -> None:
        """Arguments are passed after a round-trip through json.dumps() and json.loads(), so keys are text."""
        result = self.run(tasks.echo, {1: "one"})
        assert result.return_value["args"] == [{"1": "one"}]

    @pytest.mark.parametrize(("name", "expected"), [("tuple", [1, [2, 3]]), ("bytes", "Grüße")])
    @rule(RETURN_VALUES)
    def test_a_returned_tuple_becomes_a_list(self, name: str, expected: object) -> None:
        """Return values are serialized to JSON."""
        assert self.run(tasks.give, name).return_value == expected

    @rule(ENQUEUEING)
    def test_a_task_may_change_its_arguments(self) -> None:
        """Arguments are serialized: what the function does to its own is not in the result's."""
        result = self.run(tasks.append_to, ["given"])
        assert result.return_value == ["given", "changed by the task"]
        assert result.args == [["given"]]

    @rule(ENQUEUEING)
    def test_what_the_caller_changes_later_does_not_arrive(self) -> None:
        """Arguments are serialized when the task is enqueued."""
        items = ["before"]
        result = tasks.echo.enqueue(items)
        items.append("after")
        with self.working():
            (result,) = self.finished(result)
        assert result.return_value["args"] == [["before"]]

    @rule("The suite: large_argument_bytes")
    def test_a_large_argument_arrives_whole(self) -> None:
        """An argument may be as large as the backend says."""
        text = "Grüße " * (self.large_argument_bytes // 8)
        result = self.run(tasks.echo, text)
        assert result.return_value["args"] == [text]

    @rule(RESULT)
    def test_the_times_of_a_result_are_in_order(self) -> None:
        """enqueued_at ≤ started_at ≤ last_attempted_at ≤ finished_at, all with a time zone where USE_TZ is set."""
        before = now_ms()
        result = self.run(tasks.add, 1)
        times = [result.enqueued_at, result.started_at, result.last_attempted_at, result.finished_at]
        assert None not in times
        assert all(timezone.is_aware(each) == settings.USE_TZ for each in times)  # type: ignore[arg-type]
        moments = [before, *times, timezone.now()]
        assert moments == sorted(moments)  # type: ignore[type-var]
        assert result.started_at == result.last_attempted_at

    @rule(RESULT)
    def test_a_result_knows_its_worker(self) -> None:
        """worker_ids are the ids of the workers which have executed the Task; attempts is how often it was run."""
        result = self.run(tasks.add, 1)
        (worker_id,) = result.worker_ids
        assert worker_id
        assert isinstance(worker_id, str)
        assert result.attempts == 1

    @pytest.mark.parametrize("name", ["describe", "async_describe"])
    @rule(CONTEXT)
    def test_a_task_gets_its_context(self, name: str) -> None:
        """The context has the attempt, from 1, and the result that is being run; the arguments come after it."""
        if self.refuses(name):
            return
        result = self.run(getattr(tasks, name), 1, named="two")
        assert result.status == TaskResultStatus.SUCCESSFUL, result.errors
        assert result.return_value == {
            "attempt": 1,
            "id": result.id,
            "status": "RUNNING",
            "args": [1],
            "kwargs": {"named": "two"},
            "has_started": True,
            "worker_ids": result.worker_ids,
            "received_args": [1],
            "received_kwargs": {"named": "two"},
        }

    @rule("Django docs, Tasks reference, BaseTaskBackend.supports_async_task")
    def test_an_async_task_runs_on_an_event_loop(self) -> None:
        """A backend that supports async tasks runs their coroutine."""
        if self.refuses("async_add"):
            return
        assert self.run(tasks.async_add, 1, b=2).return_value == 3
        assert self.run(tasks.loop_is_running).return_value is True

    @pytest.mark.django_db(transaction=True)
    @rule("Django docs, Asynchronous support, Async safety")
    def test_a_sync_task_may_use_the_database(self) -> None:
        """A sync task does not run where an event loop is running: Django would refuse the database there."""
        result = self.run(tasks.query_database)
        assert result.status == TaskResultStatus.SUCCESSFUL, result.errors
        assert result.return_value == 1

    @pytest.mark.parametrize("name", ["enqueue_another", "async_enqueue_another"])
    @rule("Django docs, Tasks framework, Task results")
    def test_a_task_may_enqueue_another(self, name: str) -> None:
        """The code that enqueues a task may be another task."""
        if self.refuses(name):
            return
        outer = getattr(tasks, name).enqueue(1, 2, self.alias)
        with self.working():
            (outer,) = self.finished(outer)
            assert outer.status == TaskResultStatus.SUCCESSFUL, outer.errors
            if self.backend.supports_get_result:
                (inner,) = self.finished(self.backend.get_result(outer.return_value))
                assert (inner.return_value, inner.task) == (3, tasks.add)

    @rule(FUNDAMENTALS)
    def test_each_task_runs_once(self) -> None:
        """A worker claims a Task and executes it: each enqueued one once, those with the same arguments too."""
        results = [tasks.note.enqueue(self.journal.path, "same") for _ in range(20)]
        with self.working():
            self.journal.wait_for(lambda entries: len(entries) >= 20, self.deadline_seconds)
            tasks.note.enqueue(self.journal.path, "last")
            entries = self.journal.wait_for(lambda entries: "last" in entries, self.deadline_seconds)
        assert entries == ["same"] * 20 + ["last"]
        assert len({result.id for result in results}) == 20

    @pytest.mark.django_db(transaction=True)
    @rule("Django docs, Tasks framework, Transactions")
    def test_a_task_can_be_enqueued_on_commit(self) -> None:
        """To run a task after the commit, use transaction.on_commit(), binding all arguments to enqueue()."""
        with transaction.atomic():
            transaction.on_commit(partial(tasks.note.enqueue, self.journal.path, entry="on commit"))
        with self.working():
            assert self.journal.wait_for(bool, self.deadline_seconds) == ["on commit"]

    @rule(FUNDAMENTALS)
    def test_many_may_enqueue_at_the_same_time(self) -> None:
        """Tasks of several threads and coroutines are all run, each once, and each has its own id."""
        ids: list[str] = []

        def enqueue(first: int) -> None:
            try:
                results = [tasks.note.enqueue(self.journal.path, number) for number in range(first, first + 5)]
                ids.extend(result.id for result in results)
            finally:
                connections.close_all()

        async def aenqueue() -> None:
            results = [tasks.note.aenqueue(self.journal.path, number) for number in range(20, 30)]
            ids.extend([result.id for result in await asyncio.gather(*results)])

        threads = [threading.Thread(target=enqueue, args=[5 * index], name="enqueues") for index in range(4)]
        for thread in threads:
            thread.start()
        async_to_sync(aenqueue)()
        for thread in threads:
            thread.join()
        with self.working():
            entries = self.journal.wait_for(lambda entries: len(entries) >= 30, self.deadline_seconds)
        assert sorted(entries) == list(range(30))
        assert len(set(ids)) == 30

    @rule(RESULT)
    def test_results_are_independent(self) -> None:
        """A TaskResult stores the information about a specific execution of a Task."""
        results = [tasks.add.enqueue(number, b=100) for number in range(5)]
        with self.working():
            finished = self.finished(*results)
        assert [each.return_value for each in finished] == [100, 101, 102, 103, 104]
        assert [each.args for each in finished] == [[0], [1], [2], [3], [4]]

    @rule("Django docs, Settings, TASKS, QUEUES")
    def test_a_task_of_each_queue_runs(self) -> None:
        """QUEUES are the queues that the backend supports."""
        for name in self.backend.queues or {"any", "other"}:
            result = self.run(tasks.add.using(queue_name=name), 1)
            assert (result.return_value, result.task.queue_name) == (1, name)
