"""
Thread pools that can be closed and then used again.

Owns when their threads start and end. Does not own the calls.
"""

import functools
from concurrent.futures import ThreadPoolExecutor

__all__ = ["Threads"]


class Threads:
    """
    A pool of threads, which start when they are needed.

    Args:
        limit: The most threads.
        name: The prefix of their names.

    Attributes:
        executor: Runs the calls. `close()` replaces it, so do not keep a reference to it.
    """

    def __init__(self, limit: int, *, name: str) -> None:
        self._make = functools.partial(ThreadPoolExecutor, limit, thread_name_prefix=name)
        self.executor = self._make()

    def close(self) -> None:
        """
        Let each thread end after its current call, without waiting for it. New threads start if the pool is used again.

        Idempotent. A call that hangs keeps its thread.
        """
        ended, self.executor = self.executor, self._make()
        ended.shutdown(wait=False)
