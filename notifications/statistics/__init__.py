"""The figures of the dashboard: how many notifications were created, what became of them, and what processes did."""

from notifications.statistics.dashboard import read_dashboard
from notifications.statistics.tasks import read_tasks

__all__ = ["read_dashboard", "read_tasks"]
