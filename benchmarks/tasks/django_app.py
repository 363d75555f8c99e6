"""
The tasks for every backend of Django's `django.tasks`, ours too; `benchmarks.tasks.django_settings` says which one.

Owns their definitions and the calls: `enqueue` and `get_result` are Django's own.
"""

from typing import Any

import django
from django.apps import apps
from django.tasks import default_task_backend, task

from benchmarks.tasks.ledger import Ledger

__all__ = ["ENQUEUE", "nothing", "read_result", "sleep"]

# In a worker its management command has done so.
if not apps.ready:
    django.setup()

LEDGER = Ledger.of_environment()


@task
def nothing(number: int) -> int:
    """Do nothing."""
    return LEDGER.run(number, 0.0)


@task
def sleep(number: int) -> int:
    """Sleep for 1 ms."""
    return LEDGER.run(number, 0.001)


ENQUEUE = {"nothing": nothing.enqueue, "sleep": sleep.enqueue}
_TASKS = {"nothing": nothing, "sleep": sleep}


def read_result(handle: Any) -> Any:
    """Ask the backend, as a web page would."""
    return default_task_backend.get_result(handle.id).return_value


# Django has no call for many. A backend's own is used where it has one: a list of (task, args, kwargs).
if hasattr(default_task_backend, "enqueue_many"):

    def enqueue_many(name: str, numbers: range) -> None:
        """All of them in one call of the backend."""
        default_task_backend.enqueue_many([(_TASKS[name], (number,), {}) for number in numbers])
