"""
Redis Streams as work that must not be lost: consumer groups, leases, retries, dead letters.

Owns the worker engine. Does not own appending (realtime.publisher) nor the work itself.
"""

from realtime.streams.entry import Entry, Handler, WorkerStatistics
from realtime.streams.worker import StreamWorker

__all__ = ["Entry", "Handler", "StreamWorker", "WorkerStatistics"]
