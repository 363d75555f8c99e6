"""
Delivery statistics: how many notifications were created, what became of them, and what processes did.

Owns reading these figures, counting rows by the hour, copying the counters of processes to the database, and the ledger
of one notification. Does not own what processes count (realtime.statistics) nor pages (admin).
"""

from notifications.statistics.dashboard import read_dashboard
from notifications.statistics.tasks import read_tasks

__all__ = ["read_dashboard", "read_tasks"]
