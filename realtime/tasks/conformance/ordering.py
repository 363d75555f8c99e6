"""
Order and time: priorities, the earliest time of a task, several workers.

Owns these rules. Those about workers do not apply where tasks run within `enqueue()`.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from realtime.extras import extra
from realtime.tasks.conformance import tasks
from realtime.tasks.conformance.base import Suite, now_ms, rule
from realtime.tasks.django_api import InvalidTask, TaskResultStatus

with extra("conformance"):
    import pytest

__all__ = ["OrderingTasks"]

PRIORITY = "Django docs, Tasks reference, Task.priority"
RUN_AFTER = "Django docs, Tasks reference, Task.run_after"
WORKERS = "Django docs, Tasks framework, Background Task fundamentals"
# How far ahead a deferred task is enqueued: long enough for a worker to run another one.
AHEAD = timedelta(seconds=2)


class OrderingTasks(Suite):
    """The rules about which task runs when."""

    @rule(PRIORITY)
    def test_a_higher_priority_runs_sooner(self) -> None:
        """Larger numbers are higher priority, and will be run sooner. Within enqueue() the value has no effect."""
        priorities = [0, -100, 100, 1, -1, 50] if self.backend.supports_priority else [0]
        for priority in priorities:
            tasks.note.using(priority=priority).enqueue(self.journal.path, priority)
        expected = priorities if self.runs == "immediately" else sorted(priorities, reverse=True)
        assert self._what_runs(len(priorities)) == expected

    @rule("Not documented by Django; what the word queue promises")
    def test_tasks_of_one_priority_run_in_their_order(self) -> None:
        """Tasks with the same priority run in the order in which they were enqueued."""
        for number in range(10):
            tasks.note.enqueue(self.journal.path, number)
        assert self._what_runs(10) == list(range(10))

    @rule(RUN_AFTER)
    def test_a_deferred_task_runs_at_its_time_and_not_before(self) -> None:
        """run_after is the earliest time the Task will be executed. Other tasks run meanwhile."""
        if self._refuses(now_ms()):
            return
        with self.working():
            # The worker has started, which may take a while.
            tasks.note.enqueue(self.journal.path, "first")
            self.journal.wait_for(bool, self.deadline_seconds)
            due = now_ms() + AHEAD
            deferred = tasks.note.using(run_after=due)
            if self.backend.supports_priority:
                deferred = deferred.using(priority=100)
            later = deferred.enqueue(self.journal.path, "later")
            assert later.task.run_after == due
            tasks.note.enqueue(self.journal.path, "now")
            self.needs_results()
            later = self.wait_for(later, AHEAD.total_seconds() + self.deadline_seconds)
        assert self.journal.read() == ["first", "now", "later"]
        assert later.started_at is not None
        assert later.started_at >= due
        assert later.task.run_after == due

    @rule(RUN_AFTER)
    def test_a_time_in_the_past_is_now(self) -> None:
        """run_after is the earliest time: one that has passed constrains nothing."""
        past = datetime(2000, 1, 1, tzinfo=UTC)
        if self._refuses(past):
            return
        result = self.run(tasks.add.using(run_after=past), 1)
        assert result.status == TaskResultStatus.SUCCESSFUL

    @rule(WORKERS)
    def test_a_worker_finds_what_was_enqueued_before_it_started(self) -> None:
        """A Worker will look at the Queue Store for new Tasks to run; those of before, and those of later."""
        tasks.note.enqueue(self.journal.path, "before")
        with self.working():
            self.journal.wait_for(bool, self.deadline_seconds)
            tasks.note.enqueue(self.journal.path, "meanwhile")
            entries = self.journal.wait_for(lambda entries: len(entries) > 1, self.deadline_seconds)
        assert entries == ["before", "meanwhile"]

    @rule(WORKERS)
    def test_what_a_worker_leaves_is_run_by_the_next(self) -> None:
        """A worker that ends loses no task, and none runs again."""
        for number in range(30):
            tasks.note.enqueue(self.journal.path, number)
        with self.working():
            self.journal.wait_for(bool, self.deadline_seconds)
        with self.working():
            self.journal.wait_for(lambda entries: len(entries) >= 30, self.deadline_seconds)
            tasks.note.enqueue(self.journal.path, 30)
            entries = self.journal.wait_for(lambda entries: 30 in entries, self.deadline_seconds)
        assert sorted(entries) == list(range(31))

    @rule(WORKERS)
    def test_two_workers_share_the_tasks(self) -> None:
        """Each Task is claimed by one Worker. Workers have different ids, and run tasks at the same time."""
        if self.runs == "immediately":
            assert self.run(tasks.add, 1).worker_ids == self.run(tasks.add, 1).worker_ids
            return
        with self.working(), self.working():
            met = self.finished(*(tasks.meet.enqueue(self.journal.path, name, 1) for name in "ab"))
            notes = [tasks.note.enqueue(self.file("notes"), number) for number in range(20)]
            shared = self.finished(*notes)
        assert [each.return_value for each in met] == ["a", "b"]
        ids = {worker_id for each in met for worker_id in each.worker_ids}
        assert len(ids) == 2, "two tasks ran at the same time, so by two workers"
        assert all(len(each.worker_ids) == 1 and set(each.worker_ids) <= ids for each in shared)
        assert sorted(self._journal("notes")) == list(range(20))

    def _refuses(self, run_after: datetime) -> bool:
        """Whether the backend has refused the time, as it must if supports_defer is False."""
        if self.backend.supports_defer:
            return False
        with pytest.raises(InvalidTask):
            tasks.add.using(run_after=run_after)
        return True

    def _what_runs(self, count: int) -> list[Any]:
        with self.working():
            return self.journal.wait_for(lambda entries: len(entries) >= count, self.deadline_seconds)

    def _journal(self, name: str) -> list[Any]:
        return type(self.journal)(self.file(name)).read()
