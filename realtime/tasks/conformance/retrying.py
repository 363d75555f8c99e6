"""
Beyond Django: attempts after a failed one, time limits, and the death of a worker.

Owns these rules, of the capabilities retries, timeout and survives_worker_death.
"""

import itertools
import time
from typing import Any

from django.utils import timezone

from realtime.extras import extra
from realtime.tasks.conformance import tasks
from realtime.tasks.conformance.base import Suite, rule
from realtime.tasks.django_api import AnyTaskResult, TaskResultStatus

with extra("conformance"):
    import pytest

__all__ = ["RetryingTasks"]

ATTEMPTS = "Django docs, Tasks reference, TaskResult; the options are beyond Django: retries"
TIMEOUT = "Beyond Django: timeout"
DEATH = "Beyond Django: survives_worker_death"
# Longer than a test takes.
LONG_SECONDS = 600.0


class RetryingTasks(Suite):
    """The rules about what happens when an attempt fails, hangs or is lost."""

    @rule(ATTEMPTS, needs="retries")
    def test_a_failed_attempt_is_followed_by_another(self) -> None:
        """errors has an entry for each failed attempt, worker_ids one for each attempt; the context counts from 1."""
        result = self.run(self._retried(), self.journal.path, 3)
        assert (result.status, result.return_value) == (TaskResultStatus.SUCCESSFUL, 3)
        assert [error.exception_class for error in result.errors] == [ValueError, ValueError]
        assert ["attempt 1" in result.errors[0].traceback, "attempt 2" in result.errors[1].traceback] == [True, True]
        assert (result.attempts, len(result.worker_ids)) == (3, 3)
        assert [(each["attempt"], each["errors"]) for each in self._attempts()] == [(1, 0), (2, 1), (3, 2)]

    @rule(ATTEMPTS, needs="retries")
    def test_the_times_are_of_the_first_and_the_last_attempt(self) -> None:
        """started_at is of the first attempt, last_attempted_at of the most recent one."""
        result = self.run(self._retried(), self.journal.path, 2)
        times = [result.enqueued_at, result.started_at, result.last_attempted_at, result.finished_at]
        assert None not in times
        assert times == sorted(times)  # type: ignore[type-var]
        assert result.started_at != result.last_attempted_at

    @rule(ATTEMPTS, needs="retries")
    def test_the_last_attempt_decides(self) -> None:
        """After max_attempts failures the task has FAILED, with the error of each."""
        result = self.run(self._retried(), self.journal.path, 99)
        assert (result.status, result.attempts, len(result.errors)) == (TaskResultStatus.FAILED, 3, 3)
        assert len(self._attempts()) == 3

    @rule(ATTEMPTS, needs="retries")
    def test_without_the_option_there_is_one_attempt(self) -> None:
        """A task is not run again unless it says so: it may have done half of its work."""
        result = self.run(tasks.succeed_at, self.journal.path, 2)
        assert (result.status, result.attempts, len(result.errors)) == (TaskResultStatus.FAILED, 1, 1)

    @rule(ATTEMPTS, needs="retries")
    def test_the_options_can_be_given_to_the_decorator(self) -> None:
        """@task(max_attempts=…): Django passes arguments that it does not know to the backend's task class (6.1)."""
        try:
            task = self.declared_with_options("succeed_at", max_attempts=2, backoff=0)
        except TypeError as error:
            if "unexpected keyword argument" not in str(error) or "task()" not in str(error):
                raise
            pytest.skip("@task takes no options of a backend before Django 6.1")
        assert self.run(task, self.journal.path, 2).return_value == 2

    @pytest.mark.parametrize("backoff", [0.4, [0.2, 0.6]], ids=["seconds", "sequence"])
    @rule("Beyond Django: retries, backoff", needs="retries")
    def test_the_next_attempt_waits(self, backoff: Any) -> None:
        """backoff is the seconds before the next attempt; of a sequence, one for each."""
        self.run(self.with_options(tasks.succeed_at, max_attempts=3, backoff=backoff), self.journal.path, 3)
        times = [each["at"] for each in self._attempts()]
        gaps = [after - before for before, after in itertools.pairwise(times)]
        waits = backoff if isinstance(backoff, list) else [backoff, backoff]
        assert len(gaps) == 2
        assert all(gap >= wait for gap, wait in zip(gaps, waits, strict=True)), gaps

    @rule("Django docs, Tasks reference, TaskResultStatus.READY", needs="retries")
    def test_a_task_that_waits_for_its_next_attempt_is_ready(self) -> None:
        """READY: the Task is ready to be executed again. Others run meanwhile."""
        waiting = self.with_options(tasks.succeed_at, max_attempts=2, backoff=LONG_SECONDS)
        with self.working():
            result = waiting.enqueue(self.journal.path, 2)
            (other,) = self.finished(tasks.add.enqueue(1))
            deadline = time.monotonic() + self.deadline_seconds
            while not (seen := self.read_result(result)).errors and time.monotonic() < deadline:
                time.sleep(0.02)
        assert other.return_value == 1
        assert (seen.status, seen.is_finished, seen.finished_at) == (TaskResultStatus.READY, False, None)
        assert (seen.attempts, len(seen.errors)) == (1, 1)

    @rule("Django docs, Signals, task_finished", needs="retries")
    def test_a_task_that_is_tried_again_finishes_once(self) -> None:
        """task_finished is sent once a Task has finished executing: not after an attempt that another follows."""
        self.run(self._retried(), self.journal.path, 2)
        entries = self.journal.wait_for(lambda entries: self._finished_in(entries), self.deadline_seconds)
        assert [entry["status"] for entry in self._finished_in(entries)] == ["SUCCESSFUL"]

    @rule("Django docs, Tasks reference, TaskResult.task", needs="retries")
    def test_a_result_has_the_task_with_its_options(self) -> None:
        """TaskResult.task is the Task that the result was enqueued for; using() keeps the options that it has."""
        task = self._retried().using(queue_name=max(self.backend.queues, default="any"))
        result = task.enqueue(self.journal.path, 1)
        assert result.task == task != tasks.succeed_at
        if self.backend.supports_get_result:
            assert self.backend.get_result(result.id).task == task

    @pytest.mark.parametrize("name", ["hold", "async_hold"])
    @rule(TIMEOUT, needs="timeout")
    def test_a_task_that_runs_for_too_long_has_failed(self, name: str) -> None:
        """After so many seconds the task has FAILED with a TimeoutError, and the worker runs others."""
        if self.refuses(name):
            return
        task = self.with_options(getattr(tasks, name), timeout=0.5)
        with self.working():
            (result,) = self.finished(task.enqueue(self.journal.path, self.file("release")))
            self.release()
            (after,) = self.finished(tasks.add.enqueue(1))
        assert result.status == TaskResultStatus.FAILED
        assert issubclass(result.errors[-1].exception_class, TimeoutError)
        assert after.return_value == 1

    @rule(TIMEOUT, needs="timeout")
    def test_a_task_in_time_succeeds(self) -> None:
        """A time limit does not matter for a task that ends before it."""
        for name in ("add", "async_add"):
            if not self.refuses(name):
                result = self.run(self.with_options(getattr(tasks, name), timeout=LONG_SECONDS), 1)
                assert (result.status, result.return_value) == (TaskResultStatus.SUCCESSFUL, 1)

    @rule(DEATH, needs="survives_worker_death")
    def test_another_worker_runs_the_task_of_a_dead_one(self) -> None:
        """A worker that was killed cannot finish its task: another one runs it, and it never ends in limbo."""
        with self.working() as first:
            result = tasks.hold.enqueue(self.journal.path, self.file("release"))
            self.journal.wait_for(bool, self.deadline_seconds)
            killed_at = timezone.now()
            self.kill_worker(first)
        assert not self.read_result(result).is_finished
        with self.working():
            self.journal.wait_for(lambda entries: len(entries) > 1, self.takeover_seconds)
            self.release()
            finished = self.wait_for(result, self.deadline_seconds)
            (after,) = self.finished(tasks.add.enqueue(1))
        self._is_of_another_worker(finished)
        assert finished.finished_at is not None
        assert finished.finished_at > killed_at
        assert after.return_value == 1

    def _is_of_another_worker(self, result: AnyTaskResult) -> None:
        assert (result.status, result.return_value) == (TaskResultStatus.SUCCESSFUL, "released")
        assert len(set(result.worker_ids)) == 2, "the dead worker and the one that finished the task"

    def _retried(self) -> Any:
        return self.with_options(tasks.succeed_at, max_attempts=3, backoff=0)

    def _attempts(self) -> list[dict[str, Any]]:
        return [entry for entry in self.journal.read() if "attempt" in entry]

    def _finished_in(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [entry for entry in entries if entry.get("signal") == "task_finished"]
