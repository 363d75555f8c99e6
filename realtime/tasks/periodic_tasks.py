"""
Periodic tasks: `periodic` declares that a task runs again and again.

Owns the declarations and their registry. Does not own the ticks (schedule) nor enqueuing (scheduler).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.utils.module_loading import autodiscover_modules

from realtime.tasks.django_api import AnyTask, InvalidTask, Task, normalize_json
from realtime.tasks.schedule import CronSchedule, IntervalSchedule, Schedule

__all__ = ["PeriodicTask", "all_periodic_tasks", "periodic"]

NAME_LIMIT = 200

# All declarations by name, in order of declaration.
_declared: dict[str, "PeriodicTask"] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodicTask:
    """
    A task and when it runs.

    Attributes:
        name: Unique in the project. Redis stores the last tick under this name.
        task: What is enqueued at each tick, with `run_after` set to the tick.
        schedule: When it runs.
        args, kwargs: The arguments of each call.
    """

    name: str
    task: AnyTask
    schedule: Schedule
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any]


def periodic[T: AnyTask](
    *,
    cron: str = "",
    every_seconds: float | None = None,
    time_zone: str = "",
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    name: str = "",
) -> Callable[[T], T]:
    """
    Let a task run again and again. Use it above `@task`, or call it with a task, in the `tasks.py` of an app::

        @periodic(cron="0 3 * * *")
        @task
        def tidy(): ...

        periodic(every_seconds=60, args=["mail"], name="measure mail")(measure)

    Args:
        cron: The minute, the hour, the day of the month, the month and the day of the week, as for cron. When clocks
            are turned forward, a tick at a time that does not exist comes right after the change: one at 02:30 comes
            at 03:00. When they are turned back, a tick at a time that exists twice comes the first time only. But if
            the minute or the hour begins with `*`, the ticks follow the time that passes, and none is skipped or
            moved. Cron needs the extra `tasks`.
        every_seconds: Instead of `cron`: the time between two ticks, at least a second. Ticks are counted from the
            start of 1970 in UTC, so it does not matter when workers start.
        time_zone: The time zone of `cron`, for example "Europe/Zurich"; by default settings.TIME_ZONE.
        args, kwargs: The arguments of each call.
        name: Unique in the project; by default the path of the task. If you rename the function, keep the name.

    Returns:
        A function that takes the task and returns it as it is: it can still be called and enqueued.

    Raises:
        InvalidTask: The schedule or the arguments are not valid, or there is another periodic task of this name.
        ExtraMissing: `cron` needs a library that is not installed; says how to install it.
        TypeError: The decorated function is not a task.

    Guarantees:
        No tick is enqueued twice, on any number of machines, as long as Redis keeps its data. Like any task, it may
        run again if its worker dies. A run finds its tick in `context.task_result.task.run_after`. Ticks are missed
        while no worker runs, while Redis is unavailable, and for up to ten seconds after the death of the worker that
        enqueues them. Afterwards only the latest missed tick is enqueued; after 90 days without a worker, none is. A
        new or changed schedule begins with the first tick after a worker has seen it. If the task has a `unique_key`,
        a tick is skipped while the run of an earlier one has not finished.
    """
    if bool(cron) == (every_seconds is not None):
        raise InvalidTask("a periodic task has either cron or every_seconds.")
    if time_zone and not cron:
        raise InvalidTask("time_zone is for cron: every_seconds does not depend on time zones.")
    schedule: Schedule
    if every_seconds is None:
        schedule = CronSchedule(cron, time_zone or settings.TIME_ZONE)
    else:
        schedule = IntervalSchedule(every_seconds)

    def declare(task: T) -> T:
        if not isinstance(task, Task):
            raise TypeError(f"{task!r} is not a task: put @periodic above @task")
        try:
            if isinstance(args, str | bytes):
                raise TypeError("args is a text: write a list")
            call: Any = normalize_json([[*args], dict(kwargs or {})])
        except (TypeError, ValueError) as error:
            raise InvalidTask(f"the arguments of the periodic task {task.module_path} are no JSON: {error}.") from error
        _declare(
            PeriodicTask(
                name=name or task.module_path, task=task, schedule=schedule, args=tuple(call[0]), kwargs=call[1]
            )
        )
        return task

    return declare


def all_periodic_tasks(backend: str) -> Sequence[PeriodicTask]:
    """
    Import the `tasks.py` of all apps, and find the periodic tasks of a backend, in order of declaration.

    Raises:
        InvalidTask: A declaration is not valid. Any other error of these modules propagates too.
    """
    autodiscover_modules("tasks")
    return tuple(each for each in _declared.values() if each.task.backend == backend)


def _declare(declared: PeriodicTask) -> None:
    if len(declared.name) > NAME_LIMIT:
        raise InvalidTask(f"the name of the periodic task {declared.name!r} has more than {NAME_LIMIT} characters.")
    known = _declared.get(declared.name)
    # A module that is imported again declares its tasks again.
    if known is not None and _facts(known) != _facts(declared):
        raise InvalidTask(
            f"there are two periodic tasks {declared.name!r}, of {known.task.module_path} and "
            f'{declared.task.module_path}: give one of them a name, as in periodic(…, name="tidy at night").'
        )
    _declared[declared.name] = declared


def _facts(declared: PeriodicTask) -> tuple[Any, ...]:
    return declared.task.module_path, declared.schedule.text, declared.args, declared.kwargs
