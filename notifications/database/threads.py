"""
Thread pools that can be closed and then used again, and a thread that keeps its database connection.

Owns when threads start and end, and when the connection is closed. Does not own the calls.
"""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from channels.db import DatabaseSyncToAsync
from django.db import connections

__all__ = ["DatabaseThread", "Threads"]

# A connection serves calls for this long, or until there was no call for IDLE_SECONDS: the database may be restarted
# meanwhile.
KEEP_SECONDS = 60
IDLE_SECONDS = 5.0


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


class DatabaseThread:
    """
    A thread for the database calls of one event loop.

    It keeps its connection between calls, because opening one costs as much as a small call.

    Args:
        name: The prefix of its name.
    """

    def __init__(self, *, name: str) -> None:
        self._threads = Threads(1, name=name)
        # Closes the connection, unless there is another call before.
        self._idle: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def call[**Parameters, Answer](
        self, function: Callable[Parameters, Answer], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Answer:
        """Call a sync function in the thread."""
        in_thread = DatabaseSyncToAsync(_kept(function), thread_sensitive=False, executor=self._threads.executor)
        self._cancel_idle()
        try:
            answer: Answer = await in_thread(*args, **kwargs)
        finally:
            self._cancel_idle()
            if self._is_closed:
                # This call began after close(), or was still running then. The event loop may end before any timer.
                self.close()
            else:
                self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._close_connections)
        return answer

    def close(self) -> None:
        """
        End the thread and its connection after the present calls. Idempotent.

        Later calls still work, each in a thread and with a connection of its own.
        """
        self._is_closed = True
        self._cancel_idle()
        self._close_connections()
        self._threads.close()

    def _close_connections(self) -> None:
        self._threads.executor.submit(connections.close_all)

    def _cancel_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()


def _kept[**Parameters, Answer](function: Callable[Parameters, Answer]) -> Callable[Parameters, Answer]:
    """
    The function, but the connections that it opens serve several calls, unless the project says for how long.

    With Django's default, they would be closed after each call, as at the end of a request.
    """

    @functools.wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Answer:
        for connection in connections.all():
            if connection.settings_dict["CONN_MAX_AGE"] == 0:
                # The dictionary is shared with other threads.
                connection.settings_dict = {**connection.settings_dict, "CONN_MAX_AGE": KEEP_SECONDS}
        return function(*args, **kwargs)

    return call
