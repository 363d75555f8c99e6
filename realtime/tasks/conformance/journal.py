"""
A file to which tasks write what they do, and from which a test reads it.

Owns its form: a line of JSON for each entry. A worker may run in another thread or process of this machine. Does not
own what is written.
"""

import asyncio
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Journal", "await_file", "wait_for_file"]

TICK_SECONDS = 0.01


class Journal:
    """
    What happened, in order.

    Attributes:
        path: The file, as text: the argument by which a task knows it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)

    def write(self, entry: Any) -> None:
        """Append an entry; those of several processes do not mix."""
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, json.dumps(entry).encode() + b"\n")
        finally:
            os.close(file)

    def read(self) -> list[Any]:
        """All entries so far."""
        try:
            lines = Path(self.path).read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    def wait_for(self, fact: Callable[[list[Any]], object], seconds: float) -> list[Any]:
        """
        Wait until `fact(entries)` is true.

        Raises:
            TimeoutError: It has not become true in time.
        """
        deadline = time.monotonic() + seconds
        while not fact(entries := self.read()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {seconds} s the tasks have written only {entries}")
            time.sleep(TICK_SECONDS)
        return entries


def wait_for_file(path: str, seconds: float) -> None:
    """
    Wait until somebody has made this file.

    Raises:
        TimeoutError: Nobody has, in time.
    """
    deadline = time.monotonic() + seconds
    while not Path(path).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} was not made within {seconds} s")
        time.sleep(TICK_SECONDS)


async def await_file(path: str, seconds: float) -> None:
    """The async twin of `wait_for_file`."""
    deadline = time.monotonic() + seconds
    while not os.path.exists(path):  # noqa: ASYNC240 - a moment, on the file system of the machine
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} was not made within {seconds} s")
        await asyncio.sleep(TICK_SECONDS)
