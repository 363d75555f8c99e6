"""The tasks that the tests' workers run."""

import asyncio
import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

from realtime.exceptions import PermanentError
from realtime.tasks.django_api import TaskContext, task
from tests.task_app.notes import noted

__all__ = [
    "aholds",
    "always_fails",
    "async_nothing",
    "async_waits",
    "blocks_the_loop",
    "fails_at_first",
    "hangs_in_c",
    "holds",
    "kills",
    "quick",
    "rejects",
    "waits",
]

TICK_SECONDS = 0.01
type Context = TaskContext[..., Any]


@task(takes_context=True)
def quick(context: Context, number: int) -> int:
    """Returns its argument at once."""
    with noted(context):
        return number


@task(takes_context=True)
def waits(context: Context, seconds: float) -> float:
    """Takes a while."""
    with noted(context):
        time.sleep(seconds)
        return seconds


@task(takes_context=True)
async def async_waits(context: Context, seconds: float) -> float:
    """Takes a while on the event loop."""
    with noted(context):
        await asyncio.sleep(seconds)
        return seconds


@task(takes_context=True)
async def async_nothing(context: Context) -> None:
    """Returns None at once."""
    with noted(context):
        return


@task(takes_context=True)
def fails_at_first(context: Context, until: int) -> int:
    """Raises an error in the attempts before number `until`, and returns the number of its attempt."""
    with noted(context):
        if context.attempt < until:
            raise ValueError(f"attempt {context.attempt}")
        return context.attempt


@task(takes_context=True)
async def always_fails(context: Context) -> None:
    """Raises an error in every attempt."""
    with noted(context):
        raise ValueError(f"attempt {context.attempt}")


@task(takes_context=True)
def rejects(context: Context) -> None:
    """Fails for good."""
    with noted(context):
        raise PermanentError("this never works")


@task(takes_context=True)
def holds(context: Context, until: str) -> None:
    """Runs until a file exists."""
    with noted(context):
        while not Path(until).exists():
            time.sleep(TICK_SECONDS)


@task(takes_context=True)
async def aholds(context: Context, until: str) -> None:
    """Runs on the event loop until a file exists."""
    with noted(context):
        while not os.path.exists(until):  # noqa: ASYNC110, ASYNC240 - takes no time
            await asyncio.sleep(TICK_SECONDS)


@task(takes_context=True)
async def blocks_the_loop(context: Context, until: str) -> None:
    """Blocks the event loop until a file exists."""
    with noted(context):
        while not os.path.exists(until):  # noqa: ASYNC240 - takes no time
            time.sleep(TICK_SECONDS)  # noqa: ASYNC251 - the mistake that is tested


@task(takes_context=True)
def hangs_in_c(context: Context, seconds: int) -> None:
    """Runs no Python code for a while."""
    with noted(context):
        ctypes.CDLL(None).sleep(seconds)


@task(takes_context=True)
def kills(context: Context, how: str) -> None:
    """Ends the process of its worker."""
    with noted(context):
        if how == "exit":
            os._exit(3)
        if how == "crash":
            ctypes.string_at(0)
        os.kill(os.getpid(), signal.SIGKILL)
