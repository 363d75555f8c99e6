"""
The stream of log records.

Owns its default name and length, the field and the largest size of a record, and how long a batch may be repeated. Does
not own the form of a record (record) nor appending (streams.append).
"""

from typing import Final

__all__ = ["DEFAULT_STREAM", "GUARD_SECONDS", "RECORD_FIELD", "RECORD_LIMIT_BYTES", "STREAM_LIMIT"]

DEFAULT_STREAM: Final = "logs"
# The most entries of the stream, by default.
STREAM_LIMIT: Final = 1_000_000
# The only field of an entry; its value is the JSON of one record.
RECORD_FIELD: Final = "record"
# A larger record is refused.
RECORD_LIMIT_BYTES: Final = 1 << 20
# Appending a batch again within this time has no effect.
GUARD_SECONDS: Final = 300.0
