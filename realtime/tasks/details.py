"""
One background task, for operators: its state, attempts, errors, arguments and value, without secrets.

Owns reading it. Does not own hiding secrets (masking), lists (listing), nor showing it (admin).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import redis

from realtime.tasks.masking import (
    Argument,
    find_shown,
    named_arguments,
    secrets_in,
    shown_line,
    shown_text,
    shown_value,
)
from realtime.tasks.record import TaskFields, moment, run_after_of
from realtime.tasks.status import KnownQueue, queue_of
from realtime.untrusted.masking import HIDDEN, is_secret_name
from realtime.untrusted.text import printable

__all__ = ["ShownError", "TaskDetails", "read_task"]

# The most errors of a task that are shown, the newest ones.
ERRORS_SHOWN = 10
# The most characters of the name of a function or a worker. Real ones are shorter.
TEXT_LIMIT = 500
_FIELDS = (
    *("func", "status", "ticket", "priority", "call", "options", "value", "workers", "earlier_attempts", "deaths"),
    *("error_count", "enqueued", "started", "attempted", "finished", "run_after", "unique"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownError:
    """An error of an attempt: the path of its class, and its traceback without secrets."""

    number: int
    kind: str
    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDetails:
    """
    A task as it is shown.

    Attributes:
        func: The dotted path of its function.
        problem: Why its function cannot be found; "" if it can.
        backend: The alias of its backend in TASKS.
        state: One of `status.STATES`.
        started_at, attempted_at: When its first attempt began, and its last one.
        run_after: The time for which it was enqueued.
        due_at: When its next attempt is due, if it is scheduled.
        kept_until: When it expires, if it has finished.
        duration_seconds: How long its last attempt took, or has taken.
        tries: How many attempts have begun since it was enqueued, or since an operator last let it run again.
        earlier_tries: How many attempts had begun before that.
        deaths: How many workers were lost while they ran it.
        timeout_seconds: The time limit of an attempt; None for no limit.
        workers: The worker of each attempt, in order.
        errors: The newest errors, in order; at most ERRORS_SHOWN.
        error_count: How many errors there are.
        value: What it returned, as JSON; None if it has not returned.
        unique_key: Whether it has a unique key.
    """

    id: str
    func: str
    problem: str
    queue: str
    backend: str
    priority: int
    state: str
    enqueued_at: datetime | None
    started_at: datetime | None
    attempted_at: datetime | None
    finished_at: datetime | None
    run_after: datetime | None
    due_at: datetime | None
    kept_until: datetime | None
    duration_seconds: float | None
    tries: int
    earlier_tries: int
    max_attempts: int
    deaths: int
    timeout_seconds: float | None
    workers: tuple[str, ...]
    errors: tuple[ShownError, ...]
    error_count: int
    arguments: tuple[Argument, ...]
    value: str | None
    unique_key: bool


def read_task(client: redis.Redis, id: str) -> TaskDetails | None:
    """
    Read one task. None if it does not exist (any more), or no backend in TASKS has its queue.

    Raises:
        redis.RedisError: Redis is unavailable, or the key has another type.

    Guarantees:
        Two round trips.
    """
    queue = queue_of(id)
    if queue is None:
        return None
    key = queue.tasks.task_key(id)
    pipeline = client.pipeline(transaction=False)
    pipeline.hmget(key, _FIELDS)
    pipeline.pttl(key)
    values, left_ms = pipeline.execute()
    fields: dict[bytes, Any] = {
        name.encode(): value for name, value in zip(_FIELDS, values, strict=True) if value is not None
    }
    if b"status" not in fields:
        return None
    error_count = _number(fields, b"error_count")
    numbers = range(max(1, error_count - ERRORS_SHOWN + 1), error_count + 1)
    item = f"{_number(fields, b'priority')}:{id}#{_number(fields, b'ticket')}"
    pipeline = client.pipeline(transaction=False)
    pipeline.zscore(queue.tasks.waiting_list.scheduled, item)
    for number in numbers:
        pipeline.hget(key, f"error{number}")
    due_ms, *bodies = pipeline.execute()
    return _details(
        id,
        fields,
        dict(zip(numbers, bodies, strict=True)),
        queue=queue,
        due_ms=None if due_ms is None else int(due_ms),
        left_ms=left_ms,
    )


def _details(
    id: str,
    fields: TaskFields,
    errors: Mapping[int, bytes | None],
    *,
    queue: KnownQueue,
    due_ms: int | None,
    left_ms: int,
) -> TaskDetails:
    func = printable(fields.get(b"func", b""), limit=TEXT_LIMIT)
    task, problem = find_shown(func)
    options, defaults = json.loads(fields.get(b"options", b"{}")), queue.backend.defaults
    workers = tuple(printable(name, limit=TEXT_LIMIT) for name in fields.get(b"workers", b"").split())
    earlier_tries = _number(fields, b"earlier_attempts")
    args, kwargs = json.loads(fields.get(b"call", b"[[], {}]"))
    secrets = secrets_in(task, args, kwargs)
    return TaskDetails(
        id=id,
        func=func,
        problem=problem,
        queue=queue.name,
        backend=queue.backend.alias,
        priority=_number(fields, b"priority"),
        state=_state(fields, is_scheduled=due_ms is not None),
        enqueued_at=moment(fields.get(b"enqueued")),
        started_at=moment(fields.get(b"started")),
        attempted_at=moment(fields.get(b"attempted")),
        finished_at=moment(fields.get(b"finished")),
        run_after=run_after_of(fields),
        due_at=moment(due_ms),
        kept_until=datetime.now(UTC) + timedelta(milliseconds=left_ms) if left_ms > 0 else None,
        duration_seconds=_duration_seconds(fields),
        tries=len(workers) - earlier_tries,
        earlier_tries=earlier_tries,
        max_attempts=options.get("max_attempts", defaults.max_attempts),
        deaths=_number(fields, b"deaths"),
        timeout_seconds=options.get("timeout", defaults.timeout),
        workers=workers,
        errors=tuple(_error(number, body, secrets) for number, body in errors.items() if body is not None),
        error_count=_number(fields, b"error_count"),
        arguments=named_arguments(task, args, kwargs, secrets=secrets),
        value=_value(func, fields.get(b"value"), secrets),
        unique_key=b"unique" in fields,
    )


def _state(fields: TaskFields, *, is_scheduled: bool) -> str:
    status = fields[b"status"].decode(errors="replace")
    return "scheduled" if status == "READY" and is_scheduled else status.lower()


def _duration_seconds(fields: TaskFields) -> float | None:
    began, status = fields.get(b"attempted"), fields[b"status"]
    if began is None or status == b"READY":
        return None
    ended = fields.get(b"finished")
    ended_ms = datetime.now(UTC).timestamp() * 1000 if ended is None else int(ended)
    return max(0.0, (ended_ms - int(began)) / 1000)


def _error(number: int, body: bytes, secrets: frozenset[str]) -> ShownError:
    found = json.loads(body)
    return ShownError(
        number=number,
        kind=shown_line(str(found["class"]), limit=200),
        traceback=shown_text(str(found["traceback"]).rstrip("\n"), secrets=secrets),
    )


def _value(func: str, body: bytes | None, secrets: frozenset[str]) -> str | None:
    if body is None:
        return None
    value = json.loads(body)
    # The function's name says that its value is a secret, for example make_token.
    is_secret = isinstance(value, str) and is_secret_name(func.rpartition(".")[2])
    return HIDDEN if is_secret else shown_value(value, secrets=secrets)


def _number(fields: TaskFields, name: bytes) -> int:
    return int(fields.get(name, 0))
