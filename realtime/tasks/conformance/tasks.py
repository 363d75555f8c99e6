"""
The tasks that the suite enqueues.

`tasks.add` is a Task, as if `@task` had made it in this module, so a worker finds it by its path. It is made when it is
asked for: `@task` asks a backend of the `TASKS` setting whether it takes the task, and this module must be importable
with every setting. A test chooses the backend by `bound_to`. Elsewhere it is `default`, or else the first that takes
the task; a worker binds the task to its own backend.

Owns what the tasks do. Does not own what is expected of them.
"""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from django.conf import settings
from django.db import connection

from realtime.tasks.conformance.journal import Journal, await_file, wait_for_file
from realtime.tasks.django_api import (
    DEFAULT_TASK_BACKEND_ALIAS,
    AnyTask,
    AnyTaskContext,
    AnyTaskResult,
    InvalidTask,
    task,
    task_finished,
    task_started,
)

__all__ = ["ProjectError", "UnprintableError", "bound_to", "declare", "function", "path_of"]

# A task that waits for its test gives up after this time, for example because the test has failed.
PATIENCE_SECONDS = 60.0

# The functions of the tasks, by name, and whether they take the context.
_functions: dict[str, tuple[Callable[..., Any], bool]] = {}
_bound_aliases: list[str] = []


class ProjectError(Exception):
    """An error of a project; it cannot be made again from its `args`, so it cannot be unpickled."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"error {code}")


class UnprintableError(Exception):
    """An error whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("this error has no text")


def path_of(cls: type) -> str:
    """Where a class is imported from."""
    return f"{cls.__module__}.{cls.__qualname__}"


@contextlib.contextmanager
def bound_to(alias: str) -> Iterator[None]:
    """While this is open, the tasks of this module are on this backend of `TASKS`, in this process."""
    _bound_aliases.append(alias)
    try:
        yield
    finally:
        _bound_aliases.remove(alias)


def function(name: str) -> Callable[..., Any]:
    """The function of a task."""
    return _functions[name][0]


def declare(name: str, *, alias: str, **options: Any) -> AnyTask:
    """What `@task(backend=alias, **options)` makes of a function of this module."""
    declared, takes_context = _functions[name]
    if takes_context:
        options["takes_context"] = True
    made: AnyTask = task(backend=alias, **options)(declared)
    return made


def __getattr__(name: str) -> AnyTask:
    if name not in _functions:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _bound_aliases:
        return declare(name, alias=_bound_aliases[-1])
    aliases = list(getattr(settings, "TASKS", {}))
    aliases.sort(key=lambda alias: alias != DEFAULT_TASK_BACKEND_ALIAS)
    for alias in aliases:
        with contextlib.suppress(InvalidTask):
            return declare(name, alias=alias)
    raise AttributeError(f"no backend in TASKS takes the task {name!r}")


def _declared(*, takes_context: bool = False) -> Callable[[Callable[..., Any]], AnyTask]:
    def register(declared: Callable[..., Any]) -> Any:
        _functions[declared.__name__] = (declared, takes_context)
        return declared

    return register


# Values -----------------------------------------------------------------------------------------------------------


@_declared()
def add(a: int, b: int = 0) -> int:
    """Return the sum."""
    return a + b


@_declared()
async def async_add(a: int, b: int = 0) -> int:
    """Return the sum, after a turn of the event loop."""
    await asyncio.sleep(0)
    return a + b


@_declared()
def echo(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return the arguments, and the type of each positional one."""
    return {"args": args, "kwargs": kwargs, "types": [type(arg).__name__ for arg in args]}


@_declared()
def give(name: str) -> Any:
    """Return a value that is no JSON, or not yet."""
    return {
        "tuple": (1, (2, 3)),
        "bytes": "Grüße".encode(),
        "object": object(),
        "set": {1},
        "nested set": {"deep": [{1}]},
    }[name]


@_declared()
def append_to(items: list[Any]) -> list[Any]:
    """Change the argument itself, and return it."""
    items.append("changed by the task")
    return items


# The context and the surroundings ---------------------------------------------------------------------------------


def _described(context: AnyTaskContext) -> dict[str, Any]:
    result = context.task_result
    return {
        "attempt": context.attempt,
        "id": result.id,
        "status": str(result.status),
        "args": result.args,
        "kwargs": result.kwargs,
        "has_started": result.started_at is not None,
        "worker_ids": result.worker_ids,
    }


@_declared(takes_context=True)
def describe(context: AnyTaskContext, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return what the context says, and the arguments after it."""
    return {**_described(context), "received_args": args, "received_kwargs": kwargs}


@_declared(takes_context=True)
async def async_describe(context: AnyTaskContext, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Likewise, in an async task."""
    return {**_described(context), "received_args": args, "received_kwargs": kwargs}


@_declared()
async def loop_is_running() -> bool:
    """Whether this runs on the event loop that asyncio says is running."""
    done = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(done.set_result, True)
    return bool(await done)


@_declared()
def query_database() -> int:
    """Ask the database, which Django refuses where an event loop is running."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        (answer,) = cursor.fetchone()
    return int(answer)


@_declared()
def enqueue_another(a: int, b: int, alias: str) -> str:
    """Enqueue `add` on this backend, and return the id of its result."""
    return declare("add", alias=alias).enqueue(a, b).id


@_declared()
async def async_enqueue_another(a: int, b: int, alias: str) -> str:
    """Likewise, in an async task."""
    return (await declare("add", alias=alias).aenqueue(a, b)).id


# What they do, written to a journal -------------------------------------------------------------------------------


@_declared()
def note(journal: str, entry: Any) -> None:
    """Write an entry to the journal."""
    Journal(journal).write(entry)


@_declared()
def observed(journal: str, *, fails: bool = False) -> str:
    """Do nothing special: this module writes the signals of this task to its journal."""
    if fails:
        raise ValueError("it was asked to fail")
    return "done"


@_declared(takes_context=True)
def hold(context: AnyTaskContext, journal: str, release: str) -> str:
    """Write to the journal that it has begun, and go on when there is a file `release`."""
    Journal(journal).write({"began": context.task_result.id, "process": os.getpid(), "attempt": context.attempt})
    wait_for_file(release, PATIENCE_SECONDS)
    return "released"


@_declared()
async def async_hold(journal: str, release: str) -> str:
    """Likewise, without holding up the event loop."""
    Journal(journal).write({"began": "async_hold"})
    await await_file(release, PATIENCE_SECONDS)
    return "released"


@_declared()
def meet(journal: str, name: str, others: int) -> str:
    """Return when so many others have begun too."""
    Journal(journal).write({"met": name})
    Journal(journal).wait_for(lambda entries: len(entries) > others, PATIENCE_SECONDS)
    return name


# Failures ---------------------------------------------------------------------------------------------------------


def _raise(name: str) -> NoReturn:
    match name:
        case "ValueError":
            raise ValueError("the task failed on purpose: Grüße")
        case "ProjectError":
            raise ProjectError(code=7)
        case "UnprintableError":
            raise UnprintableError
        case "SystemExit":
            raise SystemExit(3)
        case "KeyboardInterrupt":
            raise KeyboardInterrupt
        case "CancelledError":
            raise asyncio.CancelledError
        case "GeneratorExit":
            raise GeneratorExit
        case "RecursionError":
            _raise(name)
    raise LookupError(name)


@_declared()
def fail(name: str) -> None:
    """Raise this error."""
    _raise(name)


@_declared()
async def async_fail(name: str) -> None:
    """Raise this error in an async task."""
    await asyncio.sleep(0)
    _raise(name)


@_declared()
def fail_with_cause() -> None:
    """Raise an error from another one."""
    try:
        raise LookupError("the cause")
    except LookupError as error:
        raise ValueError("the consequence") from error


@_declared(takes_context=True)
def succeed_at(context: AnyTaskContext, journal: str, attempt: int) -> int:
    """Fail before this attempt. The journal gets the number of each attempt, and what the result says in it."""
    errors = len(context.task_result.errors)
    Journal(journal).write({"attempt": context.attempt, "errors": errors, "at": time.time()})
    if context.attempt < attempt:
        raise ValueError(f"attempt {context.attempt} fails on purpose")
    return context.attempt


# Signals ----------------------------------------------------------------------------------------------------------


def _observe(signal: str) -> Callable[..., None]:
    def receive(sender: object, task_result: AnyTaskResult, **_: Any) -> None:
        if task_result.task.func in (function("observed"), function("succeed_at")):
            Journal(task_result.args[0]).write(
                {
                    "signal": signal,
                    "sender": path_of(sender) if isinstance(sender, type) else repr(sender),
                    "id": task_result.id,
                    "status": str(task_result.status),
                    "has_started": task_result.started_at is not None,
                    "has_finished": task_result.finished_at is not None,
                    "errors": len(task_result.errors),
                    "workers": len(task_result.worker_ids),
                    "thread": threading.current_thread().name,
                }
            )

    return receive


# In each process that imports the tasks: the worker sends these signals, and it may be another process than the test.
for _name, _signal in {"task_started": task_started, "task_finished": task_finished}.items():
    _signal.connect(_observe(_name), weak=False, dispatch_uid=f"{__name__}.{_name}")

# A worker that imports the path of a task must get a Task, which `__getattr__` makes, and not the function.
for _name in _functions:
    del globals()[_name]
