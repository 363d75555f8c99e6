"""
Log records as a pipeline: a `logging` handler that appends records to a Redis Stream.

Owns the handler, and the form of a record on the stream. Does not own what becomes of the records (sinks).
"""

from realtime.logs.handler import RedisStreamHandler
from realtime.logs.record import LogRecord

__all__ = ["LogRecord", "RedisStreamHandler"]
