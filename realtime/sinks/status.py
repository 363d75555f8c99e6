"""
The state of the log pipeline, for operators: the sinks of all apps, and the latest records.

Owns which figures there are. Does not own those of a consumer group (streams.status) nor showing them (admin).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import redis

from realtime.logs.record import LogRecord, decode_record, encode
from realtime.logs.stream import RECORD_FIELD
from realtime.redis.keys import Keys
from realtime.sinks.base import Sink, all_sinks
from realtime.sinks.storage import shown_place
from realtime.streams.status import GroupStatus, read_status

__all__ = ["PipelineStatus", "SinkStatus", "read_pipeline"]

LATEST_COUNT = 12
# The most characters that are shown of a message and of a task.
TEXT_LIMIT = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkStatus:
    """
    One sink.

    Attributes:
        name: Its consumer group.
        kind: "ContentSink" or "NdjsonSink".
        place: Where its files go, without secrets.
        stream: The name of its stream.
        queues: The queues whose records it gets; empty for all records.
        group: The figures of its consumer group.
    """

    name: str
    kind: str
    place: str
    stream: str
    queues: tuple[str, ...]
    group: GroupStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class LatestRecord:
    """A log record; `message` and `task` (as JSON) are cut off after TEXT_LIMIT characters."""

    level: str
    timestamp: datetime
    logger: str
    message: str
    queue: str
    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineStatus:
    """
    The log pipeline.

    Attributes:
        at: When it was read, in UTC.
        added: How many records were ever appended to the streams of the sinks; None before Redis 7.
        sinks: In order of declaration.
        latest: The latest records of these streams, at most LATEST_COUNT, newest first.
    """

    at: datetime
    added: int | None
    sinks: tuple[SinkStatus, ...]
    latest: tuple[LatestRecord, ...]


def read_pipeline(client: redis.Redis, names: Keys) -> PipelineStatus:
    """
    Read the state of all declared sinks.

    Raises:
        redis.RedisError: Redis is unavailable, or one of the keys has another type.
    """
    sinks = all_sinks()
    streams = dict.fromkeys(sink.stream for sink in sinks)
    groups: dict[tuple[str, str], GroupStatus] = {}
    added: int | None = 0
    latest: list[LatestRecord] = []
    for stream in streams:
        declared = [sink.name for sink in sinks if sink.stream == stream]
        (found,) = read_status(client, [names.stream(stream)], groups=declared)
        groups.update({(stream, group.name): group for group in found.groups})
        added = None if added is None or found.added is None else added + found.added
        latest += _latest(client, names.stream(stream))
    return PipelineStatus(
        at=datetime.now(UTC),
        added=added,
        sinks=tuple(_status(sink, groups[sink.stream, sink.name]) for sink in sinks),
        latest=tuple(sorted(latest, key=lambda record: record.timestamp, reverse=True)[:LATEST_COUNT]),
    )


def _status(sink: type[Sink], group: GroupStatus) -> SinkStatus:
    # The class of this package that the sink is based on. A project may have base classes of its own in between.
    kind = next(each.__name__ for each in sink.__mro__ if each.__module__.startswith("realtime.sinks."))
    return SinkStatus(
        name=sink.name,
        kind=kind,
        place=shown_place(sink.url),
        stream=sink.stream,
        queues=tuple(sink.queues),
        group=group,
    )


def _latest(client: redis.Redis, stream_key: str) -> list[LatestRecord]:
    entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]] = client.xrevrange(stream_key, count=LATEST_COUNT)  # type: ignore[assignment]
    found = []
    for _, fields in entries:
        try:
            record = decode_record(fields[RECORD_FIELD.encode()])
        except (KeyError, ValueError):
            # Not a log record: it becomes a dead letter, which says what is wrong.
            continue
        found.append(_shown(record))
    return found


def _shown(record: LogRecord) -> LatestRecord:
    return LatestRecord(
        level=record.level,
        timestamp=record.timestamp,
        logger=record.logger,
        message=_cut(record.message),
        queue=record.queue,
        task="" if record.task is None else _cut(encode(record.task).decode()),
    )


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_LIMIT else f"{text[: TEXT_LIMIT - 1]}…"
