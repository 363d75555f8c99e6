"""
Histograms of durations with logarithmic buckets: a few integers, which can be added over processes and time.

Owns the bounds of the buckets, and percentiles. Does not own counting.
"""

import math
from collections.abc import Mapping

__all__ = ["BUCKETS", "bucket_of", "percentile"]

# Each bucket ends at 1.2 times its beginning, so its middle is at most 10 % off. Bucket 0 holds all up to 10 µs, and
# the last one all from about a day.
RATIO = 1.2
FIRST_SECONDS = 1e-5
LAST_BUCKET = 126
# The labels of all buckets, in order.
BUCKETS = tuple(str(bucket) for bucket in range(LAST_BUCKET + 1))
_LOG_RATIO = math.log(RATIO)


def bucket_of(seconds: float) -> int:
    """The bucket of a duration. Negative ones, which clocks that differ may give, count as 0."""
    if seconds <= FIRST_SECONDS:
        return 0
    return min(1 + int(math.log(seconds / FIRST_SECONDS) / _LOG_RATIO), LAST_BUCKET)


def percentile(buckets: Mapping[int, int], share: float) -> float | None:
    """
    The duration that `share` (0 to 1) of the counted ones did not exceed, in seconds; None if nothing was counted.

    Args:
        buckets: Bucket → count.
    """
    count = sum(buckets.values())
    if not count:
        return None
    rank = max(1, math.ceil(share * count))
    for bucket in sorted(buckets):
        rank -= buckets[bucket]
        if rank <= 0:
            break
    # The geometric middle of the bucket.
    return FIRST_SECONDS if bucket == 0 else float(FIRST_SECONDS * RATIO ** (bucket - 0.5))
