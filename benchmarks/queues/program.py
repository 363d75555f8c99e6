"""
The command line of a queue's program: `python -m benchmarks.queues.NAME enqueue|work URL LEDGER COUNT [WORD…]`.

Owns these words. Does not own what a library does with them.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.queues.ledger import Ledger

__all__ = ["run"]


def run(
    enqueue: Callable[[str, int], None],
    work: Callable[..., None],
    words: Sequence[str] | None = None,
) -> None:
    """
    Do what the command line says.

    Args:
        enqueue: Called with the URL of Redis and how many jobs to append, numbered from 0.
        work: Called with the URL, the ledger and the further words; works until the process is ended.
    """
    action, url, path, count, *more = words or sys.argv[1:]
    if action == "enqueue":
        enqueue(url, int(count))
    else:
        work(url, Ledger(Path(path), int(count)), *more)
