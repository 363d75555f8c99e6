"""
Results: how they are retrieved, what they say before a task has finished, and how they are refreshed.

Owns these rules. Where a backend does not support retrieving results, they say what it must raise.
"""

import threading
from collections.abc import Callable

from asgiref.sync import async_to_sync

from realtime.extras import extra
from realtime.tasks.conformance import tasks
from realtime.tasks.conformance.base import Suite, rule
from realtime.tasks.django_api import (
    TASK_REFRESH_ATTRS,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultMismatch,
    TaskResultStatus,
)

with extra("conformance"):
    import pytest

__all__ = ["ReadingResults", "WatchingResults"]

RESULTS = "Django docs, Tasks framework, Task results"
UPDATING = "Django docs, Tasks framework, Updating results"
RETURN_VALUES = "Django docs, Tasks framework, Return values"
GET_RESULT = "Django docs, Tasks reference, Task.get_result"
FEATURE = "Django docs, Tasks reference, BaseTaskBackend.supports_get_result"

# Of forms that a store may treat differently.
UNKNOWN_IDS = {
    "word": "unknown",
    "empty": "",
    "uuid": "01234567-89ab-cdef-0123-456789abcdef",
    "long": "x" * 1000,
    "special": "Grüße *?[]{}:\n",
}


class ReadingResults(Suite):
    """The rules about retrieving results. No task needs to run."""

    @rule(RESULTS)
    def test_a_result_is_found_by_its_id(self) -> None:
        """get_result() and aget_result() retrieve a result by its id, on the task and on the backend."""
        if not self.backend.supports_get_result:
            return  # The next test.
        task = tasks.add
        result = task.enqueue(1, b=2)
        for get_result in (
            task.get_result,
            self.backend.get_result,
            async_to_sync(task.aget_result),
            async_to_sync(self.backend.aget_result),
        ):
            found = get_result(result.id)
            assert isinstance(found, TaskResult)
            assert (found.id, found.task, found.backend) == (result.id, task, self.alias)
            assert (found.args, found.kwargs) == ([1], {"b": 2})
            assert found.enqueued_at == result.enqueued_at

    @rule(GET_RESULT)
    def test_a_backend_without_results_says_so(self) -> None:
        """If the backend does not support get_result(), NotImplementedError is raised; by refresh() too."""
        if self.backend.supports_get_result:
            return  # The test before.
        result = tasks.add.enqueue(1)
        for call in self._ways_to_get(result.id):
            with pytest.raises(NotImplementedError):
                call()
        for refresh in (result.refresh, async_to_sync(result.arefresh)):
            with pytest.raises(NotImplementedError):
                refresh()

    @pytest.mark.parametrize("result_id", UNKNOWN_IDS.values(), ids=UNKNOWN_IDS.keys())
    @rule(GET_RESULT)
    def test_an_unknown_id_does_not_exist(self, result_id: str) -> None:
        """If the result does not exist, TaskResultDoesNotExist is raised."""
        expected = TaskResultDoesNotExist if self.backend.supports_get_result else NotImplementedError
        for call in self._ways_to_get(result_id):
            with pytest.raises(expected):
                call()

    @rule(GET_RESULT)
    def test_a_result_of_another_task_does_not_match(self) -> None:
        """If the result is not the same type as the current Task, TaskResultMismatch is raised."""
        expected = TaskResultMismatch if self.backend.supports_get_result else NotImplementedError
        result = tasks.echo.enqueue(1)
        for get_result in (tasks.add.get_result, async_to_sync(tasks.add.aget_result)):
            with pytest.raises(expected):
                get_result(result.id)

    @rule(FEATURE)
    def test_a_result_is_found_by_another_thread(self) -> None:
        """supports_get_result: a result is retrieved from another thread after it has been enqueued."""
        result = tasks.add.enqueue(1)
        outcomes: list[object] = []

        def read() -> None:
            try:
                outcomes.append(self.backend.get_result(result.id).id)
            except Exception as error:
                outcomes.append(type(error))

        thread = threading.Thread(target=read, name="reads-a-result")
        thread.start()
        thread.join()
        assert outcomes == [result.id if self.backend.supports_get_result else NotImplementedError]

    @rule(RESULTS)
    def test_a_result_has_the_task_as_it_was_enqueued(self) -> None:
        """TaskResult.task is the Task that the result was enqueued for, with its queue and priority."""
        task = tasks.add.using(queue_name=max(self.backend.queues, default="any"))
        if self.backend.supports_priority:
            task = task.using(priority=-7)
        result = task.enqueue(1)
        assert result.task == task
        if self.backend.supports_get_result:
            assert self.backend.get_result(result.id).task == task

    def _ways_to_get(self, result_id: str) -> list[Callable[[], object]]:
        return [
            lambda: self.backend.get_result(result_id),
            lambda: tasks.add.get_result(result_id),
            lambda: async_to_sync(self.backend.aget_result)(result_id),
            lambda: async_to_sync(tasks.add.aget_result)(result_id),
        ]


class WatchingResults(Suite):
    """The rules about what changes in a result. They need a backend that runs tasks."""

    @rule(RETURN_VALUES)
    def test_an_unfinished_task_has_no_return_value(self) -> None:
        """If the Task has not finished executing, return_value raises ValueError."""
        result = tasks.add.enqueue(1)
        if self.runs == "immediately":
            assert result.return_value == 1
            return
        with pytest.raises(ValueError, match="finished"):
            _ = result.return_value

    @pytest.mark.parametrize("method", ["refresh", "arefresh"])
    @rule(UPDATING)
    def test_a_result_is_of_the_moment_until_it_is_refreshed(self, method: str) -> None:
        """If the Task finishes after the result was retrieved, it does not update; refresh() refreshes the values."""
        if self.runs == "immediately":
            # Nothing changes after enqueue(), and ReadingResults has what refresh() does.
            assert tasks.add.enqueue(1).is_finished
            return
        result = tasks.add.enqueue(1)
        with self.working():
            (finished,) = self.finished(result)
        assert (result.status, result.finished_at) == (TaskResultStatus.READY, None)
        if not self.backend.supports_get_result:
            return
        async_to_sync(result.arefresh)() if method == "arefresh" else result.refresh()
        assert {name: getattr(result, name) for name in TASK_REFRESH_ATTRS} == {
            name: getattr(finished, name) for name in TASK_REFRESH_ATTRS
        }
        assert result.return_value == 1

    @pytest.mark.parametrize("name", ["hold", "async_hold"])
    @rule("Django docs, Tasks reference, TaskResultStatus.RUNNING")
    def test_a_task_that_runs_is_running(self, name: str) -> None:
        """RUNNING: the Task is currently being executed. It has started, and not finished."""
        if self.runs == "immediately":
            # Only the task itself can see this.
            assert tasks.describe.enqueue().return_value["status"] == TaskResultStatus.RUNNING
            return
        self.needs_results()
        if self.refuses(name):
            return
        result = getattr(tasks, name).enqueue(self.journal.path, self.file("release"))
        with self.working():
            self.journal.wait_for(bool, self.deadline_seconds)
            running = self.read_result(result)
            self.release()
            (finished,) = self.finished(result)
        assert (running.status, running.is_finished) == (TaskResultStatus.RUNNING, False)
        assert running.started_at is not None
        assert (running.finished_at, running.errors) == (None, [])
        with pytest.raises(ValueError, match="finished"):
            _ = running.return_value
        assert (finished.return_value, finished.started_at) == ("released", running.started_at)

    @rule(RESULTS)
    def test_a_finished_result_stays(self) -> None:
        """The id can be used to retrieve the result once the code which enqueued the Task has finished."""
        if not self.backend.supports_get_result:
            return  # ReadingResults: it raises NotImplementedError.
        result = self.run(tasks.add, 1, b=2)
        for _ in range(2):
            again = tasks.add.get_result(result.id)
            assert (again.status, again.return_value) == (TaskResultStatus.SUCCESSFUL, 3)
            assert (again.args, again.kwargs, again.worker_ids) == ([1], {"b": 2}, result.worker_ids)
            assert (again.started_at, again.finished_at) == (result.started_at, result.finished_at)
