"""
The commands to Redis of one task queue.

Owns the calls of the scripts and their replies. Does not own when they are called (backend, worker), nor what happens
after an error of redis-py: it propagates.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import redis
import redis.asyncio

from realtime.exceptions import TaskQueueFull
from realtime.redis import scripts
from realtime.redis.keys import Keys
from realtime.statistics import count
from realtime.streams.keys import WaitingList
from realtime.tasks.record import paired

__all__ = ["ACKED", "GROUP", "LOST", "RECORDED", "Begun", "Outcome", "Request", "TaskQueue", "Tick"]

# The consumer group of the workers of every queue.
GROUP = "workers"
# How long the last tick of a periodic task is kept after the last time that a worker saw the task.
TICK_KEPT_MS = 90 * 86_400_000
# The most tasks in one call of a script: Lua's unpack() passes at most 8000 values.
CALL_LIMIT = 500


def _script(name: str, *needs: str, answer: type | tuple[type, ...]) -> scripts.Script:
    parts = ("streams/waiting_list", *(f"tasks/{part}" for part in ("shared", *needs, name)))
    return scripts.Script(*parts, answer=answer)


_ENQUEUE = _script("enqueue", answer=list)
_TICK = _script("enqueue", "tick", answer=(list, type(None)))
_BEGIN = _script("begin", "finishing", answer=list)
_FINISH = _script("finish", "finishing", answer=list)
_RELEASE = _script("release", "finishing", answer=int)
_RUN_AGAIN = _script("run_again", answer=int)
_DISCARD = _script("discard", "finishing", answer=int)


class Request(NamedTuple):
    """A task to be enqueued."""

    id: str
    # When it is due, in milliseconds since 1970; 0 for now.
    due_ms: int
    priority: int
    # "" if the task has none.
    unique_key: str
    # The most tasks that may wait: if so many do, nothing is enqueued.
    length_limit: int
    # The other fields of the task's hash.
    fields: Mapping[str, bytes | int | str]


class Tick(NamedTuple):
    """A moment at which a periodic task runs."""

    # The periodic task and its schedule.
    name: str
    schedule: str
    # The tick, and the time of Redis when the scheduler looked for it, both in milliseconds since 1970.
    moment_ms: int
    looked_ms: int


class Begun(NamedTuple):
    """The reply of Redis to the beginning of an attempt."""

    # "run"; "over" if there is nothing to do; or "lost" if the task has failed because too many workers died.
    state: str
    # The hash of the task; empty if it is over.
    fields: dict[bytes, bytes]


# The answers of `TaskQueue.finish`.
LOST, RECORDED, ACKED = range(3)


class Outcome(NamedTuple):
    """How an attempt ended."""

    id: str
    claim: bytes
    # "SUCCESSFUL", "FAILED" or "RETRY".
    kind: str
    # As JSON: what the task returned, or its error.
    body: bytes
    # The wait before the next attempt, if there is one.
    delay_ms: int


class TaskQueue:
    """
    Calls the scripts for one queue.

    Args:
        keys: The names of the project in Redis.
        name: The queue.
        keep_successful_seconds, keep_failed_seconds: How long a task is kept after it has finished.
    """

    def __init__(self, keys: Keys, name: str, *, keep_successful_seconds: float, keep_failed_seconds: float) -> None:
        self.name = name
        self.stream = keys.task_queue(name)
        self.waiting_list = WaitingList(waiting=keys.waiting_tasks(name), scheduled=keys.scheduled_tasks(name))
        self.successful, self.failed = keys.successful_tasks(name), keys.failed_tasks(name)
        self._keys = keys
        self._names = [
            self.stream,
            self.waiting_list.waiting,
            self.waiting_list.scheduled,
            self.successful,
            self.failed,
            keys.task(name, ""),
            keys.unique_task(name, ""),
        ]
        keep = (round(keep_successful_seconds * 1000), round(keep_failed_seconds * 1000))
        self._arguments = [GROUP, keys.task_channel(""), *keep]

    def task_key(self, id: str) -> str:
        """The hash of a task."""
        return self._keys.task(self.name, id)

    # Enqueuing: repeating a call with the same id changes nothing -----------------------------------------------------

    def enqueue(self, client: redis.Redis, request: Request) -> tuple[str, int]:
        """
        Enqueue a task.

        Returns:
            Its id, and when it was enqueued, in milliseconds since 1970. If an unfinished task has the same unique key:
            those of that task.

        Raises:
            TaskQueueFull: The queue has reached `length_limit`.
        """
        return self._enqueued(request, _ENQUEUE.run(client, self._names, self._enqueue_arguments(request)))

    async def aenqueue(self, client: redis.asyncio.Redis, request: Request) -> tuple[str, int]:
        """The async twin of `enqueue`."""
        return self._enqueued(request, await _ENQUEUE.arun(client, self._names, self._enqueue_arguments(request)))

    def enqueue_many(self, client: redis.Redis, requests: Sequence[Request]) -> list[tuple[str, int] | None]:
        """Enqueue tasks in few round trips. For each: as `enqueue`, or None if the queue was full."""
        replies: list[list[bytes]] = []
        for part in _parts(requests):
            replies += _ENQUEUE.run_all(client, [(self._names, self._enqueue_arguments(each)) for each in part])
        return self._all_enqueued(requests, replies)

    async def aenqueue_many(
        self, client: redis.asyncio.Redis, requests: Sequence[Request]
    ) -> list[tuple[str, int] | None]:
        """The async twin of `enqueue_many`."""
        replies: list[list[bytes]] = []
        for part in _parts(requests):
            replies += await _ENQUEUE.arun_all(client, [(self._names, self._enqueue_arguments(each)) for each in part])
        return self._all_enqueued(requests, replies)

    def _all_enqueued(
        self, requests: Sequence[Request], replies: Sequence[list[bytes]]
    ) -> list[tuple[str, int] | None]:
        return [
            self._enqueued(request, reply) if reply else None for request, reply in zip(requests, replies, strict=True)
        ]

    def _enqueued(self, request: Request, reply: list[bytes]) -> tuple[str, int]:
        if not reply:
            raise TaskQueueFull(
                f"the queue {self.name} has reached its length_limit of waiting tasks: does a worker run for it?"
            )
        id = reply[0].decode()
        if id == request.id:
            # Otherwise it is an unfinished task with the same unique key.
            count("tasks.enqueued", 1, self.name)
        return id, int(reply[1])

    async def atick(self, client: redis.asyncio.Redis, request: Request, tick: Tick) -> tuple[str, int] | None:
        """
        Enqueue a tick of a periodic task, unless this tick or a later one was enqueued before. A schedule that is new
        or changed is only recorded.

        Returns:
            As `enqueue`; None if the tick was not enqueued.

        Raises:
            TaskQueueFull: The queue has reached `length_limit`. The tick is not recorded, so it can be tried again.
        """
        names = [*self._names, self._keys.periodic_task(self.name, tick.name)]
        more = (tick.schedule, tick.moment_ms, tick.looked_ms, TICK_KEPT_MS)
        found = await _TICK.arun(client, names, [*self._enqueue_arguments(request), *more])
        return None if found is None else self._enqueued(request, found)

    async def last_ticks(self, client: redis.asyncio.Redis, names: Sequence[str]) -> list[tuple[str, int] | None]:
        """For each of these periodic tasks its schedule and its last tick in ms; None for a new one."""
        found: Any = await client.mget([self._keys.periodic_task(self.name, name) for name in names])
        return [None if state is None else _last_tick(state) for state in found]

    def _enqueue_arguments(self, request: Request) -> list[Any]:
        fields = [part for pair in request.fields.items() for part in pair]
        return [
            *self._arguments,
            request.id,
            request.due_ms,
            request.priority,
            request.unique_key,
            request.length_limit,
            *fields,
        ]

    # Attempts: repeating a call changes nothing -----------------------------------------------------------------------

    async def begin(
        self, client: redis.asyncio.Redis, worker: str, tasks: Sequence[tuple[str, bytes, bytes]]
    ) -> list[Begun]:
        """Record that attempts begin. Each task is its id, the ticket of its entry, and the claim of this delivery."""
        begun: list[Begun] = []
        for part in _parts(tasks):
            flat = [value for task in part for value in task]
            reply = await _BEGIN.arun(client, self._names, [*self._arguments, worker, *flat])
            names, *rest = reply
            begun += (_begun(names, *each) for each in rest)
        return begun

    async def finish(self, client: redis.asyncio.Redis, outcomes: Sequence[Outcome]) -> list[int]:
        """
        Record how attempts ended, and ack their entries.

        Returns:
            For each: LOST if the task is another worker's now, or was deleted; RECORDED if its entry was not pending,
            so that it must be acked otherwise: workers have died with it, or an earlier call has acked it; or ACKED.
        """
        answers: list[int] = []
        for part in _parts(outcomes):
            flat = [value for outcome in part for value in outcome]
            answers += await _FINISH.arun(client, self._names, [*self._arguments, *flat])
        return answers

    async def release(
        self, client: redis.asyncio.Redis, claims: Sequence[tuple[str, bytes]], *, is_begun: bool = False
    ) -> int:
        """
        Give back tasks, so that they wait for a worker again. Returns how many have failed instead: those that have
        begun and are not to run again.

        Args:
            is_begun: Whether their functions have begun. Then the attempts count, and have failed with WorkerStopped.
        """
        failed_count = 0
        for part in _parts(claims):
            flat = [value for claim in part for value in claim]
            failed_count += await _RELEASE.arun(client, self._names, [*self._arguments, int(is_begun), *flat])
        return failed_count

    # Operators --------------------------------------------------------------------------------------------------------

    def run_again(self, client: redis.Redis, ids: Iterable[str]) -> int:
        """Let finished tasks run again. Returns how many will run."""
        return sum(_RUN_AGAIN.run(client, self._names, [*self._arguments, *part]) for part in _parts([*ids]))

    def discard(self, client: redis.Redis, ids: Iterable[str]) -> int:
        """Fail tasks that wait, and delete finished ones. Returns how many were discarded."""
        return sum(_DISCARD.run(client, self._names, [*self._arguments, *part]) for part in _parts([*ids]))


def _begun(
    names: Sequence[bytes], state: bytes, values: Sequence[bytes] | None = None, flat: Sequence[bytes] = ()
) -> Begun:
    if values is None:
        return Begun(state.decode(), paired(flat))
    # This runs for each task. The script leaves out missing fields at the end, so most tasks have no None.
    fields = dict(zip(names, values, strict=False))
    if None in values:
        fields = {name: value for name, value in fields.items() if value is not None}
    return Begun(state.decode(), fields)


def _last_tick(state: bytes) -> tuple[str, int]:
    last, _, schedule = state.decode().partition(" ")
    return schedule, int(last)


def _parts[T](items: Sequence[T]) -> Iterable[Sequence[T]]:
    for start in range(0, len(items), CALL_LIMIT):
        yield items[start : start + CALL_LIMIT]
