"""
Background tasks: a backend of Django's Tasks framework on Redis Streams, and its workers.

Owns the backend, the options of a task beyond Django's, periodic tasks, and waiting for results. Does not own the
stream worker that it stands on (streams).
"""

from realtime.tasks.backend import RedisStreamBackend
from realtime.tasks.periodic_tasks import periodic
from realtime.tasks.task import RedisTask
from realtime.tasks.waiting import await_result, wait

__all__ = ["RedisStreamBackend", "RedisTask", "await_result", "periodic", "wait"]
