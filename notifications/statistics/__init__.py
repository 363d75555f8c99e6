"""The figures of the dashboard: how many notifications were created, what became of them, and what processes did."""

from notifications.statistics.dashboard import read_dashboard
from notifications.statistics.figures import TaskFigures as TaskCounts
from notifications.statistics.tasks import read_tasks
from notifications.statistics.totals import (
    DeliveryCounts,
    DeliveryHour,
    Hour,
    RedisStatus,
    Statistics,
    Totals,
    collect,
    read_deliveries,
    read_delivery_hours,
    read_hours,
    read_redis,
    read_totals,
)

__all__ = [
    "DeliveryCounts",
    "DeliveryHour",
    "Hour",
    "RedisStatus",
    "Statistics",
    "TaskCounts",
    "Totals",
    "collect",
    "read_dashboard",
    "read_deliveries",
    "read_delivery_hours",
    "read_hours",
    "read_redis",
    "read_tasks",
    "read_totals",
]
