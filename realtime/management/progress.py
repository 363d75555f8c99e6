"""
The progress bar of long commands; without `rich` there is none.

Owns its appearance. Does not own what is counted.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["progress"]

# With fewer things to do, a bar would disappear before anybody reads it.
SHOWN_ABOVE = 1000


@contextlib.contextmanager
def progress(
    stream: Any, *steps: str, count: int, is_shown: bool | None = None
) -> Iterator[Callable[[str, int], None]]:
    """
    Show a bar on `stream` for each of `steps`; each has `count` things to do.

    Args:
        is_shown: Whether to show the bars; by default if `count` is more than 1000.

    Yields:
        A function to call as advance(step, how many more are done).
    """
    is_hidden = count <= SHOWN_ABOVE if is_shown is None else not is_shown
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        is_hidden = True
    if is_hidden:
        yield lambda step, done: None
        return
    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=stream)) as bars:
        tasks = {step: bars.add_task(step, total=count) for step in steps}
        yield lambda step, done: bars.advance(tasks[step], done)
