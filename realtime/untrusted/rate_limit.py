"""A token bucket: a burst at once, then a steady rate. Does not own what happens when it is empty."""

import time

__all__ = ["TokenBucket"]


class TokenBucket:
    """
    Limits the rate of what one party does.

    Args:
        per_second: How many tokens are added per second.
        burst: The most tokens it holds; it starts full.
    """

    __slots__ = ("_burst", "_counted_at", "_left", "_per_second")

    def __init__(self, *, per_second: float, burst: int) -> None:
        self._per_second, self._burst = per_second, burst
        self._left = float(burst)
        self._counted_at = time.monotonic()

    def take(self) -> bool:
        """Take one token; False if there is none."""
        now = time.monotonic()
        left = min(self._burst, self._left + (now - self._counted_at) * self._per_second) - 1.0
        self._counted_at = now
        self._left = max(left, -1.0)
        return left >= 0.0
