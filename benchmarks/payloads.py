"""
What is sent: one JSON object of a fixed size, with a sequence number and the time of sending, both of a fixed width.

Owns that form; load/frames.c reads it. Does not own who sends it (publishers).
"""

import time

__all__ = ["PAYLOAD_BYTES", "payload"]

PAYLOAD_BYTES = 154
# As in load/load.h: so that numbers of any run have equally many digits.
SEQUENCE_BASE = 1_000_000_000
TIME_BASE = 1_000_000_000_000_000
_HEAD = '{"seq":%d,"t":%d,"text":"'
_TAIL = '"}'
_HEAD_BYTES = len(_HEAD % (SEQUENCE_BASE, TIME_BASE))


def payload(sequence: int, size_bytes: int = PAYLOAD_BYTES) -> bytes:
    """The message number `sequence` (the first is 1) of a topic, sent now."""
    head = _HEAD % (SEQUENCE_BASE + sequence, TIME_BASE + time.monotonic_ns() // 1000)
    return (head + "x" * (size_bytes - _HEAD_BYTES - len(_TAIL)) + _TAIL).encode()
