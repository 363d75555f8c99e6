"""
What became of each job: a byte for each in a file that the worker's processes and the benchmark share.

Owns that file. Plain Python, as the other libraries' programs write it from a virtualenv of their own.
"""

import mmap
from pathlib import Path

__all__ = ["Ledger"]


class Ledger:
    """
    How often each job was run.

    Args:
        path: The file.
        count: How many jobs there are, numbered from 0.
    """

    def __init__(self, path: Path, count: int) -> None:
        self.count = count
        if not path.exists():
            path.write_bytes(bytes(count))
        with path.open("r+b") as file:
            self._runs = mmap.mmap(file.fileno(), count)

    def mark(self, number: int) -> None:
        """This job runs now. Costs a tenth of a microsecond, in any process or thread."""
        self._runs[number] += 1

    def done_count(self) -> int:
        """How many jobs have run."""
        return self.count - self._runs[:].count(0)

    def doubled_count(self) -> int:
        """How many have run more than once."""
        return self.done_count() - self._runs[:].count(1)
