"""How long to wait before the next attempt. Owns the only policy of the project: exponential, with jitter, capped."""

import random
from dataclasses import dataclass

__all__ = ["Backoff"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """
    Exponential backoff with jitter; by default with full jitter.

    Args:
        base_seconds: Upper bound of the first wait.
        cap_seconds: Upper bound of every wait.
        sure_part: The lower bound of each wait, as a fraction of its upper bound; 0 is full jitter.

    Source:
        "Exponential Backoff And Jitter", AWS Architecture Blog: sleep = random(0, min(cap, base * 2 ** attempt)).
    """

    base_seconds: float = 0.1
    cap_seconds: float = 5.0
    sure_part: float = 0.0

    def delay_seconds(self, attempt: int) -> float:
        """
        Seconds to wait before the next attempt.

        Args:
            attempt: The number of consecutive failures, less one: 0 after the first failure.
        """
        longest = self.longest_seconds(attempt)
        return random.uniform(self.sure_part * longest, longest)  # noqa: S311 - spreads load, keeps no secret

    def longest_seconds(self, attempt: int) -> float:
        """The upper bound of the wait that `delay_seconds` gives for the same `attempt`."""
        # The exponent is bounded: 2 ** 2000 would overflow long before the cap applies.
        return min(self.cap_seconds, self.base_seconds * 2.0 ** min(attempt, 32))
