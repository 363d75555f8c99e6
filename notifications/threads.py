"""
Threads of one purpose, which begin when they are needed and end when who uses them has stopped.

Owns their beginning and end. Does not own what runs in them.
"""

import functools
from concurrent.futures import ThreadPoolExecutor

__all__ = ["Threads"]


class Threads:
    """
    Args:
        limit: The most there may be.
        name: What each of them is called, with a number.

    Attributes:
        executor: Where to submit calls. Another one after `close()`: do not keep it.
    """

    def __init__(self, limit: int, *, name: str) -> None:
        self._make = functools.partial(ThreadPoolExecutor, limit, thread_name_prefix=name)
        self.executor = self._make()

    def close(self) -> None:
        """
        Let each thread end when its call has; nobody waits for that. Others begin if they are used again.

        Idempotent. A call that hangs keeps its thread.
        """
        ended, self.executor = self.executor, self._make()
        ended.shutdown(wait=False)
