"""
The background tasks by queue and state.

Owns asking for them where there are tasks at all. Does not own counting them (realtime.tasks.status).
"""

import redis
from django.core.exceptions import ImproperlyConfigured

from notifications.statistics.figures import TaskFigures

__all__ = ["read_tasks"]


def read_tasks(client: redis.Redis) -> tuple[TaskFigures, ...]:
    """
    Count the background tasks of each queue.

    Raises:
        redis.RedisError: Redis is unavailable, or one of the keys has another type.
    """
    try:
        from realtime.tasks.status import known_queues, read_counts
    except ImproperlyConfigured:
        # Neither Django nor its backport provides the Tasks framework here.
        return ()
    return tuple(
        TaskFigures(
            queue=each.queue,
            ready=each.ready,
            scheduled=each.scheduled,
            running=each.running,
            failed=each.failed,
            successful=each.successful,
        )
        for each in read_counts(client, known_queues(client).values())
    )
