"""
What became of each task: when it was enqueued, when it began and ended, and how often it ran.

Owns the file that the worker, the enqueuing process and the benchmark share. Plain Python, as the other libraries'
programs write it from a virtualenv of their own. Times are of the monotonic clock, which on Linux is the same in all
processes.
"""

import mmap
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

__all__ = ["Ledger"]

_TIME_BYTES = 8


class Ledger:
    """
    The times of each task, numbered from 0.

    Args:
        path: The file.
        count: How many tasks there are.

    Attributes:
        enqueued_ns, begun_ns, ended_ns: By number; 0 if it has not happened. A task that ran twice has its last times.
    """

    def __init__(self, path: Path, count: int) -> None:
        self.count = count
        if not path.exists():
            path.write_bytes(bytes(count * (3 * _TIME_BYTES + 1)))
        with path.open("r+b") as file:
            self._file = mmap.mmap(file.fileno(), 0)
        size = count * _TIME_BYTES
        view = memoryview(self._file)
        self.enqueued_ns, self.begun_ns, self.ended_ns = (
            view[start : start + size].cast("q") for start in (0, size, 2 * size)
        )
        self._runs = view[3 * size :]

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The one that `environment_of` names."""
        return cls(Path(environment["BENCHMARK_LEDGER"]), int(environment["BENCHMARK_TASKS"]))

    @staticmethod
    def environment_of(path: Path, count: int) -> dict[str, str]:
        """The variables by which a program finds its ledger."""
        return {"BENCHMARK_LEDGER": str(path), "BENCHMARK_TASKS": str(count)}

    def run(self, number: int, seconds: float) -> int:
        """Be the task of this number: sleep for this time, or not at all. Returns the number."""
        self.begun_ns[number] = time.monotonic_ns()
        if seconds:
            time.sleep(seconds)
        self.ended_ns[number] = time.monotonic_ns()
        self._runs[number] += 1
        return number

    def done_count(self, numbers: range | None = None) -> int:
        """How many of these tasks have run; of all, if None."""
        numbers = range(self.count) if numbers is None else numbers
        return len(numbers) - bytes(self._runs[numbers.start : numbers.stop]).count(0)

    def doubled_count(self) -> int:
        """How many have run more than once."""
        return self.done_count() - bytes(self._runs).count(1)

    def seconds_of(self, numbers: range, since: Sequence[int]) -> float:
        """
        Until the last of these tasks ended.

        Args:
            since: The times of which the first is the beginning: `begun_ns` or `enqueued_ns`.
        """
        begins = [begin for begin in since[numbers.start : numbers.stop] if begin]
        return (max(self.ended_ns[numbers.start : numbers.stop]) - min(begins)) / 1e9 if begins else 0.0

    def waits_ms(self, numbers: range) -> list[float]:
        """From enqueuing to beginning, of those of which both are known, in ascending order."""
        return sorted(
            (self.begun_ns[number] - self.enqueued_ns[number]) / 1e6
            for number in numbers
            if self.begun_ns[number] and self.enqueued_ns[number]
        )
