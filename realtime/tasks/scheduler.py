"""
Scheduler: enqueues periodic tasks, each tick once.

Owns when it looks for ticks, and which of them it asks Redis to enqueue. Does not own the ticks (schedule), the lease
that makes one process look (service), nor the decision whether a tick is enqueued: a script in Redis takes it (store).
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import redis.asyncio
from django.core.exceptions import ImproperlyConfigured

from realtime.exceptions import TaskQueueFull
from realtime.redis.outage import Outage
from realtime.tasks.backend import RedisStreamBackend
from realtime.tasks.django_api import AnyTaskResult
from realtime.tasks.periodic_tasks import PeriodicTask
from realtime.tasks.store import Request, TaskQueue, Tick

__all__ = ["Scheduler", "check_periodic_tasks"]

logger = logging.getLogger(__name__)

# The longest time between two looks. Without any tick due, a look still finds ticks that Redis has lost together with
# its last writes, and notices that a clock has jumped.
LOOK_SECONDS = 10.0
# How often the record of a task without new ticks is renewed: it must not expire while a worker knows the task.
RENEW_SECONDS = 86_400.0


class Scheduler:
    """
    Enqueues the ticks of periodic tasks. Run it while a lease is held. Two at a time enqueue nothing twice, but the
    second one only costs commands.

    Args:
        backend: The backend of the tasks.
        tasks: The periodic tasks.
        client: A client for short commands (`clients.async_publisher`).
        outage: The state of Redis, shared by all its users in the process.
    """

    def __init__(
        self,
        backend: RedisStreamBackend,
        tasks: Sequence[PeriodicTask],
        client: redis.asyncio.Redis,
        *,
        outage: Outage,
    ) -> None:
        self._backend, self._client, self._outage = backend, client, outage
        self._tasks_by_queue: dict[str, list[PeriodicTask]] = {}
        for task in tasks:
            self._tasks_by_queue.setdefault(task.task.queue_name, []).append(task)
        # Task → when this process last asked Redis to enqueue a tick of it, on the monotonic clock.
        self._asked_at: dict[str, float] = {}
        # The tasks whose latest tick was refused because their queue is full, so that this is logged once.
        self._refused: set[str] = set()
        # Task → the time between two ticks of the last look.
        self._periods: dict[str, _Period] = {}

    async def run(self) -> None:
        """Enqueue ticks until cancelled."""
        # Called again when the lease is: another process may have enqueued ticks in between.
        self._asked_at.clear()
        while True:
            now = await self._outage.until_done(self._now)
            await self.look(now)
            await asyncio.sleep(self._pause_seconds(await self._outage.until_done(self._now)))

    async def look(self, now: datetime) -> None:
        """Enqueue the latest tick of each task that has come by now, unless this was done before."""
        for name, tasks in self._tasks_by_queue.items():
            queue = self._backend.queue(name)
            names = [task.name for task in tasks]
            last_ticks = await self._outage.until_done(queue.last_ticks, self._client, names)
            for task, last in zip(tasks, last_ticks, strict=True):
                tick = self._tick(task, now)
                # If the last tick is in the future, a clock was wrong: the script decides.
                is_done = last is not None and last[0] == tick.schedule and tick.moment_ms <= last[1] <= tick.looked_ms
                if not is_done or self._must_renew(task):
                    await self._enqueue(queue, task, tick)

    # ------------------------------------------------------------------------------------------------------------------

    async def _enqueue(self, queue: TaskQueue, task: PeriodicTask, tick: Tick) -> None:
        try:
            call = _prepare_call(self._backend, task, tick.moment_ms)
        except Exception:
            # The other tasks go on, and the next look tries this one again.
            logger.exception("the periodic task %s cannot be enqueued", task.name)
            return
        try:
            found = await self._outage.until_done(queue.atick, self._client, call.request, tick)
        except TaskQueueFull as error:
            if task.name not in self._refused:
                logger.error("the periodic task %s waits: %s", task.name, error)
                self._refused.add(task.name)
            return
        self._asked_at[task.name] = time.monotonic()
        self._refused.discard(task.name)
        if found is None:
            return
        if found[0] == call.result.id:
            logger.info("the periodic task %s: enqueued as %s", task.name, found[0])
        else:
            logger.warning("the periodic task %s: a tick was skipped, because %s is unfinished", task.name, found[0])
        try:
            await self._backend.note_tick(call.result, found)
        except Exception:
            logger.exception("a receiver of task_enqueued failed for the task %s", found[0])

    def _tick(self, task: PeriodicTask, now: datetime) -> Tick:
        """The latest tick that has come; the start of 1970 if none has."""
        period = self._periods.get(task.name)
        if period is None or not period.start <= now or (period.end is not None and period.end <= now):
            latest = task.schedule.latest(now)
            period = _Period(now if latest is None else latest, task.schedule.following(now), latest)
            self._periods[task.name] = period
        moment_ms = 0 if period.tick is None else round(period.tick.timestamp() * 1000)
        return Tick(task.name, task.schedule.text, moment_ms, int(now.timestamp() * 1000))

    def _must_renew(self, task: PeriodicTask) -> bool:
        asked_at = self._asked_at.get(task.name)
        return asked_at is None or time.monotonic() - asked_at > RENEW_SECONDS

    async def _now(self) -> datetime:
        """The time of Redis, which is the same for all processes."""
        seconds, microseconds = await self._client.time()
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)

    def _pause_seconds(self, now: datetime) -> float:
        """The time until the next tick of any task, at most LOOK_SECONDS."""
        ends = [period.end for period in self._periods.values() if period.end is not None]
        seconds = min(((end - now).total_seconds() for end in ends), default=LOOK_SECONDS)
        # A millisecond more, so that the tick has come when the pause ends.
        return min(max(0.0, seconds) + 0.001, LOOK_SECONDS)


class _Period(NamedTuple):
    """The time from the latest tick to the next one. `tick` is the latest, or None; `end` the next, or None."""

    start: datetime
    end: datetime | None
    tick: datetime | None


class _Call(NamedTuple):
    """The call of a periodic task at a tick."""

    result: AnyTaskResult
    request: Request


def check_periodic_tasks(backend: RedisStreamBackend, tasks: Sequence[PeriodicTask]) -> None:
    """
    Raises:
        ImproperlyConfigured: A task cannot be enqueued as it is declared; names it and says why.
    """
    for task in tasks:
        try:
            _prepare_call(backend, task, 0)
        except Exception as error:
            raise ImproperlyConfigured(f"the periodic task {task.name}: {error}") from error


def _prepare_call(backend: RedisStreamBackend, task: PeriodicTask, moment_ms: int) -> _Call:
    moment = datetime.fromtimestamp(moment_ms / 1000, UTC)
    return _Call(*backend.prepare_tick(task.task, task.args, task.kwargs, moment))
