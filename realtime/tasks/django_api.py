"""
The Tasks framework under one name: `django.tasks` of Django 6.0 and newer, else the backport `django_tasks`.

Owns which of the two is used, and the error if there is neither. Does not own a backend. Everything else that needs
the framework imports it from here, so that a process uses one of them only.
"""

import importlib.util
import shlex
import sys
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured

__all__ = [
    "DEFAULT_TASK_BACKEND_ALIAS",
    "DEFAULT_TASK_PRIORITY",
    "DEFAULT_TASK_QUEUE_NAME",
    "DJANGO_TASKS",
    "TASK_MAX_PRIORITY",
    "TASK_MIN_PRIORITY",
    "TASK_REFRESH_ATTRS",
    "AnyTask",
    "AnyTaskContext",
    "AnyTaskResult",
    "BaseTaskBackend",
    "DummyBackend",
    "ImmediateBackend",
    "InvalidTask",
    "InvalidTaskBackend",
    "Task",
    "TaskContext",
    "TaskError",
    "TaskException",
    "TaskResult",
    "TaskResultDoesNotExist",
    "TaskResultMismatch",
    "TaskResultStatus",
    "TasksMissing",
    "default_task_backend",
    "normalize_json",
    "task",
    "task_backends",
    "task_enqueued",
    "task_finished",
    "task_started",
]


class TasksMissing(ImproperlyConfigured, ImportError):
    """Neither Django nor the backport provides the Tasks framework in this environment."""

    def __init__(self) -> None:
        super().__init__(
            "background tasks need Django 6.0 or newer, or its backport: run "
            f'{shlex.quote(sys.executable)} -m pip install "django-tasks>=0.12"'
        )


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


if TYPE_CHECKING or _is_installed("django.tasks"):
    from django.tasks import default_task_backend, task, task_backends
    from django.tasks.backends.base import BaseTaskBackend
    from django.tasks.backends.dummy import DummyBackend
    from django.tasks.backends.immediate import ImmediateBackend
    from django.tasks.base import (
        DEFAULT_TASK_BACKEND_ALIAS,
        DEFAULT_TASK_PRIORITY,
        DEFAULT_TASK_QUEUE_NAME,
        TASK_MAX_PRIORITY,
        TASK_MIN_PRIORITY,
        TASK_REFRESH_ATTRS,
        Task,
        TaskContext,
        TaskError,
        TaskResult,
        TaskResultStatus,
    )
    from django.tasks.exceptions import (
        InvalidTask,
        InvalidTaskBackend,
        TaskException,
        TaskResultDoesNotExist,
        TaskResultMismatch,
    )
    from django.tasks.signals import task_enqueued, task_finished, task_started
    from django.utils.json import normalize_json
elif _is_installed("django_tasks"):
    from django_tasks import default_task_backend, task, task_backends
    from django_tasks.backends.base import BaseTaskBackend
    from django_tasks.backends.dummy import DummyBackend
    from django_tasks.backends.immediate import ImmediateBackend
    from django_tasks.base import (
        DEFAULT_TASK_BACKEND_ALIAS,
        DEFAULT_TASK_PRIORITY,
        DEFAULT_TASK_QUEUE_NAME,
        TASK_MAX_PRIORITY,
        TASK_MIN_PRIORITY,
        TASK_REFRESH_ATTRS,
        Task,
        TaskContext,
        TaskError,
        TaskResult,
        TaskResultStatus,
    )
    from django_tasks.exceptions import InvalidTaskBackendError as InvalidTaskBackend
    from django_tasks.exceptions import InvalidTaskError as InvalidTask
    from django_tasks.exceptions import TaskException, TaskResultDoesNotExist, TaskResultMismatch
    from django_tasks.signals import task_enqueued, task_finished, task_started
    from django_tasks.utils import normalize_json
else:
    raise TasksMissing

# The package that is used: "django.tasks" or "django_tasks". The dotted paths of Django's own backends begin with it.
DJANGO_TASKS = BaseTaskBackend.__module__.partition(".backends")[0]

# For annotations: these classes are generic for type checkers only.
type AnyTask = Task[..., Any]
type AnyTaskContext = TaskContext[..., Any]
type AnyTaskResult = TaskResult[..., Any]
