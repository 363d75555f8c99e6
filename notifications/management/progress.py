"""The bar that long commands show on the terminal. Owns its looks, not what is counted."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["progress"]

# A bar for fewer would be gone before anybody reads it.
PROGRESS_FROM = 1000


@contextlib.contextmanager
def progress(what: str, count: int, stream: Any) -> Iterator[Callable[[int], None]]:
    """A bar on `stream` for `count` things; yields what is called with how many more are done."""
    columns = (TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=stream), disable=count < PROGRESS_FROM) as bars:
        task = bars.add_task(what, total=count)
        yield lambda done: bars.advance(task, done)
