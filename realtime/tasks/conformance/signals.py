"""
Signals of the worker: `task_started` and `task_finished`. (`enqueueing` has `task_enqueued`.)

Owns these rules. `tasks` writes the signals to a journal, in whichever process they are sent.
"""

from typing import Any

from realtime.tasks.conformance import tasks
from realtime.tasks.conformance.base import Suite, rule

__all__ = ["SendingSignals"]

STARTED = "Django docs, Signals, task_started"
FINISHED = "Django docs, Signals, task_finished"


class SendingSignals(Suite):
    """The rules about signals. They need a backend that runs tasks."""

    @rule(STARTED)
    def test_a_signal_is_sent_when_a_task_has_started(self) -> None:
        """task_started is sent when a Task has started executing: its status is RUNNING, and it has a worker."""
        result, started, _ = self._signals()
        assert started["sender"] == self._sender()
        assert (started["id"], started["status"]) == (result.id, "RUNNING")
        assert (started["has_started"], started["has_finished"], started["workers"]) == (True, False, 1)

    @rule(FINISHED)
    def test_a_signal_is_sent_when_a_task_has_succeeded(self) -> None:
        """task_finished is sent once a Task has finished executing, with the finished result."""
        result, _, finished = self._signals()
        assert finished["sender"] == self._sender()
        assert (finished["id"], finished["status"]) == (result.id, "SUCCESSFUL")
        assert (finished["has_finished"], finished["errors"], finished["workers"]) == (True, 0, 1)

    @rule(FINISHED)
    def test_a_signal_is_sent_when_a_task_has_failed(self) -> None:
        """task_finished is sent once a Task has finished executing, successfully or otherwise."""
        result, _, finished = self._signals(fails=True)
        assert finished["sender"] == self._sender()
        assert (finished["id"], finished["status"]) == (result.id, "FAILED")
        assert (finished["has_finished"], finished["errors"]) == (True, 1)

    def _signals(self, **kwargs: bool) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """The result of a task, and its two signals in their order: each was sent once."""
        result = tasks.observed.enqueue(self.journal.path, **kwargs)
        with self.working():
            entries = self.journal.wait_for(lambda entries: len(entries) >= 2, self.deadline_seconds)
            # What would be sent again would be sent before the signals of a later task.
            tasks.observed.enqueue(self.file("later"))
            type(self.journal)(self.file("later")).wait_for(lambda each: len(each) >= 2, self.deadline_seconds)
        entries = self.journal.read()
        assert [entry["signal"] for entry in entries] == ["task_started", "task_finished"]
        return (result, *entries)

    def _sender(self) -> str:
        return tasks.path_of(type(self.backend))
