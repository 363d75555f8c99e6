"""
The data of a vehicle: a JSON object of 150 bytes, all numbers of a fixed width.

Owns that form; load/map.c reads it. Does not own who sends it (publishers).
"""

from benchmarks.payloads import TIME_BASE

__all__ = ["NEVER", "PAYLOAD_BYTES", "SECOND_BASE", "VEHICLE_BASE", "payload"]

PAYLOAD_BYTES = 150
VEHICLE_BASE, SECOND_BASE = 100_000, 1_000_000
# The time of an update that is not sent yet; it has equally many digits.
NEVER = 0
_HEAD = b'{"v":%d,"n":%d,"t":%d,"x":%d,"y":%d,"line":"'
_HEAD_BYTES = len(_HEAD % (VEHICLE_BASE, SECOND_BASE, TIME_BASE, 500_000_000, 300_000_000))
_TEMPLATE = _HEAD + b"x" * (PAYLOAD_BYTES - _HEAD_BYTES - 2) + b'"}'


def payload(vehicle: int, second: int, microseconds: int, x: int, y: int) -> bytes:
    """The data of a vehicle in a second of the run, sent at this time of the monotonic clock."""
    return _TEMPLATE % (VEHICLE_BASE + vehicle, SECOND_BASE + second, TIME_BASE + microseconds, x, y)
