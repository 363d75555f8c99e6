"""
Log records on a Redis Stream: a `logging` handler appends them, for sinks to read.

Owns the handler, the intake of published records, and the form of a record. Does not own what reads them (sinks).
"""

from realtime.logs.handler import RedisStreamHandler
from realtime.logs.record import LogRecord

__all__ = ["LogRecord", "RedisStreamHandler"]
