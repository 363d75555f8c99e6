"""
Defining and modifying tasks: what `@task` and `using()` take, and what they refuse.

Owns these rules. They hold before anything is enqueued.
"""

import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings
from django.core import checks

from realtime.extras import extra
from realtime.tasks.conformance import tasks
from realtime.tasks.conformance.base import Suite, rule
from realtime.tasks.django_api import (
    DEFAULT_TASK_QUEUE_NAME,
    BaseTaskBackend,
    InvalidTask,
    InvalidTaskBackend,
    Task,
    task,
    task_backends,
)

with extra("conformance"):
    import pytest

__all__ = ["DefiningTasks"]

DEFINING = "Django docs, Tasks framework, Defining Tasks"
MODIFYING = "Django docs, Tasks framework, Modifying Tasks"
TASK = "Django docs, Tasks reference, Task"
BACKENDS = "Django docs, Tasks reference, Backends"
SETTING = "Django docs, Settings, TASKS"


class DefiningTasks(Suite):
    """The rules about Task objects."""

    @rule(BACKENDS)
    def test_the_backend_is_a_task_backend(self) -> None:
        """A Task backend is a class that inherits BaseTaskBackend. It knows its alias in TASKS."""
        assert isinstance(self.backend, BaseTaskBackend)
        assert self.backend.alias == self.alias

    @rule(SETTING)
    def test_the_backend_has_the_queues_and_options_of_the_setting(self) -> None:
        """QUEUES are the names that the backend takes, by default "default" alone; OPTIONS are its options."""
        setting = task_backends.settings[self.alias]
        assert set(self.backend.queues) == set(setting.get("QUEUES", [DEFAULT_TASK_QUEUE_NAME]))
        assert self.backend.options == setting.get("OPTIONS", {})

    @rule("Django docs, System check framework")
    def test_the_backend_passes_its_own_system_checks(self) -> None:
        """`check()` returns messages; a backend that works has no error among them."""
        messages = list(self.backend.check())
        assert all(isinstance(message, checks.CheckMessage) for message in messages)
        assert [message for message in messages if message.is_serious()] == []

    @rule(DEFINING)
    def test_the_decorator_returns_a_task(self) -> None:
        """The return value of the decorator is a Task instance, with the backend that was named."""
        made = task(backend=self.alias)(tasks.function("add"))
        assert isinstance(made, Task)
        assert made.get_backend() is self.backend
        assert (made.backend, made.priority, made.queue_name, made.run_after) == (self.alias, 0, "default", None)

    @rule(TASK)
    def test_a_task_is_named_after_its_function(self) -> None:
        """Task.name is the name of the function decorated with task()."""
        assert tasks.add.name == "add"

    @rule(TASK)
    def test_a_task_cannot_be_changed(self) -> None:
        """Attributes of Task cannot be modified."""
        made = tasks.add
        for name, value in {"priority": 1, "backend": "other", "queue_name": "other", "run_after": None}.items():
            with pytest.raises(AttributeError):
                setattr(made, name, value)

    @rule(DEFINING)
    def test_only_a_function_of_a_module_can_be_a_task(self) -> None:
        """Tasks are defined on a module-level function; another callable is an InvalidTask."""

        def local() -> None:
            pass

        for wrong in (local, self.test_only_a_function_of_a_module_can_be_a_task, len):
            with pytest.raises(InvalidTask):
                task(backend=self.alias)(wrong)

    @rule("Django docs, Tasks framework, Task context")
    def test_a_task_with_context_takes_it_first(self) -> None:
        """To receive the context, the function takes a `context` argument; without it, takes_context is invalid."""
        with pytest.raises(InvalidTask):
            task(backend=self.alias, takes_context=True)(tasks.function("add"))
        assert task(backend=self.alias, takes_context=True)(tasks.function("describe")).takes_context

    @rule(TASK)
    def test_a_priority_is_a_whole_number_from_minus_100_to_100(self) -> None:
        """Priorities are between -100 and 100; supports_priority must be True to use another than 0."""
        if self.backend.supports_priority:
            assert [tasks.add.using(priority=value).priority for value in (-100, 0, 100)] == [-100, 0, 100]
        else:
            for value in (-1, 1, 100):
                with pytest.raises(InvalidTask):
                    tasks.add.using(priority=value)
        for wrong in (-101, 101, 1.5):
            with pytest.raises(InvalidTask):
                tasks.add.using(priority=wrong)  # type: ignore[arg-type]

    @rule(TASK)
    def test_a_queue_is_one_of_the_setting(self) -> None:
        """queue_name must match a queue defined in QUEUES, unless QUEUES is set to []."""
        for name in self.backend.queues:
            assert tasks.add.using(queue_name=name).queue_name == name
        if self.backend.queues:
            with pytest.raises(InvalidTask):
                tasks.add.using(queue_name="a queue that the setting does not have")
        else:
            assert tasks.add.using(queue_name="any").queue_name == "any"

    @rule(TASK)
    def test_an_earliest_time_needs_a_backend_that_defers(self) -> None:
        """The backend must have supports_defer to use run_after. Otherwise, InvalidTask is raised."""
        later = datetime.now(UTC) + timedelta(hours=1)
        if self.backend.supports_defer:
            assert tasks.add.using(run_after=later).run_after == later
        else:
            with pytest.raises(InvalidTask):
                tasks.add.using(run_after=later)

    @rule(TASK)
    def test_an_earliest_time_has_a_time_zone(self) -> None:
        """run_after can be a timezone-aware datetime; a naive one is invalid where USE_TZ is set."""
        if settings.USE_TZ:
            with pytest.raises(InvalidTask):
                tasks.add.using(run_after=datetime.now() + timedelta(hours=1))

    @rule(TASK)
    def test_an_earliest_time_is_not_for_the_decorator(self) -> None:
        """`task` has no argument run_after: it is for using()."""
        with pytest.raises(TypeError):
            task(backend=self.alias, run_after=datetime.now(UTC))(tasks.function("add"))  # type: ignore[call-overload]

    @rule(BACKENDS)
    def test_an_async_function_needs_a_backend_that_runs_them(self) -> None:
        """supports_async_task: whether the backend supports enqueueing async functions."""
        if self.backend.supports_async_task:
            assert isinstance(tasks.async_add, Task)
        else:
            with pytest.raises(InvalidTask):
                task(backend=self.alias)(tasks.function("async_add"))

    @rule(MODIFYING)
    def test_using_makes_another_task(self) -> None:
        """A modified instance is created with using(), leaving the original as it is."""
        first = tasks.add
        options = self._options()
        modified = first.using(**options)
        assert modified is not first
        assert {name: getattr(modified, name) for name in options} == options
        assert first == tasks.add
        assert (first.using() == first, first.using() is first) == (True, False)

    @rule(MODIFYING)
    def test_using_keeps_what_it_does_not_name(self) -> None:
        """using() creates a new Task with modified defaults, one after the other too."""
        options = self._options()
        modified = tasks.add
        for name, value in options.items():
            modified = modified.using(**{name: value})
        assert modified == tasks.add.using(**options)

    @rule(TASK)
    def test_a_backend_is_one_of_the_setting(self) -> None:
        """Task.backend must match a backend defined in TASKS."""
        with pytest.raises(InvalidTaskBackend):
            tasks.add.using(backend="a backend that the setting does not have")

    @rule("django/tasks/base.py: Task.call, Task.acall")
    def test_call_runs_the_function_here(self) -> None:
        """call() and acall() run the function in place, whether it is sync or async, and enqueue nothing."""
        assert tasks.add.call(1, b=2) == 3
        assert async_to_sync(tasks.add.acall)(1, b=2) == 3
        if self.backend.supports_async_task:
            assert tasks.async_add.call(1, b=2) == 3
            assert async_to_sync(tasks.async_add.acall)(1, b=2) == 3

    @rule("django/tasks/base.py: Task.__reduce__, of Django 6.1")
    def test_a_task_can_be_pickled(self) -> None:
        """A task is pickled by the path of its function, with its attributes."""
        if not hasattr(Task, "_reconstruct"):
            pytest.skip("Django has this since 6.1")
        modified = tasks.add.using(**self._options())
        assert pickle.loads(pickle.dumps(modified)) == modified  # noqa: S301 - made right here

    def _options(self) -> dict[str, Any]:
        """Arguments of using(), as many as the backend takes."""
        options: dict[str, Any] = {"queue_name": min(self.backend.queues, default="any")}
        if self.backend.supports_priority:
            options["priority"] = 7
        if self.backend.supports_defer:
            options["run_after"] = datetime.now(UTC) + timedelta(hours=1)
        return options
