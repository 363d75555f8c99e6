"""
What processes counted in a period: from Redis, and from the database for hours that Redis no longer has.

Owns reading and adding these figures. Does not own what is counted (realtime.statistics) nor copying them to the
database (rollup).
"""

import contextlib
import datetime
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import redis

from notifications.database.clock import moment_of, stored
from notifications.models import CounterPeriod
from notifications.statistics.figures import Counters, Latency, Period, Process
from notifications.statistics.periods import DAY, EPOCH, HOUR, MINUTE, point_length, starts_of
from realtime import conf
from realtime.statistics import fields
from realtime.statistics import stored as in_redis
from realtime.statistics.histograms import BUCKETS, percentile
from realtime.statistics.metrics import METRICS

__all__ = ["hour_number", "read_counters"]

_LATENCY_NAMES = {
    "publications.socket_seconds": "socket",
    "notifications.relay_seconds": "relay",
    "deliveries.send_seconds": "transport",
}

# The newest hours are read from Redis: the copies in the database are some seconds old.
HOURS_FROM_REDIS = 24

# Field (realtime.statistics.fields) → count.
type Figures = Mapping[str, int]


def read_counters(period: Period, now: datetime.datetime, *, has_redis: bool = True) -> Counters:
    """
    Read the counters of a period.

    Args:
        now: Its end; aware.
        has_redis: False if Redis is known to be unavailable, so that the caller does not wait for it again.

    Raises:
        OperationalError, InterfaceError: The database is unavailable.

    Guarantees:
        At most three round trips to Redis, and two queries. An outage of Redis is no error: the figures are then those
        of the database, without minutes and without processes.
    """
    starts = starts_of(period, now)
    if has_redis:
        with contextlib.suppress(redis.RedisError):
            return _from_redis(period, starts, now)
    points = [{} for _ in starts] if period == "hour" else _from_hours(starts, point_length(period), {})
    return _counters(starts, points, ())


def _from_redis(period: Period, starts: Sequence[datetime.datetime], now: datetime.datetime) -> Counters:
    client, keys = conf.sync_redis(), conf.keys()
    points: Sequence[Figures]
    if period == "hour":
        numbers = [_number(start, MINUTE) for start in starts]
        minutes = in_redis.read_minutes(client, keys, numbers)
        points = [minutes[number].figures if number in minutes else {} for number in numbers]
    else:
        newest = range(hour_number(now) - HOURS_FROM_REDIS + 1, hour_number(now) + 1)
        points = _from_hours(starts, point_length(period), in_redis.read_hours(client, keys, newest))
    return _counters(starts, points, _processes(in_redis.read_processes(client, keys)))


def hour_number(moment: datetime.datetime) -> int:
    """The hour of a moment, counted since 1970."""
    return _number(moment, HOUR)


def _from_hours(
    starts: Sequence[datetime.datetime], length: datetime.timedelta, recent: Mapping[int, in_redis.Stored]
) -> list[Figures]:
    """The figures of each point, from hours and days in the database and the newest hours in Redis."""
    periods = CounterPeriod.objects.filter(start__gte=stored(starts[0]))
    parts: list[tuple[datetime.datetime, Figures]] = []
    hours = periods.filter(length=CounterPeriod.Length.HOUR)
    if length == DAY:
        days = list(periods.filter(length=CounterPeriod.Length.DAY).order_by("start"))
        parts += [(moment_of(day.start), day.figures) for day in days]
        if days:
            hours = hours.filter(start__gte=stored(moment_of(days[-1].start) + DAY))
    # Of these hours, Redis has the same figures or newer ones. Compared as in columns: with USE_TZ off, the two hours
    # that are one on the clock at the end of summer time have the same start.
    newer = {(stored(EPOCH + number * HOUR), hour.epoch) for number, hour in recent.items()}
    parts += [(moment_of(row.start), row.figures) for row in hours if (row.start, row.epoch) not in newer]
    parts += [(EPOCH + number * HOUR, hour.figures) for number, hour in recent.items()]
    found: dict[datetime.datetime, list[Figures]] = {start: [] for start in starts}
    for moment, figures in parts:
        point = moment - (moment - EPOCH) % length
        if point in found:
            found[point].append(figures)
    return [fields.add(each) for each in found.values()]


def _counters(starts: Sequence[datetime.datetime], points: Sequence[Figures], processes: Sequence[Process]) -> Counters:
    totals: Counter[str] = Counter()
    by_label: dict[str, Counter[tuple[str, ...]]] = {}
    buckets: dict[tuple[str, ...], Counter[int]] = {}
    for field, number in fields.add(points).items():
        metric, *labels = fields.decode(field)
        if metric in METRICS and METRICS[metric].kind == "histogram":
            # Any program can write to Redis.
            if labels and labels[-1] in BUCKETS:
                *labels, bucket = labels
                buckets.setdefault((metric, *labels), Counter())[int(bucket)] += number
            continue
        totals[metric] += number
        if labels:
            by_label.setdefault(metric, Counter())[tuple(labels)] += number
    return Counters(
        totals=dict(totals),
        by_label={metric: dict(counts) for metric, counts in by_label.items()},
        points=tuple((start, _by_metric(point)) for start, point in zip(starts, points, strict=True)),
        latencies=tuple(_latencies(buckets)),
        processes=tuple(processes),
    )


def _by_metric(figures: Figures) -> dict[str, int]:
    found: Counter[str] = Counter()
    for field, number in figures.items():
        found[field.partition("|")[0]] += number
    return dict(found)


def _latencies(buckets: Mapping[tuple[str, ...], Mapping[int, int]]) -> Iterable[Latency]:
    for (metric, *labels), counts in sorted(buckets.items()):
        if metric in _LATENCY_NAMES:
            yield Latency(
                name=" ".join([_LATENCY_NAMES[metric], *labels]),
                count=sum(counts.values()),
                p50_seconds=percentile(counts, 0.5),
                p95_seconds=percentile(counts, 0.95),
                p99_seconds=percentile(counts, 0.99),
            )


def _processes(found: Iterable[in_redis.StoredProcess]) -> tuple[Process, ...]:
    # A management command that has ended is no sign of trouble, so it is left out.
    relevant = (each for each in found if each.about.is_alive or not _is_command(each.about.role))
    processes = [
        Process(
            name=each.about.name,
            role=each.about.role,
            started_at=datetime.datetime.fromtimestamp(each.about.started_at, datetime.UTC),
            seen_at=datetime.datetime.fromtimestamp(each.seen_at, datetime.UTC),
            is_alive=each.is_alive,
            now=each.about.now,
        )
        for each in relevant
    ]
    return tuple(sorted(processes, key=lambda each: (each.role, each.name, each.started_at)))


def _number(moment: datetime.datetime, length: datetime.timedelta) -> int:
    return (moment - EPOCH) // length


def _is_command(role: str) -> bool:
    """Whether it is a management command that is not a service."""
    return role != "web" and not role.startswith("run_") and not {"relay", "bot"} & set(role.split())
