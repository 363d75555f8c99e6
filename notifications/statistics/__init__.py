"""The figures of the dashboard: how many notifications were created, what became of them, and what processes did."""

from notifications.statistics.totals import (
    DeliveryCounts,
    DeliveryHour,
    Hour,
    RedisStatus,
    Statistics,
    TaskCounts,
    Totals,
    collect,
    read_deliveries,
    read_delivery_hours,
    read_hours,
    read_redis,
    read_tasks,
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
    "read_deliveries",
    "read_delivery_hours",
    "read_hours",
    "read_redis",
    "read_tasks",
    "read_totals",
]
