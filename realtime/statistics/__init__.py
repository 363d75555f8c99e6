"""
What this process counts: `collect()` returns the counters of its parts; `count()` and `observe()` count by label.

Owns the counters of this process, their names (METRICS, each with its unit and meaning), pushing them to Redis, and
reading there what all processes have pushed. Does not own copies elsewhere, nor showing them.
"""

from realtime.statistics.counting import count, observe, observe_all
from realtime.statistics.metrics import METRICS, Metric
from realtime.statistics.parts import (
    ClientStatistics,
    HubStatistics,
    LayerStatistics,
    MultiplexerStatistics,
    Now,
    ProcessStatistics,
    SocketStatistics,
    Source,
    Total,
    Totals,
    ViewStatistics,
    WorkerStatistics,
    collect,
    register,
    unregister,
)

__all__ = [
    "METRICS",
    "ClientStatistics",
    "HubStatistics",
    "LayerStatistics",
    "Metric",
    "MultiplexerStatistics",
    "Now",
    "ProcessStatistics",
    "SocketStatistics",
    "Source",
    "Total",
    "Totals",
    "ViewStatistics",
    "WorkerStatistics",
    "collect",
    "count",
    "observe",
    "observe_all",
    "register",
    "unregister",
]
