"""
Sinks turn log records into files: declare `Sink` subclasses in an app's `sinks.py`, and run `manage.py run_log_sink`.

Owns the sinks, their storage and their service. Does not own the records (logs) nor the stream worker (streams).
"""

from realtime.sinks.base import Sink, all_sinks
from realtime.sinks.content import ContentSink
from realtime.sinks.rolling import NdjsonSink

__all__ = ["ContentSink", "NdjsonSink", "Sink", "all_sinks"]
