"""
Waits for the end of a task, in sync and in async code.

Owns one Redis connection for all waits of this process, and the thread that reads it. Does not own results
(backend).
"""

import asyncio
import concurrent.futures
import os
import threading

import redis.asyncio

from realtime.conf import get_settings, join_embedded_server, keys
from realtime.exceptions import SubscriptionGap
from realtime.pubsub.multiplexer import Multiplexer
from realtime.redis import clients
from realtime.redis.outage import Outage
from realtime.tasks.django_api import AnyTaskResult, TaskResultDoesNotExist

__all__ = ["await_result", "wait"]


def wait(result: AnyTaskResult, timeout: float | None = None) -> AnyTaskResult:
    """
    Wait until a task has finished, and refresh `result`.

    Args:
        result: What `enqueue` or `get_result` returned.
        timeout: The longest wait, in seconds; None waits for ever. Outages of Redis do not end a wait.

    Returns:
        The same `result`, finished: SUCCESSFUL or FAILED.

    Raises:
        TimeoutError: The task has not finished by then. `result` is as it was.
        TaskResultDoesNotExist: There is no such task (any more). In a transaction, it may not be enqueued yet.
        TasksUnavailable: The task has finished, but Redis did not answer when its result was read.

    Guarantees:
        It does not poll: Redis notifies this process. All waits of a process share one connection.
    """
    if result.is_finished:
        return result
    future = _room().submit(result)
    try:
        is_found = future.result(timeout)
    except concurrent.futures.TimeoutError:
        raise TimeoutError(f"the task {result.id} has not finished within {timeout:g} s") from None
    finally:
        future.cancel()
    if not is_found:
        raise TaskResultDoesNotExist(
            f"there is no task {result.id}: it has expired, or its transaction was not committed"
        )
    result.refresh()
    return result


async def await_result(result: AnyTaskResult, timeout: float | None = None) -> AnyTaskResult:  # noqa: ASYNC109 - a twin
    """The async twin of `wait`. Cancelling it ends this wait only."""
    if result.is_finished:
        return result
    room = await asyncio.to_thread(_room)
    try:
        async with asyncio.timeout(timeout):
            is_found = await asyncio.wrap_future(room.submit(result))
    except TimeoutError:
        raise TimeoutError(f"the task {result.id} has not finished within {timeout:g} s") from None
    if not is_found:
        raise TaskResultDoesNotExist(
            f"there is no task {result.id}: it has expired, or its transaction was not committed"
        )
    await result.arefresh()
    return result


class _WaitingRoom:
    """
    A thread with an event loop, which has one pub/sub connection for all waits of the process.

    Args:
        url: Where Redis is.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._outage = Outage("Redis, for the results of tasks,")
        self._loop = asyncio.new_event_loop()
        # Why it could not start.
        self._error: Exception | None = None
        # Set when the loop has started.
        self._client: redis.asyncio.Redis
        self._multiplexer: Multiplexer
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=[started], name="signalbox task results", daemon=True)
        self._thread.start()
        started.wait()
        if self._error is not None:
            raise self._error

    def submit(self, result: AnyTaskResult) -> "concurrent.futures.Future[bool]":
        """Wait for a task. The result is False if there is no such task. Cancelling ends the wait."""
        queue = result.id.rpartition(".")[0]
        waiting = self._wait(keys().task(queue, result.id), keys().task_channel(result.id))
        return asyncio.run_coroutine_threadsafe(waiting, self._loop)

    def close(self) -> None:
        """End all waits and the thread. For tests."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _wait(self, key: str, channel: str) -> bool:
        async with self._multiplexer.subscribe(channel) as subscription:
            # The status is read after subscribing, so that no end is missed in between.
            while True:
                status = await self._outage.until_done(self._client.hget, key, "status")
                if status is None or status in (b"SUCCESSFUL", b"FAILED"):
                    return status is not None
                try:
                    await subscription.receive()
                except SubscriptionGap:
                    # The end of the task may have been published during the gap.
                    continue

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._start())
        except Exception as error:
            self._error = error
            return
        finally:
            started.set()
        self._loop.run_forever()

    async def _start(self) -> None:
        self._client = clients.async_publisher(self._url)
        self._multiplexer = Multiplexer(
            clients.async_reader(self._url), publisher=self._client, probe_channel=keys().probe_channel()
        )
        await self._multiplexer.__aenter__()

    async def _stop(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await self._multiplexer.stop()
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.aclose()


# (Redis URL, process id) → its waiting room. A forked process has no threads of its parent, so it makes its own.
_rooms: dict[tuple[str, int], _WaitingRoom] = {}
_making = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_making.acquire, after_in_parent=_making.release, after_in_child=_making.release)


def _room() -> _WaitingRoom:
    join_embedded_server()
    place = (get_settings().redis_url, os.getpid())
    with _making:
        found = _rooms.get(place)
        if found is None:
            found = _rooms[place] = _WaitingRoom(place[0])
        return found
