"""
Counts the WebSocket connections of this process.

Owns the counters. Does not own their meaning (realtime.statistics) nor when something is counted.
"""

from collections import Counter

from realtime.statistics import ClientStatistics, register

__all__ = ["ClientCounters", "counters"]


class ClientCounters:
    """The counters behind `ClientStatistics`; one object for all connections of the process."""

    def __init__(self) -> None:
        self.open_count = self.opened_count = self.revoked_count = 0
        self.refused: Counter[str] = Counter()
        self.closed: Counter[int] = Counter()

    def statistics(self) -> ClientStatistics:
        return ClientStatistics(
            open_count=self.open_count,
            opened_count=self.opened_count,
            refused_counts=dict(self.refused),
            closed_counts=dict(self.closed),
            revoked_count=self.revoked_count,
        )


counters = ClientCounters()
register(counters)
