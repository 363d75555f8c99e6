"""
Copies what processes count from Redis to the database, so that it outlives Redis, and sums the hours of each day.

Owns these copies (CounterPeriod). Does not own counting and pushing (realtime.statistics) nor when this runs
(workers.gatherer). One process at a time runs it, the holder of the relays' lease; two at the same time do no harm.
"""

import datetime
from collections.abc import Mapping

from django.db import router

from notifications import conf as notifications_conf
from notifications.conf import PARTS
from notifications.database import clock
from notifications.database.clock import moment_of, stored
from notifications.models import CounterPeriod
from notifications.statistics.counters import hour_number
from notifications.statistics.hours import HOURS_KEPT
from notifications.statistics.periods import DAY, HOUR
from realtime import conf
from realtime.exceptions import StreamUnavailable
from realtime.redis.outage import REDIS_ERRORS
from realtime.statistics import fields
from realtime.statistics import stored as in_redis
from realtime.statistics.pusher import HOUR_KEPT_SECONDS, HOUR_SECONDS
from realtime.streams.status import read_status

__all__ = ["Rollup"]

# If the relays are away for less than this time, no hour is missed.
HOURS_KEPT_IN_REDIS = HOUR_KEPT_SECONDS // HOUR_SECONDS
# Days that ended this long ago no longer change, and are added up.
DAY_IS_OVER = datetime.timedelta(hours=HOURS_KEPT_IN_REDIS)
# How long the database keeps days. It keeps hours as long as counted ones.
DAYS_KEPT = datetime.timedelta(days=800)


class Rollup:
    """
    The copies that one process makes.

    Guarantees:
        Each call copies the whole figures of an hour, so it does no harm to repeat or to interrupt one.
    """

    def __init__(self) -> None:
        # The hour in which all hours that Redis has were last copied, and days were added up.
        self._complete_at = -1

    def copy(self, now: datetime.datetime | None = None) -> int:
        """
        Copy the running hour and the one before. The first call in each hour that succeeds copies all hours of Redis.

        Older hours may still change, when a process reaches Redis again after an outage. Or they are missing, because
        this process could not copy them.

        Args:
            now: The present time by default; aware.

        Returns:
            How many hours were copied.

        Raises:
            StreamUnavailable: Redis is unavailable.
            OperationalError, InterfaceError: The database is unavailable.
        """
        now = clock.now() if now is None else now
        last = hour_number(now)
        back = 2 if self._complete_at == last else HOURS_KEPT_IN_REDIS
        try:
            self._keep_present_state(now)
            found = in_redis.read_hours(conf.sync_redis(), conf.keys(), range(last - back + 1, last + 1))
        except REDIS_ERRORS as error:
            raise StreamUnavailable(f"statistics cannot be read ({type(error).__name__}: {error})") from error
        for number, hour in found.items():
            start = datetime.datetime.fromtimestamp(number * HOUR.total_seconds(), datetime.UTC)
            _save(CounterPeriod.Length.HOUR, start, hour.epoch, hour.figures)
        if self._complete_at != last:
            _add_up_days(now)
            self._complete_at = last
        return len(found)

    def _keep_present_state(self, now: datetime.datetime) -> None:
        """Keep the maxima of the present state of all processes together, and of how much waits on the stream."""
        client, keys = conf.sync_redis(), conf.keys()
        state: dict[str, int] = {}
        for process in in_redis.read_processes(client, keys):
            if process.is_alive:
                for field, number in process.about.now.items():
                    state[field] = state.get(field, 0) + number
        (stream,) = read_status(client, [keys.stream(notifications_conf.STREAM)], groups=PARTS)
        for group in stream.groups:
            state[fields.encode(("streams.lag_count", group.name))] = group.lag or 0
            state[fields.encode(("streams.delayed_count", group.name))] = group.delayed
        in_redis.keep_maxima(client, keys, now.timestamp(), state)


def _save(length: CounterPeriod.Length, start: datetime.datetime, epoch: str, figures: Mapping[str, int]) -> None:
    CounterPeriod.objects.using(_database()).update_or_create(
        length=length, start=stored(start), epoch=epoch, defaults={"figures": figures}
    )


def _add_up_days(now: datetime.datetime) -> None:
    """Add up the hours of each day that is over, once, and delete what is too old to be shown."""
    periods = CounterPeriod.objects.using(_database())
    hours = periods.filter(length=CounterPeriod.Length.HOUR)
    over = now - DAY_IS_OVER
    days = periods.filter(length=CounterPeriod.Length.DAY)
    known = {moment_of(start) for start in days.values_list("start", flat=True)}
    found: dict[datetime.datetime, list[Mapping[str, int]]] = {}
    for start, figures in hours.filter(start__lt=stored(over)).values_list("start", "figures").order_by():
        day = moment_of(start).replace(hour=0)
        if day not in known and day + DAY <= over:
            found.setdefault(day, []).append(figures)
    for day, of_hours in found.items():
        _save(CounterPeriod.Length.DAY, day, "", fields.add(of_hours))
    hours.filter(start__lt=stored(now - HOURS_KEPT)).delete()
    days.filter(start__lt=stored(now - DAYS_KEPT)).delete()


def _database() -> str:
    return router.db_for_write(CounterPeriod)
