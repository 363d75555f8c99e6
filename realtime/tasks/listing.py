"""
Lists of background tasks, for operators: those of one queue in one state, in pages.

Owns the order of each list, its cursors, and the limit of a search. Does not own the counts (status), nor the content
of one task (details).
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

import redis

from realtime.tasks.django_api import AnyTask
from realtime.tasks.masking import find_shown, secrets_in, shown_line, shown_text
from realtime.tasks.record import Item, item_of, moment
from realtime.tasks.status import LISTED, KnownQueue, held_entries, last_read, read_items
from realtime.untrusted.text import printable

__all__ = ["PAGE_SIZE", "SCAN_LIMIT", "Query", "TaskPage", "TaskRow", "find_failed", "is_cursor", "read_page"]

PAGE_SIZE = 50
# The most tasks that are read for one page of a search for a function.
SCAN_LIMIT = 1000
# How many tasks are read at once: for a page, and for a search.
PAGE_BATCH, SEARCH_BATCH = PAGE_SIZE + 1, 200
# If the task of a cursor has left its list: how many members with the same score are compared to find its place.
SAME_LIMIT = 1000
# Longer arguments are not read for a list. The last error might quote secrets of theirs, so only its class is shown.
CALL_LIMIT_BYTES = 16_384
# The most characters of the last error in a list, and of an id or a function. Real ones of these are shorter.
ERROR_LIMIT = 200
TEXT_LIMIT = 500
# Cursors: the score and the member of a sorted set, and the id of an entry on the stream.
_LISTED_CURSOR = re.compile(r"(-?\d{1,16})~([\w.:#-]{1,150})", re.ASCII)
_ENTRY_CURSOR = re.compile(r"\d{1,15}-\d{1,15}", re.ASCII)
_FIELDS = (
    *("func", "status", "ticket", "priority", "enqueued", "attempted", "finished", "workers", "earlier_attempts"),
    *("options", "error_count"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Selects the tasks of one queue in one state; with `func`, only those of this function."""

    queue: KnownQueue
    state: str
    func: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """
    A task in a list.

    Attributes:
        func: The dotted path of its function.
        due_at: When its next attempt is due, if it is scheduled.
        attempted_at: When its last attempt began.
        tries: How many attempts have begun since it was enqueued, or since an operator last let it run again.
        error: The last line of its last error, without secrets; "" if it has not failed.
    """

    id: str
    func: str
    priority: int
    enqueued_at: datetime | None
    due_at: datetime | None
    attempted_at: datetime | None
    finished_at: datetime | None
    tries: int
    max_attempts: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """
    A part of a list.

    Attributes:
        older: The cursor of the next part; "" if there is none.
        is_cut: Whether the search reached SCAN_LIMIT before the page was full. The rest was not searched.
    """

    rows: tuple[TaskRow, ...]
    older: str
    is_cut: bool


class _Found(NamedTuple):
    row: TaskRow
    # How many errors the task has.
    error_count: int


class _Place(NamedTuple):
    """A task in a list. The next part of the list begins after `cursor`."""

    cursor: str
    id: str
    # None in the lists of finished tasks, which have no tickets.
    ticket: bytes | None
    due_ms: int | None


def is_cursor(text: str) -> bool:
    """Whether a text has the form of a cursor."""
    return _LISTED_CURSOR.fullmatch(text) is not None or _ENTRY_CURSOR.fullmatch(text) is not None


def read_page(client: redis.Redis, query: Query, *, after: str = "") -> TaskPage:
    """
    Read a part of a list. Finished tasks come newest first, scheduled ones by the time when they are due, and running
    ones longest-running first. Ready tasks come in the opposite order of the waiting list; those that workers have
    fetched ahead come last.

    Args:
        after: The cursor after which the part begins; by default the beginning of the list.

    Raises:
        redis.RedisError: Redis is unavailable, or one of the keys has another type.
    """
    rows: list[_Found] = []
    last, scanned_count = after, 0
    for batch in _batches(client, query, after):
        for place, row in zip(batch, _read_rows(client, query, batch), strict=True):
            if row is not None and len(rows) == PAGE_SIZE:
                return TaskPage(rows=_with_errors(client, query, rows), older=last, is_cut=False)
            last = place.cursor
            if row is not None:
                rows.append(row)
        scanned_count += len(batch)
        if scanned_count >= SCAN_LIMIT:
            return TaskPage(rows=_with_errors(client, query, rows), older=last, is_cut=True)
    return TaskPage(rows=_with_errors(client, query, rows), older="", is_cut=False)


def find_failed(
    client: redis.Redis, queue: KnownQueue, func: str, *, until_ms: int | None = None
) -> tuple[list[str], int]:
    """
    Find the failed tasks of one function, newest first. Looks at no more than LISTED tasks.

    Args:
        until_ms: Leave out those that failed later.

    Returns:
        Their ids, and when the newest one failed, in milliseconds since 1970; 0 if there are none.

    Raises:
        redis.RedisError: Redis is unavailable.
    """
    ids: list[str] = []
    newest_ms = 0
    highest = "+inf" if until_ms is None else until_ms
    for start in range(0, LISTED, SEARCH_BATCH):
        found: Any = client.zrevrangebyscore(
            queue.tasks.failed, highest, "-inf", start=start, num=SEARCH_BATCH, withscores=True
        )
        pipeline = client.pipeline(transaction=False)
        for id, _ in found:
            pipeline.hmget(queue.tasks.task_key(id.decode()), "func", "status")
        for (id, score), (of, status) in zip(found, pipeline.execute(), strict=True):
            if status == b"FAILED" and of == func.encode():
                newest_ms = newest_ms or int(score)
                ids.append(id.decode())
        if len(found) < SEARCH_BATCH:
            break
    return ids, newest_ms


# The order of each list -----------------------------------------------------------------------------------------------


def _batches(client: redis.Redis, query: Query, after: str) -> Iterator[list[_Place]]:
    tasks = query.queue.tasks
    count = SEARCH_BATCH if query.func else PAGE_BATCH
    match query.state:
        case "running":
            yield from _held(client, query.queue, after, count)
        case "scheduled":
            yield from _listed(client, tasks.waiting_list.scheduled, after, count, is_rising=True)
        case "ready":
            if not _ENTRY_CURSOR.fullmatch(after):
                yield from _listed(client, tasks.waiting_list.waiting, after, count)
                yield from _unread(client, query.queue)
                after = ""
            # Fetched ahead by workers.
            yield from _held(client, query.queue, after, count)
        case state:
            yield from _listed(client, tasks.failed if state == "failed" else tasks.successful, after, count)


def _listed(
    client: redis.Redis, key: str, after: str, count: int, *, is_rising: bool = False
) -> Iterator[list[_Place]]:
    """The members of a sorted set. Each part begins after a member, not at a rank: ranks change meanwhile."""
    while True:
        start = _rank_after(client, key, after, is_rising=is_rising)
        found: Any = client.zrange(key, start, start + count - 1, desc=not is_rising, withscores=True)
        places = []
        for member, score in found:
            item = item_of(member) or Item(member.decode(errors="replace"), b"")
            cursor = f"{score:.0f}~{member.decode(errors='replace')}"
            places.append(_Place(cursor, item.id, item.ticket or None, int(score) if is_rising else None))
        if places:
            yield places
            after = places[-1].cursor
        if len(places) < count:
            return


def _rank_after(client: redis.Redis, key: str, cursor: str, *, is_rising: bool) -> int:
    match = _LISTED_CURSOR.fullmatch(cursor)
    if match is None:
        return 0
    score, member = match.groups()
    rank: Any = client.zrank(key, member) if is_rising else client.zrevrank(key, member)
    if rank is not None:
        return int(rank) + 1
    # The member has left the list. Redis sorts members with the same score by name.
    start: Any = client.zcount(key, "-inf", f"({score}") if is_rising else client.zcount(key, f"({score}", "+inf")
    same: Any = client.zrange(key, start, start + SAME_LIMIT - 1, desc=not is_rising, withscores=True)
    gone = (float(score), member.encode())
    return int(start) + sum((at, each) < gone if is_rising else (at, each) > gone for each, at in same if at == gone[0])


def _held(client: redis.Redis, queue: KnownQueue, after: str, count: int) -> Iterator[list[_Place]]:
    """The tasks that workers hold, oldest entry first."""
    last = after if _ENTRY_CURSOR.fullmatch(after) else "0-0"
    while ids := held_entries(client, queue, after=last, count=count):
        items = read_items(client, [(queue, [id], None) for id in ids])
        last = ids[-1].decode()
        yield [
            _Place(id.decode(), item.id, item.ticket, None)
            for id, found in zip(ids, items, strict=True)
            for item in found
        ]
        if len(ids) < count:
            return


def _unread(client: redis.Redis, queue: KnownQueue) -> Iterator[list[_Place]]:
    """The tasks on the stream that no worker has read."""
    (items,) = read_items(client, [(queue, (), last_read(client, queue))])
    # This cursor continues the list with the tasks that workers hold.
    yield [_Place("0-0", item.id, item.ticket, None) for item in items]


# Rows -----------------------------------------------------------------------------------------------------------------


def _read_rows(client: redis.Redis, query: Query, places: Sequence[_Place]) -> list[_Found | None]:
    """The row of each task; None if the task is now in another state, or has another function."""
    status = {"failed": b"FAILED", "successful": b"SUCCESSFUL", "running": b"RUNNING"}.get(query.state, b"READY")
    pipeline = client.pipeline(transaction=False)
    for place in places:
        pipeline.hmget(query.queue.tasks.task_key(place.id), _FIELDS)
    rows = []
    for place, values in zip(places, pipeline.execute(), strict=True):
        fields = dict(zip(_FIELDS, values, strict=True))
        is_wanted = fields["status"] == status and place.ticket in (None, fields["ticket"])
        if query.func:
            is_wanted = is_wanted and fields["func"] == query.func.encode()
        row = _row(place, fields, query.queue) if is_wanted else None
        rows.append(None if row is None else _Found(row, int(fields["error_count"] or 0)))
    return rows


def _row(place: _Place, fields: dict[str, Any], queue: KnownQueue) -> TaskRow:
    options = json.loads(fields["options"] or b"{}")
    return TaskRow(
        id=printable(place.id, limit=TEXT_LIMIT),
        func=printable(fields["func"] or b"", limit=TEXT_LIMIT),
        priority=int(fields["priority"] or 0),
        enqueued_at=moment(fields["enqueued"]),
        due_at=moment(place.due_ms),
        attempted_at=moment(fields["attempted"]),
        finished_at=moment(fields["finished"]),
        tries=len((fields["workers"] or b"").split()) - int(fields["earlier_attempts"] or 0),
        max_attempts=options.get("max_attempts", queue.backend.defaults.max_attempts),
        error="",
    )


def _with_errors(client: redis.Redis, query: Query, found: Sequence[_Found]) -> tuple[TaskRow, ...]:
    """The rows; those of failed tasks with the last line of their last error."""
    if query.state != "failed":
        return tuple(each.row for each in found)
    names = [query.queue.tasks.task_key(each.row.id) for each in found]
    pipeline = client.pipeline(transaction=False)
    for name, each in zip(names, found, strict=True):
        pipeline.hget(name, f"error{each.error_count}")
        pipeline.hstrlen(name, "call")
    replies = pipeline.execute()
    pipeline = client.pipeline(transaction=False)
    for name, size in zip(names, replies[1::2], strict=True):
        pipeline.hmget(name, ["call"] if size <= CALL_LIMIT_BYTES else ["no such field"])
    calls = [call for (call,) in pipeline.execute()]
    # Once for each function: Python would repeat an import that fails.
    tasks = {func: find_shown(func)[0] for func in {each.row.func for each in found}}
    return tuple(
        replace(each.row, error=_end_of(tasks[each.row.func], error, call))
        for each, error, call in zip(found, replies[::2], calls, strict=True)
    )


def _end_of(task: AnyTask | None, error: bytes | None, call: bytes | None) -> str:
    """The last line of an error, without secrets."""
    if error is None:
        return ""
    found = json.loads(error)
    if call is None:
        return shown_line(str(found["class"]), limit=ERROR_LIMIT)
    args, kwargs = json.loads(call)
    # The whole text: a secret may have several lines.
    text = shown_text(str(found["traceback"]), secrets=secrets_in(task, args, kwargs))
    return shown_line(text.strip().rsplit("\n", 1)[-1], limit=ERROR_LIMIT)
