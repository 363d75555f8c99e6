"""What this process has counted for the statistics, in one test."""

from collections import Counter

from realtime.statistics.counting import counted

__all__ = ["Growth"]


class Growth:
    """What was counted since this was made, without histograms."""

    def __init__(self) -> None:
        self._before = counted()

    def of(self, *metrics: str) -> dict[tuple[str, ...], int]:
        """The metrics whose names begin with one of these: (name, labels) → number."""
        grown = Counter(counted())
        grown.subtract(self._before)
        return {key: number for key, number in grown.items() if number and key[0].startswith(metrics)}

    def durations(self, metric: str) -> int:
        """How many durations were observed."""
        return sum(self.of(metric).values())
