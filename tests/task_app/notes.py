"""
A file in which every run of a task writes a line when it begins and one when it ends.

Owns the file and its lines. Does not own what they mean (each test). The file is not in Redis, so that it is complete
whatever happens to Redis. A line that a process has written stays, however the process ends.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Note", "noted", "read_notes"]

BEGIN, END, RAISED = "begin", "end", "raised"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """
    One line.

    Attributes:
        what: "begin", "end" or "raised".
        task, attempt, worker: As in the task's context.
        pid: Of the worker.
        at: When, in seconds since 1970.
    """

    what: str
    task: str
    attempt: int
    worker: str
    pid: int
    at: float


@contextlib.contextmanager
def noted(context: Any) -> Iterator[None]:
    """Note the run of the task of a context."""
    _note(BEGIN, context)
    try:
        yield
    except BaseException:
        _note(RAISED, context)
        raise
    _note(END, context)


def read_notes(path: Path) -> list[Note]:
    """All lines, in the order in which they were written."""
    return [Note(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def _note(what: str, context: Any) -> None:
    result = context.task_result
    line = {
        **{"what": what, "task": result.id, "attempt": context.attempt, "worker": result.worker_ids[-1]},
        **{"pid": os.getpid(), "at": time.time()},
    }
    file = os.open(os.environ["TASK_NOTES"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(file, f"{json.dumps(line)}\n".encode())
    finally:
        os.close(file)
