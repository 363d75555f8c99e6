"""
The dashboard's figures, all together.

Owns the order in which its parts are read, and what an outage of Redis leaves out. Does not own the parts.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

import redis
from django.db import router
from django.db.models import QuerySet
from redis.exceptions import ResponseError

from notifications import conf
from notifications.conf import PARTS, STREAM
from notifications.database import clock
from notifications.database.clock import database_time, moment_of
from notifications.models import IN_OUTBOX, Event
from notifications.statistics.balances import read_balances
from notifications.statistics.counters import read_counters
from notifications.statistics.errors import read_errors
from notifications.statistics.figures import Balance, Dashboard, Period, Rows, TaskFigures, Worker
from notifications.statistics.notices import Facts, Progress, RedisMemory, find_notices, read_memory
from notifications.statistics.rows import read_rows
from notifications.statistics.tasks import read_tasks
from realtime import conf as realtime_conf
from realtime.streams.status import GroupStatus, StreamStatus, read_status

__all__ = ["read_dashboard"]

# An event that a relay should have published or released is overdue after this time.
OVERDUE_SECONDS = 60.0
# Shared by all readers in this process.
_progress = Progress()


@dataclass(frozen=True, slots=True, kw_only=True)
class _FromRedis:
    stream: StreamStatus | None = None
    tasks: tuple[TaskFigures, ...] = ()
    memory: RedisMemory | None = None
    # Why Redis is unavailable; "" if it is not.
    error: str = ""

    @property
    def groups(self) -> tuple[GroupStatus, ...]:
        """The relay and the bot, and other groups of the stream after them."""
        found = {group.name: group for group in self.stream.groups} if self.stream else {}
        return tuple(found[name] for name in sorted(found, key=lambda name: (name not in PARTS, -(name == "relay"))))


def read_dashboard(period: Period, now: datetime.datetime | None = None) -> Dashboard:
    """
    Read everything that the dashboard shows.

    Args:
        period: Which part of the past its figures are about.
        now: The end of the period; the present time by default.

    Raises:
        OperationalError, InterfaceError: The database is unavailable.

    Guarantees:
        The cost does not depend on the size of the tables: a million notifications take less than 0.2 s. An outage of
        Redis is no error: what comes from the database is there, after waiting for Redis for two seconds at most.
    """
    asked_at = clock.now()
    now = asked_at if now is None else moment_of(now)
    found = _read_redis()
    rows = read_rows(period, now)
    balances, error = _read_balances(rows, found, asked_at)
    counters = read_counters(period, now, has_redis=not (found.error or error))
    errors = read_errors(rows.since)
    facts = Facts(
        now=now,
        redis_error=found.error or error,
        memory=found.memory,
        groups=found.groups,
        standstill_seconds=_progress.observe(found.groups, asked_at),
        rows=rows,
        balances=balances,
        retrying=errors.retrying,
        processes=counters.processes,
        outbox_overdue=_count_overdue(_outbox(), "created_at", conf.get_settings().outbox_grace_seconds),
        scheduled_overdue=_count_overdue(_scheduled(), "deliver_at", 0.0),
    )
    return Dashboard(
        at=now,
        period=period,
        notices=find_notices(facts),
        rows=rows,
        balances=balances,
        counters=counters,
        groups=found.groups,
        workers=_workers(found.groups),
        tasks=found.tasks,
        errors=errors.examples,
        outbox=_outbox().count(),
        scheduled=_scheduled().count(),
        redis_error=facts.redis_error,
    )


def _read_redis() -> _FromRedis:
    client = realtime_conf.sync_redis()
    try:
        (stream,) = read_status(client, [realtime_conf.keys().stream(STREAM)], groups=PARTS)
        tasks = read_tasks(client)
        try:
            memory = read_memory(client)
        except ResponseError:
            # The Redis user of the site may lack the right to ask for it.
            memory = None
    except redis.RedisError as error:
        return _FromRedis(error=_reason(error))
    return _FromRedis(stream=stream, tasks=tasks, memory=memory)


def _read_balances(rows: Rows, found: _FromRedis, asked_at: datetime.datetime) -> tuple[tuple[Balance, ...], str]:
    """The balances, and why Redis is unavailable if that was found out now."""
    transports = tuple(conf.get_settings().transports)
    try:
        return read_balances(rows, found.stream, asked_at=asked_at, transports=transports), ""
    except redis.RedisError as error:
        return read_balances(rows, None, asked_at=asked_at, transports=transports), _reason(error)


def _reason(error: redis.RedisError) -> str:
    return str(error) or type(error).__name__


def _workers(groups: Sequence[GroupStatus]) -> tuple[Worker, ...]:
    return tuple(
        Worker(
            group=group.name,
            consumer=member.name,
            is_alive=member.is_alive,
            pending=member.pending,
            idle_seconds=member.idle_seconds,
        )
        for group in groups
        for member in group.members
    )


def _outbox() -> QuerySet[Event]:
    return _events().filter(IN_OUTBOX)


def _scheduled() -> QuerySet[Event]:
    return _events().filter(deliver_at__isnull=False)


def _count_overdue(events: QuerySet[Event], time_field: str, grace_seconds: float) -> int:
    return events.filter(**{f"{time_field}__lt": database_time(-grace_seconds - OVERDUE_SECONDS)}).count()


def _events() -> QuerySet[Event]:
    return Event.objects.using(router.db_for_write(Event))
