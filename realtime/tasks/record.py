"""
How a task is stored in Redis: the fields of its hash, and Django's TaskResult made from them.

Owns the fields of the hash, their JSON, and the form of an item in the waiting list. Does not own the scripts that
change them (store).
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from traceback import format_exception
from typing import Any, NamedTuple

from django.conf import settings
from django.utils import timezone
from django.utils.module_loading import import_string

from realtime.exceptions import TaskUnknown
from realtime.tasks.django_api import AnyTask, AnyTaskResult, Task, TaskError, TaskResult, TaskResultStatus

__all__ = [
    "EPOCH",
    "Item",
    "TaskFields",
    "call_of",
    "error_json",
    "find_task",
    "item_of",
    "moment",
    "paired",
    "result_of",
    "run_after_of",
    "to_json",
    "workers_of",
]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The most characters of a traceback that are stored. Of a longer one, the end is kept: it says more.
TRACEBACK_LIMIT = 20_000

# The hash of a task, as Redis returns it.
type TaskFields = Mapping[bytes, bytes]


class Item(NamedTuple):
    """A task in the waiting list, or on the stream."""

    id: str
    # Each time that a task is placed in a list, it gets a new ticket. Items with an older ticket are ignored.
    ticket: bytes


def item_of(raw: bytes) -> Item | None:
    """The task of an item "priority:id#ticket"; None if it has another form."""
    id, separator, ticket = raw.partition(b":")[2].rpartition(b"#")
    return Item(id.decode(errors="replace"), ticket) if separator else None


def to_json(value: Any) -> bytes:
    """
    Encode a value of JSON's types.

    Raises:
        TypeError, ValueError: JSON cannot express the value, for example an infinite number.
    """
    # A text may contain half of a surrogate pair. UTF-8 has no form for it, but json.loads reads it back.
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")


def error_json(error: BaseException) -> bytes:
    """What is stored of an error: the path of its class, and its traceback."""
    kind = type(error)
    try:
        text = "".join(format_exception(error))
    except Exception as cause:
        text = f"{kind.__qualname__}, whose traceback cannot be made ({type(cause).__name__})\n"
    if len(text) > TRACEBACK_LIMIT:
        text = f"… (the first {len(text) - TRACEBACK_LIMIT} characters are left out)\n{text[-TRACEBACK_LIMIT:]}"
    return to_json({"class": f"{kind.__module__}.{kind.__qualname__}", "traceback": text})


def find_task(path: str) -> AnyTask:
    """
    The task at this dotted path.

    Raises:
        TaskUnknown: Nothing can be imported from there, or it is not a task.
    """
    try:
        found = import_string(path)
    except (Exception, SystemExit) as error:
        # Also SystemExit: the module may be a script that calls sys.exit().
        raise TaskUnknown(
            f"the task {path} cannot be imported ({error}): was it moved, or is this code older?"
        ) from error
    if not isinstance(found, Task):
        raise TaskUnknown(f"{path} is a {type(found).__name__}, not a task: is the decorator @task missing?")
    return found


def call_of(fields: TaskFields) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a task."""
    args, kwargs = json.loads(fields[b"call"])
    return args, kwargs


def workers_of(fields: TaskFields) -> list[str]:
    """The workers that have begun an attempt, in order."""
    return fields.get(b"workers", b"").decode().split()


def result_of(id: str, fields: TaskFields, *, task: AnyTask, backend: str) -> AnyTaskResult:
    """
    The TaskResult of a task.

    Args:
        task: Its task function, with the priority, the queue and so on of this call.
        backend: The alias of the backend.
    """
    args, kwargs = call_of(fields)
    result = TaskResult(
        task=task,
        id=id,
        status=TaskResultStatus(fields[b"status"].decode()),
        enqueued_at=moment(fields.get(b"enqueued")),
        started_at=moment(fields.get(b"started")),
        finished_at=moment(fields.get(b"finished")),
        last_attempted_at=moment(fields.get(b"attempted")),
        args=args,
        kwargs=kwargs,
        backend=backend,
        errors=errors_of(fields),
        worker_ids=workers_of(fields),
    )
    if (value := fields.get(b"value")) is not None:
        object.__setattr__(result, "_return_value", json.loads(value))
    return result


def errors_of(fields: TaskFields) -> list[TaskError]:
    """The errors of all attempts that failed, in order."""
    count = int(fields.get(b"error_count", 0))
    found = [json.loads(fields[b"error%d" % number]) for number in range(1, count + 1)]
    return [TaskError(exception_class_path=each["class"], traceback=each["traceback"]) for each in found]


def run_after_of(fields: TaskFields) -> datetime | None:
    """The `run_after` of a task, to the microsecond; None if it has none."""
    due = fields.get(b"run_after")
    if due is None:
        return None
    aware = EPOCH + timedelta(microseconds=int(due))
    return aware if settings.USE_TZ else timezone.make_naive(aware, timezone.get_default_timezone())


def moment(ms: bytes | int | None) -> datetime | None:
    """A time in milliseconds since 1970, as Django's `timezone.now()` has it: naive if USE_TZ is False."""
    if ms is None:
        return None
    found = datetime.fromtimestamp(int(ms) / 1000, UTC)
    return found if settings.USE_TZ else timezone.make_naive(found, timezone.get_default_timezone())


def paired(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """The fields of a hash, from the flat list of names and values that a script returns."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
