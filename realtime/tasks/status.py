"""
The state of background tasks, for operators: which queues there are, and how many tasks are in each state.

Owns the queues of the project, the names of the states, and reading what is on a stream. Does not own lists of tasks
(listing), the content of one task (details), actions on tasks (operating), nor showing them (admin).
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import redis
from django.core.exceptions import ImproperlyConfigured
from redis.exceptions import ResponseError

from realtime.conf import keys
from realtime.redis.connection_checks import answer_parsed
from realtime.streams.keys import GroupKeys
from realtime.streams.status import count_workers, known_streams
from realtime.tasks.backend import RedisStreamBackend
from realtime.tasks.django_api import InvalidTaskBackend, task_backends
from realtime.tasks.record import Item, item_of
from realtime.tasks.store import GROUP, TaskQueue

__all__ = [
    "LISTED",
    "STATES",
    "KnownQueue",
    "QueueCounts",
    "held_entries",
    "known_queues",
    "last_read",
    "queue_of",
    "read_counts",
    "read_items",
]

# ready: waits for a worker. scheduled: its first or next attempt is due later.
STATES = ("ready", "scheduled", "running", "failed", "successful")
# The most successful and the most failed tasks of a queue that are listed. The same number is in tasks/shared.lua.
LISTED = 10_000
# Of so many entries that workers hold, the status of the task is read. The tasks of the others count as running.
HELD_LIMIT = 1000
# The most entries that are read of those that no worker has. There are more only for a moment.
UNREAD_LIMIT = 50
_ID = re.compile(r"([A-Za-z0-9_.-]{1,40})\.[A-Za-z0-9]{1,40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownQueue:
    """
    A queue of a RedisStreamBackend in TASKS.

    Attributes:
        backend: The backend. If several have a queue of this name, the first of them: they share its tasks.
        tasks: The commands of the queue.
    """

    backend: RedisStreamBackend
    tasks: TaskQueue

    @property
    def name(self) -> str:
        """The name of the queue."""
        return self.tasks.name

    @property
    def group(self) -> GroupKeys:
        """The Redis names of its workers' group."""
        return GroupKeys(self.tasks.stream, GROUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCounts:
    """
    How many tasks of one queue there are in each state.

    Attributes:
        queue: The name of the queue.
        backend: The alias of its backend in TASKS.
        failed, successful: How many are listed, at most LISTED of each.
        workers: How many workers of the queue are alive.
        is_exact: False if the workers hold more than HELD_LIMIT tasks: then some that have not begun count as running.
    """

    queue: str
    backend: str
    ready: int
    scheduled: int
    running: int
    failed: int
    successful: int
    workers: int
    is_exact: bool


def known_queues(client: redis.Redis) -> dict[str, KnownQueue]:
    """
    The queues of all backends in TASKS that are a RedisStreamBackend, by name. For a backend that takes any queue:
    those that have had a worker.

    Raises:
        redis.RedisError: Redis is unavailable, and one of the backends takes any queue.
    """
    found: dict[str, KnownQueue] = {}
    for backend in _backends():
        for name in sorted(backend.queues or _used_names(client)):
            found.setdefault(name, KnownQueue(backend=backend, tasks=backend.queue(name)))
    return found


def queue_of(id: str) -> KnownQueue | None:
    """The queue of a task; None if the text is not an id, or no backend has the queue."""
    match = _ID.fullmatch(id)
    if match is None:
        return None
    name = match[1]
    fitting = (backend for backend in _backends() if not backend.queues or name in backend.queues)
    backend = next(fitting, None)
    return None if backend is None else KnownQueue(backend=backend, tasks=backend.queue(name))


@answer_parsed("XINFO, XPENDING and XRANGE")
def read_counts(client: redis.Redis, queues: Iterable[KnownQueue]) -> tuple[QueueCounts, ...]:
    """
    Count the tasks of these queues.

    Raises:
        redis.RedisError: Redis is unavailable, or one of the keys has another type.

    Guarantees:
        Six round trips at most.
    """
    known = tuple(queues)
    if not known:
        return ()
    sizes = _read_sizes(client, known)
    held = read_items(client, [(each, size.held, size.unread_from) for each, size in zip(known, sizes, strict=True)])
    statuses = _read_statuses(client, [(each, item) for each, items in zip(known, held, strict=True) for item in items])
    workers = count_workers(client, [each.group for each in known])
    counts = []
    for each, size, items, count in zip(known, sizes, held, workers, strict=True):
        found = [next(statuses) for _ in items]
        counts.append(
            QueueCounts(
                queue=each.name,
                backend=each.backend.alias,
                ready=size.waiting + found.count(b"READY"),
                scheduled=size.scheduled,
                running=found.count(b"RUNNING") + max(0, size.held_count - HELD_LIMIT),
                failed=size.failed,
                successful=size.successful,
                workers=count,
                is_exact=size.held_count <= HELD_LIMIT,
            )
        )
    return tuple(counts)


def read_items(
    client: redis.Redis, asked: Sequence[tuple[KnownQueue, Sequence[bytes], bytes | None]]
) -> list[list[Item]]:
    """
    The tasks of entries on the stream of each queue.

    Args:
        asked: For each queue the ids of entries, and the id of the last entry that its workers have read. The entries
            after that one are read too; None leaves them out.

    Raises:
        redis.RedisError: Redis is unavailable.
    """
    pipeline = client.pipeline(transaction=False)
    for each, ids, unread_from in asked:
        for id in ids:
            pipeline.xrange(each.tasks.stream, id, id)
        if unread_from is not None:
            # Without "(" before the id, which Redis refuses for the largest possible id.
            pipeline.xrange(each.tasks.stream, unread_from, count=UNREAD_LIMIT + 1)
    replies = iter(pipeline.execute())
    found = []
    for _, ids, unread_from in asked:
        entries = [entry for _ in ids for entry in next(replies)]
        if unread_from is not None:
            entries += [entry for entry in next(replies) if entry[0] != unread_from]
        items = (item_of(fields.get(b"item", b"")) for _, fields in entries)
        found.append([item for item in items if item is not None])
    return found


@answer_parsed("XPENDING")
def held_entries(client: redis.Redis, queue: KnownQueue, *, after: str, count: int) -> list[bytes]:
    """The ids of entries that workers hold, oldest first. Raises redis.RedisError."""
    try:
        found: Any = client.xpending_range(queue.tasks.stream, GROUP, f"({after}", "+", count)
    except ResponseError as error:
        if _is_missing(error):
            return []
        raise
    return [each["message_id"] for each in found]


@answer_parsed("XINFO GROUPS")
def last_read(client: redis.Redis, queue: KnownQueue) -> bytes:
    """The id of the last entry that the workers of a queue have read. Raises redis.RedisError."""
    try:
        found: Any = client.xinfo_groups(queue.tasks.stream)
    except ResponseError as error:
        if _is_missing(error):
            return b"0-0"
        raise
    return _last_read(found)


# ----------------------------------------------------------------------------------------------------------------------


class _Sizes(NamedTuple):
    waiting: int
    scheduled: int
    successful: int
    failed: int
    # Entries that workers hold: how many, and the ids of the oldest ones.
    held_count: int
    held: list[bytes]
    unread_from: bytes


def _read_sizes(client: redis.Redis, known: Sequence[KnownQueue]) -> list[_Sizes]:
    now: Any = client.time()
    pipeline = client.pipeline(transaction=False)
    for each in known:
        tasks, options = each.tasks, each.backend.defaults
        pipeline.zcard(tasks.waiting_list.waiting)
        pipeline.zcard(tasks.waiting_list.scheduled)
        # Tasks that finished earlier have expired. They leave the list when another task finishes.
        for key, keep_seconds in (
            (tasks.successful, options.keep_successful_seconds),
            (tasks.failed, options.keep_failed_seconds),
        ):
            pipeline.zcount(key, round((now[0] - keep_seconds) * 1000), "+inf")
        pipeline.xpending(tasks.stream, GROUP)
        pipeline.xpending_range(tasks.stream, GROUP, "-", "+", HELD_LIMIT)
        pipeline.xinfo_groups(tasks.stream)
    replies = [_checked(reply) for reply in pipeline.execute(raise_on_error=False)]
    sizes = []
    for at in range(0, len(replies), 7):
        waiting, scheduled, successful, failed, pending, held, groups = replies[at : at + 7]
        sizes.append(
            _Sizes(
                waiting=waiting,
                scheduled=scheduled,
                successful=successful,
                failed=failed,
                held_count=pending["pending"] if pending else 0,
                held=[each["message_id"] for each in held or ()],
                unread_from=_last_read(groups or ()),
            )
        )
    return sizes


def _read_statuses(client: redis.Redis, asked: Sequence[tuple[KnownQueue, Item]]) -> Iterator[bytes | None]:
    """The status of each task, in order; None if the item is left over."""
    pipeline = client.pipeline(transaction=False)
    for each, item in asked:
        pipeline.hmget(each.tasks.task_key(item.id), "status", "ticket")
    for (_, item), (status, ticket) in zip(asked, pipeline.execute(), strict=True):
        yield status if ticket == item.ticket else None


def _checked(reply: Any) -> Any:
    """The reply; None if the stream or its group does not exist, until a first task or worker creates it."""
    if isinstance(reply, ResponseError) and _is_missing(reply):
        return None
    if isinstance(reply, Exception):
        raise reply
    return reply


def _is_missing(error: ResponseError) -> bool:
    return "no such key" in str(error) or "NOGROUP" in str(error)


def _last_read(groups: Iterable[Mapping[str, Any]]) -> bytes:
    found = (group["last-delivered-id"] for group in groups if group["name"] == GROUP.encode())
    last: bytes = next(found, b"0-0")
    return last


def _backends() -> Iterator[RedisStreamBackend]:
    for alias in task_backends:
        try:
            backend = task_backends[alias]
        except (InvalidTaskBackend, ImproperlyConfigured):
            # Using this backend raises the error. Here it must not hide the others.
            continue
        if isinstance(backend, RedisStreamBackend):
            yield backend


def _used_names(client: redis.Redis) -> set[str]:
    """The queues that have had a worker."""
    prefix = keys().task_queue("")
    return {name.removeprefix(prefix) for name in known_streams(client, keys().streams()) if name.startswith(prefix)}
