"""The task functions of the tests. They note what ran in `calls`, and wait at `gates` that the tests open."""

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from django.db import connection, connections

from realtime.exceptions import PermanentError, Retry
from realtime.tasks.django_api import TaskContext, task

# What ran, in order.
calls: list[Any] = []
# Name → a gate: tasks with this name wait until it is set. A test that has begun one opens it, also when it fails.
gates: defaultdict[str, threading.Event] = defaultdict(threading.Event)

# What `fail` and `afail` raise.
ERRORS: dict[str, Callable[[], BaseException]] = {
    "value": lambda: ValueError("no good"),
    "exit": lambda: SystemExit(3),
    "interrupt": lambda: KeyboardInterrupt(),
    "generator": lambda: GeneratorExit(),
    "cancelled": lambda: asyncio.CancelledError(),
    "stop": lambda: StopIteration(),
    "timeout": lambda: TimeoutError("of its own"),
    "permanent": lambda: PermanentError("never"),
    "retry": lambda: Retry(0.0),
    "nan": lambda: Retry(float("nan")),
    "infinite": lambda: Retry(float("inf")),
    "negative": lambda: Retry(-1.0),
    "surrogates": lambda: ValueError("a lone \ud800 surrogate"),
    "long": lambda: ValueError("x" * 1_000_000),
    "unprintable": lambda: Unprintable(),
    "group": lambda: ExceptionGroup("several", [ValueError("one"), TypeError("two")]),
    "local": lambda: type("Local", (Exception,), {"__module__": None})("made on the fly"),
}

# What `give` returns.
VALUES: dict[str, Callable[[], Any]] = {
    "object": object,
    "nan": lambda: float("nan"),
    "set": lambda: {1, 2},
    "huge": lambda: "x" * 300_000,
    "deep": lambda: nested(100_000),
    "digits": lambda: 10**5000,
    "bytes": lambda: b"\xff",
}


class Unprintable(Exception):
    """An error whose text cannot be made."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def nested(depth: int) -> Any:
    """A list in a list, and so on."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@task
def add(a: int, b: int) -> int:
    return a + b


@task
async def aadd(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


@task
def nothing() -> None: ...


@task
def echo(*args: Any, **kwargs: Any) -> Any:
    return [args, kwargs]


@task
def note(name: Any) -> None:
    calls.append(name)


@task
async def anote(name: Any) -> None:
    calls.append(name)


@task
def hold(name: str) -> str:
    """Wait at a gate, in C: no error can be raised there."""
    calls.append(name)
    assert gates[name].wait(60)
    return name


@task
def hold_each(name: str) -> int:
    """As `hold`, but each attempt waits at a gate of its own, "name 1" and so on. Returns its number."""
    calls.append(name)
    number = calls.count(name)
    assert gates[f"{name} {number}"].wait(60)
    return number


@task
def spin(name: str) -> str:
    """Wait at a gate, in Python code."""
    calls.append(name)
    while not gates[name].is_set():
        time.sleep(0.005)
    return name


@task
async def ahold(name: str) -> str:
    calls.append(name)
    while not gates[name].is_set():  # noqa: ASYNC110 - threads share the gate
        await asyncio.sleep(0.005)
    return name


@task
async def aheld_with_end(kind: str) -> None:
    """Wait until it is cancelled, and take a moment to end: with one of ERRORS, if there is such a kind."""
    calls.append(kind)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await asyncio.sleep(0.05)
        calls.append(f"end {kind}")
    if kind:
        raise ERRORS[kind]()


@task
async def aunstoppable(name: str) -> str:
    """As `ahold`, however often it is cancelled."""
    calls.append(name)
    while not gates[name].is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.005)
    return name


@task
def fail(kind: str) -> None:
    calls.append(kind)
    raise ERRORS[kind]()


@task
async def afail(kind: str) -> None:
    calls.append(kind)
    raise ERRORS[kind]()


@task
def fail_times(name: str, count: int) -> int:
    """Fail so many times, then return how many attempts there were."""
    calls.append(name)
    if calls.count(name) <= count:
        raise ValueError(f"attempt {calls.count(name)}")
    return calls.count(name)


@task
def give(kind: str) -> Any:
    calls.append(kind)
    return VALUES[kind]()


@task(takes_context=True)
def context_of(context: TaskContext, name: str) -> Any:
    return [name, context.attempt, context.task_result.id, str(context.task_result.status)]


@task
def stubborn(name: str) -> str:
    """Catch whatever is raised in it, once."""
    try:
        while not gates[name].is_set():
            time.sleep(0.005)
    except Exception as error:
        return type(error).__name__
    return name


@task
def query() -> int:
    """Open a connection to the database, and note its wrapper."""
    calls.append(connections["default"])
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return cursor.fetchone()[0]


@task
def deadly(name: str) -> None:
    """End the process, as a crash in a library would."""
    os.kill(os.getpid(), signal.SIGKILL)


@task
def process_of(name: str, seconds: float = 0.0) -> int:
    """The id of the process, after some time."""
    time.sleep(seconds)
    return os.getpid()


def no_task() -> None:
    """A function without the decorator."""


@task
async def cancel_itself() -> None:
    """What the function of an async task may do by mistake."""
    current = asyncio.current_task()
    assert current is not None
    current.cancel()
    await asyncio.sleep(0)


@task
def quote(password: Any) -> None:
    """Fail with an error that quotes the argument, as it is and by repr()."""
    raise ValueError(f"{password!r} is wrong\n{password}")
