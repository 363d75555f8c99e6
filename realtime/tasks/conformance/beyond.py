"""
Beyond Django: enqueueing on commit and once per key, waiting for a result, tasks that repeat.

Owns these rules, of the capabilities enqueue_on_commit, unique_key, wait and periodic. (`retrying` has the others.)
"""

import asyncio
import contextlib
import time
from typing import Any

from asgiref.sync import async_to_sync
from django.db import transaction

from realtime.extras import extra
from realtime.tasks.conformance import tasks
from realtime.tasks.conformance.base import Suite, rule
from realtime.tasks.conformance.enqueueing import BOTH_WAYS, Enqueue
from realtime.tasks.django_api import AnyTask, TaskResultStatus

with extra("conformance"):
    import pytest

__all__ = ["BeyondDjango"]

ON_COMMIT = "Django docs, Tasks framework, Transactions; the option is beyond Django: enqueue_on_commit"
UNIQUE = "Beyond Django: unique_key"
WAIT = "Beyond Django: wait"
PERIODIC = "Beyond Django: periodic"


class BeyondDjango(Suite):
    """The rules about enqueueing and waiting that Django does not have."""

    @pytest.mark.django_db(transaction=True)
    @rule(ON_COMMIT, needs="enqueue_on_commit")
    def test_a_task_runs_after_the_commit(self) -> None:
        """A worker does not start to process a Task before the transaction that enqueued it has committed."""
        with self.working():
            with transaction.atomic():
                result = self._on_commit().enqueue(self.journal.path, "on commit")
                assert result.status == TaskResultStatus.READY
                self._run_meanwhile(self.with_options(tasks.note, enqueue_on_commit=False))
            entries = self.journal.wait_for(lambda entries: len(entries) > 1, self.deadline_seconds)
            assert entries == ["meanwhile", "on commit"]
            if self.backend.supports_get_result:
                (finished,) = self.finished(result)
                assert finished.status == TaskResultStatus.SUCCESSFUL

    @pytest.mark.parametrize("what", ["transaction", "savepoint"])
    @pytest.mark.django_db(transaction=True)
    @rule(ON_COMMIT, needs="enqueue_on_commit")
    def test_a_task_of_a_transaction_that_is_rolled_back_does_not_run(self, what: str) -> None:
        """What a rolled back transaction or savepoint has enqueued never happened."""
        outer = transaction.atomic() if what == "savepoint" else contextlib.nullcontext()
        with outer, contextlib.suppress(ZeroDivisionError), transaction.atomic():
            self._on_commit().enqueue(self.journal.path, "rolled back")
            raise ZeroDivisionError
        with self.working():
            self._run_meanwhile()
        assert self.journal.read() == ["meanwhile"]

    @pytest.mark.django_db(transaction=True)
    @rule(ON_COMMIT, needs="enqueue_on_commit")
    def test_outside_a_transaction_a_task_is_enqueued_at_once(self) -> None:
        """Without a transaction there is no commit to wait for."""
        result = self.run(self._on_commit(), self.journal.path, "at once")
        assert result.status == TaskResultStatus.SUCCESSFUL

    @pytest.mark.django_db(transaction=True)
    @rule(ON_COMMIT, needs="enqueue_on_commit")
    def test_without_the_option_a_task_does_not_wait_for_the_commit(self) -> None:
        """enqueue_on_commit=False: the task is enqueued within the transaction, whatever becomes of it."""
        with self.working(), contextlib.suppress(ZeroDivisionError), transaction.atomic():
            self.with_options(tasks.note, enqueue_on_commit=False).enqueue(self.journal.path, "at once")
            self.journal.wait_for(bool, self.deadline_seconds)
            raise ZeroDivisionError
        assert self.journal.read() == ["at once"]

    @BOTH_WAYS
    @rule(UNIQUE, needs="unique_key")
    def test_an_unfinished_task_is_not_enqueued_again(self, enqueue: Enqueue) -> None:
        """While a task with this key is unfinished, enqueueing it returns the same result, and it runs once."""
        task = self.with_options(tasks.note, unique_key=self.file("key"))
        results = [enqueue(task, self.journal.path, number) for number in range(3)]
        assert len({result.id for result in results}) == 1
        with self.working():
            self.finished(results[0])
            self._run_meanwhile()
        assert self.journal.read() == [0, "meanwhile"]

    @pytest.mark.parametrize("name", ["add", "fail"])
    @rule(UNIQUE, needs="unique_key")
    def test_a_finished_task_is_enqueued_again(self, name: str) -> None:
        """When the task has finished, successfully or not, its key is free."""
        task = self.with_options(getattr(tasks, name), unique_key=self.file("key"))
        argument = 1 if name == "add" else "ValueError"
        first, second = self.run(task, argument), self.run(task, argument)
        assert first.id != second.id
        assert first.is_finished
        assert second.is_finished

    @rule(UNIQUE, needs="unique_key")
    def test_a_running_task_is_not_enqueued_again(self) -> None:
        """A task that runs is unfinished."""
        task = self.with_options(tasks.hold, unique_key=self.file("key"))
        result = task.enqueue(self.journal.path, self.file("release"))
        with self.working():
            self.journal.wait_for(bool, self.deadline_seconds)
            again = task.enqueue(self.journal.path, self.file("release"))
            self.release()
            self.finished(result)
        assert again.id == result.id
        assert len(self.journal.read()) == 1

    @rule(UNIQUE, needs="unique_key")
    def test_tasks_with_other_keys_are_others(self) -> None:
        """The key may be a function of the arguments; tasks with different keys, or without one, are different."""
        by_entry = self.with_options(tasks.note, unique_key=lambda journal, entry: f"{journal} {entry}")
        a, b, again = (by_entry.enqueue(self.journal.path, entry) for entry in "aba")
        assert (a.id != b.id, a.id == again.id) == (True, True)
        assert tasks.note.enqueue(self.journal.path, "c").id != tasks.note.enqueue(self.journal.path, "c").id

    @rule(WAIT, needs="wait")
    def test_wait_returns_the_finished_result(self) -> None:
        """wait() blocks until the task has finished, successfully or not, and returns its result; a second time too."""
        with self.working():
            for name, argument, status in (
                ("add", 1, TaskResultStatus.SUCCESSFUL),
                ("fail", "ValueError", TaskResultStatus.FAILED),
            ):
                result = getattr(tasks, name).enqueue(argument)
                for _ in range(2):
                    finished = self.wait(result, self.deadline_seconds)
                    assert (finished.id, finished.status) == (result.id, status)

    @rule(WAIT, needs="wait")
    def test_wait_gives_up(self) -> None:
        """If the task does not finish in time, a TimeoutError is raised, and the task is not disturbed."""
        result = tasks.add.enqueue(1)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            self.wait(result, 0.2)
        with pytest.raises(TimeoutError):
            async_to_sync(self.await_result)(result, 0.2)
        assert time.monotonic() - began >= 0.4
        with self.working():
            assert self.wait(result, self.deadline_seconds).return_value == 1

    @rule(WAIT, needs="wait")
    def test_await_result_leaves_the_event_loop_free(self) -> None:
        """`await backend.await_result(…)` returns the finished result; other coroutines run meanwhile."""
        result = tasks.hold.enqueue(self.journal.path, self.file("release"))

        async def wait() -> list[Any]:
            waiting = (self.await_result(result, self.deadline_seconds) for _ in range(2))
            return await asyncio.gather(*waiting, asyncio.to_thread(self._release_when_it_runs))

        with self.working():
            first, second, _ = async_to_sync(wait)()
        assert (first.return_value, second.return_value) == ("released", "released")

    @rule(PERIODIC, needs="periodic")
    def test_a_periodic_task_runs_again_and_again(self) -> None:
        """It runs once each period, however many workers there are."""
        period_seconds = 1.0
        began = time.monotonic()
        with self.periodically(period_seconds, tasks.note, self.journal.path, "tick"), self.working(), self.working():
            entries = self.journal.wait_for(lambda entries: len(entries) >= 3, self.deadline_seconds)
            seconds = time.monotonic() - began
        assert len(entries) <= seconds / period_seconds + 1

    def _release_when_it_runs(self) -> None:
        self.journal.wait_for(bool, self.deadline_seconds)
        self.release()

    def _on_commit(self) -> AnyTask:
        return self.with_options(tasks.note, enqueue_on_commit=True)

    def _run_meanwhile(self, task: AnyTask | None = None) -> None:
        """Enqueue another task, and wait until it has run."""
        (task or tasks.note).enqueue(self.journal.path, "meanwhile")
        self.journal.wait_for(lambda entries: "meanwhile" in entries, self.deadline_seconds)
