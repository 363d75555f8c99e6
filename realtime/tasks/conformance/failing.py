"""
Failing: what becomes of a task that raises, and of its worker.

Owns these rules. They need a backend that runs tasks.
"""

import time
from typing import Any

from realtime.extras import extra
from realtime.tasks.conformance import tasks
from realtime.tasks.conformance.base import Suite, rule
from realtime.tasks.django_api import AnyTask, AnyTaskResult, TaskResultStatus, task

with extra("conformance"):
    import pytest

__all__ = ["FailingTasks"]

ERRORS = "Django docs, Tasks framework, Errors"
STATUS = "Django docs, Tasks reference, TaskResultStatus.FAILED"
RETURN_VALUES = "Django docs, Tasks framework, Return values"


class FailingTasks(Suite):
    """The rules about the way of a task that fails."""

    @pytest.mark.parametrize("name", ["fail", "async_fail"])
    @rule(ERRORS)
    def test_a_task_that_raises_has_failed(self, name: str) -> None:
        """The exception and the traceback are saved to the errors list, and return_value raises ValueError."""
        if self.refuses(name):
            return
        result = self.run(getattr(tasks, name), "ValueError")
        assert (result.status, result.is_finished, result.attempts) == (TaskResultStatus.FAILED, True, 1)
        (error,) = result.errors
        assert error.exception_class is ValueError
        assert "ValueError: the task failed on purpose: Grüße" in error.traceback
        assert name in error.traceback
        with pytest.raises(ValueError, match="failed"):
            _ = result.return_value

    @rule("Django docs, Tasks reference, TaskResult.finished_at")
    def test_a_failed_task_has_its_times_and_its_worker(self) -> None:
        """finished_at is the time when the Task finished execution, whether it failed or succeeded."""
        result = self.run(tasks.fail, "ValueError")
        times = [result.enqueued_at, result.started_at, result.last_attempted_at, result.finished_at]
        assert None not in times
        assert times == sorted(times)  # type: ignore[type-var]
        assert len(result.worker_ids) == 1

    @rule(ERRORS)
    def test_the_traceback_has_the_cause(self) -> None:
        """The traceback information is a string that helps with debugging: with the causes of an exception."""
        (error,) = self.run(tasks.fail_with_cause).errors
        assert error.exception_class is ValueError
        assert "LookupError: the cause" in error.traceback
        assert "ValueError: the consequence" in error.traceback

    @rule(ERRORS)
    def test_an_error_of_a_project_keeps_its_class(self) -> None:
        """exception_class is the exception class raised, also where the exception itself cannot be pickled."""
        (error,) = self.run(tasks.fail, "ProjectError").errors
        assert error.exception_class is tasks.ProjectError
        assert "error 7" in error.traceback

    @pytest.mark.parametrize("name", ["UnprintableError", "RecursionError"])
    @rule(ERRORS)
    def test_an_unusual_error_is_saved_too(self, name: str) -> None:
        """If the Task raises an exception, it is saved; one without a text and one from a full stack too."""
        result = self._run_and_another(tasks.fail, name)
        assert result.status == TaskResultStatus.FAILED
        assert result.errors[0].exception_class.__name__ == name

    @pytest.mark.parametrize("error", ["SystemExit", "CancelledError", "GeneratorExit"])
    @pytest.mark.parametrize("name", ["fail", "async_fail"])
    @rule(ERRORS)
    def test_an_error_that_is_no_exception_does_not_end_the_worker(self, name: str, error: str) -> None:
        """Whatever a Task raises is saved, as ImmediateBackend does it, and the next task runs."""
        if self.refuses(name):
            return
        result = self._run_and_another(getattr(tasks, name), error)
        assert result.status == TaskResultStatus.FAILED
        assert result.errors[0].exception_class.__name__ == error

    @rule("django/tasks/backends/immediate.py: if the user tried to terminate, let them")
    def test_a_keyboard_interrupt_is_for_the_user(self) -> None:
        """Within enqueue() it reaches the user. In a worker it is an error of the task, and the next task runs."""
        if self.runs == "immediately":
            with pytest.raises(KeyboardInterrupt):
                tasks.fail.enqueue("KeyboardInterrupt")
            return
        result = self._run_and_another(tasks.fail, "KeyboardInterrupt")
        assert result.status == TaskResultStatus.FAILED
        assert result.errors[0].exception_class is KeyboardInterrupt

    @pytest.mark.parametrize("value", ["object", "set", "nested set"])
    @rule("Django docs, Tasks framework, Enqueueing Tasks")
    def test_a_return_value_that_is_no_json_is_a_failure(self, value: str) -> None:
        """Return values must be JSON-serializable; a task that returns another has failed with a TypeError."""
        result = self._run_and_another(tasks.give, value)
        assert result.status == TaskResultStatus.FAILED
        assert result.errors[0].exception_class is TypeError
        with pytest.raises(ValueError, match="failed"):
            _ = result.return_value

    @rule(STATUS)
    def test_wrong_arguments_are_a_failure(self) -> None:
        """FAILED: the Task was unable to start. Arguments that the function does not take are a TypeError."""
        result = self._run_and_another(tasks.add, 1, 2, 3, unknown=4)
        assert result.status == TaskResultStatus.FAILED
        assert result.errors[0].exception_class is TypeError
        assert "TypeError" in result.errors[0].traceback

    @rule(STATUS)
    def test_a_function_that_is_gone_is_a_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """FAILED: the Task was unable to start. A task whose function a release has removed does not stay in limbo."""
        task = self._task_that_will_be_gone()
        monkeypatch.setattr(tasks, "gone", task, raising=False)
        result = task.enqueue()
        if self.runs == "immediately":
            # Nothing is looked up.
            assert result.status == TaskResultStatus.SUCCESSFUL
            return
        self.needs_results()
        monkeypatch.delattr(tasks, "gone")
        with self.working():
            self.finished(tasks.add.enqueue(1))
        # A result has its task, so it can be read only where the function is.
        monkeypatch.setattr(tasks, "gone", task, raising=False)
        result = self.read_result(result)
        assert result.status == TaskResultStatus.FAILED
        assert "gone" in result.errors[0].traceback
        assert issubclass(result.errors[0].exception_class, Exception)

    @rule(RETURN_VALUES)
    def test_a_failed_task_leaves_others_alone(self) -> None:
        """Each TaskResult is about a specific execution: a failure before and after it does not matter."""
        results = [tasks.fail.enqueue("ValueError"), tasks.add.enqueue(1), tasks.fail.enqueue("ValueError")]
        with self.working():
            statuses = [result.status for result in self.finished(*results)]
        assert statuses == [TaskResultStatus.FAILED, TaskResultStatus.SUCCESSFUL, TaskResultStatus.FAILED]

    def _run_and_another(self, failing: Any, *args: Any, **kwargs: Any) -> AnyTaskResult:
        """Return the result of a task; the same worker has then run another one."""
        with self.working():
            (result,) = self.finished(failing.enqueue(*args, **kwargs))
            (after,) = self.finished(tasks.add.enqueue(1, b=1))
            assert after.return_value == 2
        return result

    def _task_that_will_be_gone(self) -> AnyTask:
        """A task of a function that is not in the module that it names."""

        def gone() -> float:
            return time.monotonic()

        gone.__module__, gone.__qualname__ = tasks.__name__, "gone"
        return task(backend=self.alias)(gone)
