"""
Runs the attempts of a worker: sync tasks in threads, async tasks on the event loop.

Owns the threads, the timeouts of sync tasks, and how many tasks are fetched ahead. Does not own what an attempt does
(attempt), nor Redis (worker).
"""

import asyncio
import contextlib
import ctypes
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from asgiref.sync import sync_to_async
from django.db import close_old_connections, connections

from realtime.exceptions import TaskTimedOut
from realtime.tasks.attempt import Attempt

__all__ = ["AHEAD_LIMIT", "FETCH_LIMIT", "Runner"]

logger = logging.getLogger(__name__)

# For each thread, tasks are fetched ahead that take this long together, so that no thread waits for Redis.
AHEAD_SECONDS = 0.02
# If tasks take this long, none are fetched ahead.
LONG_SECONDS = 10 * AHEAD_SECONDS
# Before an async task, database connections that are too old or broken are closed, if this time has passed since.
CONNECTIONS_SECONDS = 1.0
# The most tasks that are fetched ahead, and the most that are fetched at a time. This way some tasks run while others
# are being fetched, and the ends of others are being recorded.
AHEAD_LIMIT = 1000
FETCH_LIMIT = 250
# Tasks that were fetched ahead and have not begun after this time are given back to other workers.
GIVE_BACK_SECONDS = 1.0
# If a sync task still runs this long after its timeout, its thread is given up.
STUCK_SECONDS = 5.0
# Async tasks that are cancelled because the worker ends have this time to end.
CANCEL_SECONDS = 0.5


class Runner:
    """
    Runs attempts, at most `concurrency` sync ones and as many async ones at a time.

    Args:
        concurrency: How many sync tasks run at a time, each in a thread; and how many async tasks.
        on_done: Called on the event loop with attempts that have an outcome.
        on_given_back: Called on the event loop with attempts that were submitted and will not run.
    """

    def __init__(
        self,
        concurrency: int,
        *,
        on_done: Callable[[Sequence[Attempt]], None],
        on_given_back: Callable[[Sequence[Attempt]], None],
    ) -> None:
        self.concurrency = concurrency
        # How many threads still run a task that was given up.
        self.stuck_count = 0
        self._on_done, self._on_given_back = on_done, on_given_back
        self._loop = asyncio.get_running_loop()
        # What waits for a thread: an attempt, another call, or None, which ends a thread.
        self._waiting: queue.SimpleQueue[Attempt | Callable[[], None] | None] = queue.SimpleQueue()
        # When each thread began the attempt that it runs.
        self._running: dict[_Thread, float] = {}
        # Async attempts that wait, and the tasks of those that run, each with when it began.
        self._async_waiting: deque[Attempt] = deque()
        self._tasks: dict[asyncio.Task[None], float] = {}
        # Attempts that have ended in threads, and whether `_collect` is about to run on the event loop.
        self._done: deque[Attempt] = deque()
        self._is_collecting = False
        # The average time of a task, in seconds; newer ones count more. At first, nothing is fetched ahead.
        self._usual_seconds = LONG_SECONDS
        # When the waiting attempts began to wait, or when another one last ended.
        self._began_waiting_at = 0.0
        self._is_stopping = False
        # When the database connections of async tasks were last checked.
        self._connections_checked_at = -math.inf
        # Once async tasks are cancelled: how long to wait for their ends, by the monotonic clock.
        self._cancelled_until: float | None = None
        # True if the last look at what waits was so late that it could not tell whether tasks are long.
        self._was_held_up = False
        for _ in range(concurrency):
            _Thread(self).start()
        self._look_later()

    # Room -------------------------------------------------------------------------------------------------------------

    def room(self, unfinished_count: int, ending_count: int = 0) -> int:
        """
        How many more tasks to fetch; 0 also if they are not worth a call to Redis.

        Args:
            unfinished_count: How many run, or wait for it.
            ending_count: How many others have ended while Redis has not confirmed it. The first ones, as many as may be
                unfinished, take no room. The others do, so that a slow Redis slows down fetching.
        """
        ahead = self._ahead()
        most = self.concurrency + ahead
        taken = unfinished_count + max(0, ending_count - most)
        room = most - taken
        is_worth_a_call = taken < self.concurrency or room >= min(ahead / 2, FETCH_LIMIT) > 0
        return min(room, FETCH_LIMIT) if is_worth_a_call else 0

    def _ahead(self) -> int:
        now = time.monotonic()
        began_at = [*self._running.copy().values(), *self._tasks.values()]
        seconds = max(self._usual_seconds, now - min(began_at, default=now))
        return min(AHEAD_LIMIT, int(self.concurrency * AHEAD_SECONDS / seconds)) if seconds < LONG_SECONDS else 0

    # Running ----------------------------------------------------------------------------------------------------------

    def submit(self, attempts: Sequence[Attempt]) -> None:
        """Run attempts that are prepared."""
        if self._is_stopping:
            self._on_given_back(attempts)
            return
        if self._waiting.empty() and not self._async_waiting:
            self._began_waiting_at = time.monotonic()
        over: list[Attempt] = []
        for attempt in attempts:
            if attempt.outcome is not None:
                over.append(attempt)
            elif attempt.is_async:
                self._async_waiting.append(attempt)
            else:
                self._waiting.put(attempt)
        self._start_async()
        if over:
            self._on_done(over)

    def call(self, function: Callable[[], None]) -> None:
        """Call a function in a thread, after what is already waiting for one. It must not raise."""
        self._waiting.put(function)

    def stop(self) -> None:
        """Begin no further attempt, and give back those that have not begun. Idempotent."""
        self._is_stopping = True
        self.give_back()

    def give_back(self) -> None:
        """Give back all attempts that have not begun."""
        if attempts := self._withdraw():
            self._on_given_back(attempts)

    def _withdraw(self) -> list[Attempt]:
        """Take out all attempts that have not begun."""
        attempts = [*self._async_waiting]
        self._async_waiting.clear()
        calls: list[Callable[[], None]] = []
        try:
            while True:
                found = self._waiting.get_nowait()
                if isinstance(found, Attempt):
                    attempts.append(found)
                elif found is not None:
                    calls.append(found)
        except queue.Empty:
            pass
        for call in calls:
            self._waiting.put(call)
        return attempts

    async def cancel(self) -> None:
        """Begin no further attempt, cancel async tasks, and wait a moment until they have ended. Idempotent."""
        self._is_stopping = True
        if self._cancelled_until is None:
            self._cancelled_until = time.monotonic() + CANCEL_SECONDS
            for task in self._tasks:
                task.cancel()
        if self._tasks:
            await asyncio.wait([*self._tasks], timeout=max(0.0, self._cancelled_until - time.monotonic()))

    async def close(self) -> None:
        """
        Cancel async tasks, and let threads end when they are idle. Waits for no thread that runs a task, and only a
        moment for async tasks that do not end.
        """
        self._give_back_timer.cancel()
        # Some attempts have not begun if the worker ends by an error.
        self._withdraw()
        await self.cancel()
        for task in self._tasks:
            logger.error("the %s was cancelled because the worker ends, and goes on all the same", task.get_name())
        for _ in range(self.concurrency):
            self._waiting.put(None)

    def _give_back_late(self) -> None:
        # All threads are busy with long tasks. What waits behind them may begin sooner in other workers. But if this
        # process was held up, short tasks may have ended without it having noticed: it looks again a moment later.
        now = time.monotonic()
        self._was_held_up = not self._was_held_up and now - self._looked_at > 1.25 * GIVE_BACK_SECONDS
        is_late = not self._was_held_up and now - self._began_waiting_at > GIVE_BACK_SECONDS
        if is_late and max(len(self._running), len(self._tasks)) >= self.concurrency:
            self.give_back()
        self._look_later()

    def _look_later(self) -> None:
        self._looked_at = time.monotonic()
        self._give_back_timer = self._loop.call_later(GIVE_BACK_SECONDS, self._give_back_late)

    def _start_async(self) -> None:
        while self._async_waiting and len(self._tasks) < self.concurrency:
            attempt = self._async_waiting.popleft()
            task = self._loop.create_task(self._arun(attempt), name=f"task {attempt.id}")
            self._tasks[task] = time.monotonic()
            task.add_done_callback(self._async_ended)

    async def _arun(self, attempt: Attempt) -> None:
        now = time.monotonic()
        if now - self._connections_checked_at > CONNECTIONS_SECONDS:
            self._connections_checked_at = now
            # Those of the thread in which Django runs the ORM's queries of async code.
            await sync_to_async(_close_connections)(close_old_connections)
        await attempt.arun(is_cancelled=lambda: self._cancelled_until is not None)
        self._on_done([attempt])

    def _async_ended(self, task: asyncio.Task[None]) -> None:
        now = time.monotonic()
        self._count(now - self._tasks.pop(task))
        self._began_waiting_at = now
        if not self._is_stopping:
            self._start_async()

    def _count(self, seconds: float) -> None:
        self._usual_seconds += 0.1 * (seconds - self._usual_seconds)

    # Called in threads ------------------------------------------------------------------------------------------------

    def ended(self, attempt: Attempt, seconds: float) -> None:
        """A thread has run an attempt."""
        self._count(seconds)
        self._done.append(attempt)
        if not self._is_collecting:
            self._is_collecting = True
            # The loop is closed if the worker ended while this task ran. Then another worker runs the task again.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._collect)

    def _collect(self) -> None:
        self._is_collecting = False
        done: list[Attempt] = []
        while self._done:
            done.append(self._done.popleft())
        self._began_waiting_at = time.monotonic()
        if done:
            self._on_done(done)


class _Thread(threading.Thread):
    """A thread that runs attempts, one after another."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(name="task", daemon=True)
        self._runner = runner
        # Held while an attempt begins, ends, or gets a timeout.
        self._lock = threading.Lock()
        # The attempt that runs now, and may be interrupted.
        self._attempt: Attempt | None = None
        # The timer of the newest attempt with a timeout. Used on the event loop only.
        self._timer: asyncio.TimerHandle | None = None

    def run(self) -> None:
        waiting = self._runner._waiting
        while (found := waiting.get()) is not None:
            if not isinstance(found, Attempt):
                found()
            elif not self._run(found):
                self._runner.stuck_count -= 1
                break
        _close_connections(connections.close_all)

    def _run(self, attempt: Attempt) -> bool:
        """Run an attempt. Returns False if the thread was given up meanwhile, and must end."""
        runner = self._runner
        began = runner._running[self] = time.monotonic()
        _close_connections(close_old_connections)
        self._attempt = attempt
        if attempt.timeout is None:
            attempt.run()
            self._attempt = None
        else:
            self._run_in_time(attempt, attempt.timeout)
        _close_connections(close_old_connections)
        if runner._running.pop(self, None) is None:
            return False
        runner.ended(attempt, time.monotonic() - began)
        return True

    def _run_in_time(self, attempt: Attempt, timeout: float) -> None:
        """Run an attempt that TaskTimedOut may interrupt at any point."""
        try:
            self._runner._loop.call_soon_threadsafe(self._set_timer, attempt, timeout)
            attempt.run()
            self._seal()
        except TaskTimedOut:
            # It reached this thread when the attempt had just ended. It is raised once only.
            self._seal()
        if attempt.outcome is None:
            attempt.fail(TaskTimedOut(timeout))

    def _seal(self) -> None:
        """From now on the attempt is not interrupted."""
        with self._lock:
            self._attempt = None
            # Take back an interruption that has not been raised yet.
            _raise_in(self, None)

    def _set_timer(self, attempt: Attempt, timeout: float) -> None:
        """Called on the event loop when an attempt with a timeout has begun."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._runner._loop.call_later(timeout, self._interrupt, attempt)

    def _interrupt(self, attempt: Attempt) -> None:
        """Called on the event loop: the time of an attempt is over."""
        with self._lock:
            if self._attempt is not attempt:
                return
            _raise_in(self, TaskTimedOut)
        self._runner._loop.call_later(STUCK_SECONDS, self._give_up, attempt)

    def _give_up(self, attempt: Attempt) -> None:
        """Called on the event loop: the function does not run Python code, so it cannot be interrupted."""
        with self._lock:
            if self._attempt is not attempt:
                return
            self._attempt = None
            self._runner._running.pop(self, None)
        logger.error(
            "the task %s still runs %g s after its timeout: it has failed, and its thread is given up",
            attempt.id,
            STUCK_SECONDS,
        )
        self._runner.stuck_count += 1
        # Another attempt would run beside this one, which still runs.
        attempt.give_up(TaskTimedOut(attempt.timeout or 0.0))
        self._runner._on_done([attempt])
        _Thread(self._runner).start()


def _close_connections(close: Callable[[], None]) -> None:
    """Close connections to the database. Errors are logged."""
    try:
        close()
    except Exception:
        logger.exception("a connection to the database could not be closed")


def _raise_in(thread: threading.Thread, error: type[BaseException] | None) -> None:
    """Raise an error in a thread as soon as it runs Python code; None takes back one that has not been raised."""
    target = ctypes.py_object(error) if error is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), target)
