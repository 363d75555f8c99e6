"""
What the dashboard shows: its figures, as values.

Owns their names, units and meanings. Does not own where they come from: rows of the database (hours, balances), the
counters of processes (counters), and Redis (streams).
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from realtime.streams.status import GroupStatus

__all__ = [
    "Balance",
    "Counters",
    "Dashboard",
    "ErrorExample",
    "Funnel",
    "KindFigures",
    "Latency",
    "Notice",
    "Period",
    "Point",
    "Process",
    "Rows",
    "TaskFigures",
    "TransportFigures",
    "Worker",
]

# The last 60 minutes, 24 hours or 30 days. Figures from rows are about what was created in this time, whatever happened
# to it later; counters are about what happened in this time.
type Period = Literal["hour", "day", "month"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """How many notifications were created in the period, and how far they have come until now. From rows."""

    created: int = 0
    published: int = 0
    relayed: int = 0
    seen: int = 0
    read: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KindFigures:
    """The notifications of one kind that were created in the period. From rows."""

    kind: str
    funnel: Funnel


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportFigures:
    """The deliveries of one transport that were created in the period, by their states now. From rows."""

    transport: str
    sent: int = 0
    failed: int = 0
    # Not sent, for example because the notification was read before.
    skipped: int = 0
    # Pending, sending or held.
    unfinished: int = 0
    # With more than one attempt, whatever their state.
    retried: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One minute (of an hour), hour (of a day) or day (of a month), by its start in UTC."""

    start: datetime.datetime
    funnel: Funnel
    transports: Mapping[str, TransportFigures]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """
    The figures of a period that come from rows: each is the number of rows that its link shows, when it was counted.

    Attributes:
        since: The start of the period: only rows that were created at or after it are counted.
        counted_at: When the oldest part of the figures was counted. Older hours are counted less often.
        is_complete: False while parts of the period have never been counted: after an upgrade, or while no relay runs.
    """

    since: datetime.datetime
    counted_at: datetime.datetime
    is_complete: bool
    funnel: Funnel
    # Oldest first, without gaps.
    points: tuple[Point, ...]
    # The kinds with the most notifications, the largest first.
    kinds: tuple[KindFigures, ...]
    # Ordered by name.
    transports: tuple[TransportFigures, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """
    Whether everything is accounted for: accepted = delivered + failed + skipped + in progress.

    It is about the period, and about older notifications that may still be delivered. `balances` says what is counted.
    """

    # "browsers", "planning" (the bot decides by which transports a notification is sent), or the name of a transport.
    name: str
    # Browsers and planning: notifications that are published. Transports: deliveries.
    accepted: int
    delivered: int
    failed: int
    # No longer to be delivered, for example because it was read before, or replaced.
    skipped: int
    # A process handles them, or will: on the stream, due at a time, or held.
    in_progress: int

    @property
    def difference(self) -> int:
        """What is lost: not accounted for by any of the others. Never negative; 0 if all is well."""
        return self.accepted - self.delivered - self.failed - self.skipped - self.in_progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long something took, from a histogram: each percentile is at most 10 % off. None if there were none."""

    # "socket" (from publishing on a topic to the write to a socket), "relay" (from notify() to publishing), or
    # "transport <name>" (from notify(), or the time it was due, until the provider accepted it).
    name: str
    count: int
    p50_seconds: float | None
    p95_seconds: float | None
    p99_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process that counts. It pushes its counters once a second."""

    # host:pid
    name: str
    # "web"; "relay", "bot" or "relay and bot"; or the name of another management command, such as "run_task_worker".
    role: str
    started_at: datetime.datetime
    seen_at: datetime.datetime
    # False if it was not seen for ten seconds or has said that it ends.
    is_alive: bool
    # Its metrics of the kind "now": name → value, for example "clients.open_count".
    now: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """
    What processes counted in a period. A process that is killed loses at most its last second.

    Attributes:
        totals: Metric → count, over all kinds and transports; metrics that counted nothing are left out.
        by_label: Metric → (kind, transport or reason → count).
        points: Oldest first, without gaps: start → metric → count.
    """

    totals: Mapping[str, int]
    by_label: Mapping[str, Mapping[tuple[str, ...], int]]
    points: tuple[tuple[datetime.datetime, Mapping[str, int]], ...]
    latencies: tuple[Latency, ...]
    # Ordered by role and name; those that were seen in the last hour.
    processes: tuple[Process, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One consumer of a group of the stream of notifications."""

    group: str
    # host-pid-random
    consumer: str
    is_alive: bool
    pending: int
    # Since it last asked Redis for entries.
    idle_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFigures:
    """The background tasks of one queue, by state. Of finished ones, the newest that are still kept."""

    queue: str
    ready: int
    scheduled: int
    running: int
    failed: int
    successful: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorExample:
    """One answer of a provider: how many of the latest unsuccessful deliveries had it, and the newest one."""

    transport: str
    # Cut and cleaned for showing. Secrets are masked.
    answer: str
    # True of deliveries that failed in the period, False of those that wait for another attempt now.
    is_final: bool
    count: int
    delivery_id: int
    at: datetime.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """
    Something that staff must know, in words.

    Attributes:
        key: For programs: "no_consumer", "stuck_group", "redis_evicts", "redis_unavailable", "bot_not_seen", …
        about: For programs: the consumer group, transport or balance that it is about; several groups are separated by
            a space; "" for none.
        is_urgent: False for advice.
    """

    key: str
    about: str = ""
    # One sentence that says what is wrong.
    what: str
    # What to do about it.
    advice: str
    is_urgent: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """
    Everything that the dashboard shows. It is read part after part, so one may be some milliseconds newer than another.

    Attributes:
        groups: The consumer groups of the stream of notifications; empty if Redis is unavailable.
        redis_error: Why Redis is unavailable; "" if it is not.
        outbox: Events that are committed and not completely on the stream.
        scheduled: Events that wait for their time.
    """

    at: datetime.datetime
    period: Period
    notices: tuple[Notice, ...]
    rows: Rows
    balances: tuple[Balance, ...]
    counters: Counters
    groups: tuple[GroupStatus, ...]
    workers: tuple[Worker, ...]
    # Empty if there are no queues of tasks.
    tasks: tuple[TaskFigures, ...]
    errors: tuple[ErrorExample, ...]
    outbox: int
    scheduled: int
    redis_error: str
