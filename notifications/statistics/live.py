"""
The live numbers of the dashboard: how much waits at this moment.

Owns their names, and the message. Does not own when they are published (workers.gatherer), the other figures, which a
page reads again when these arrive (dashboard), nor the topic (topics).
"""

from typing import Any

import redis
from django.db import router

from notifications.conf import PARTS, STATISTICS_TOPIC, STREAM
from notifications.database import clock
from notifications.models import IN_OUTBOX, Event
from realtime import conf
from realtime.exceptions import Unavailable
from realtime.publisher import publish
from realtime.streams.status import read_status

__all__ = ["publish_live"]


def publish_live() -> bool:
    """
    Publish how much waits at this moment, so that open dashboards show it and read the other figures again.

    The message is {"at": a time in UTC, "outbox", "lag", "pending", "delayed": numbers}. `outbox` counts events, the
    others count entries, summed over the groups. `lag` is null if Redis does not know it. Sync: it uses the ORM.

    Returns:
        Whether a web process received it, which it does while somebody looks at a dashboard. False if Redis is
        unavailable: the next message replaces this one anyway.

    Raises:
        OperationalError, InterfaceError: The database is unavailable.

    Guarantees:
        One query that an index answers, and four round trips to Redis.
    """
    try:
        published = publish(STATISTICS_TOPIC, {"at": clock.now().isoformat(), **_read(conf.sync_redis())})
    except (Unavailable, redis.RedisError):
        return False
    return published.receiver_count > 0


def _read(client: redis.Redis) -> dict[str, Any]:
    (stream,) = read_status(client, [conf.keys().stream(STREAM)], groups=PARTS)
    groups = [group for group in stream.groups if group.name in PARTS]
    lags = [group.lag for group in groups]
    return {
        # From the database of `dashboard`: a replica may lag, and the number would change with every refresh.
        "outbox": Event.objects.using(router.db_for_write(Event)).filter(IN_OUTBOX).count(),
        "lag": None if None in lags else sum(lag or 0 for lag in lags),
        "pending": sum(group.pending for group in groups),
        "delayed": sum(group.delayed for group in groups),
    }
