"""
The tables of what processes have counted: one for each part, with the unit and the meaning of each counter.

Owns their order, and which labels are shown. Does not own the counters or their meanings (realtime.statistics.metrics).
"""

import re
from collections.abc import Iterator, Mapping

from notifications.admin.dashboard.tables import Cell, Table, number, text
from notifications.statistics.figures import Counters
from realtime.statistics.metrics import METRICS, OTHERS, Metric

__all__ = ["counter_tables"]

# The most labels of one counter, the largest first.
LABELS_SHOWN = 20
_COLUMNS = ("Counter", "Count", "Unit", "Meaning")
# The metric under which parts count what has no metric of its own. Its labels are (part, what).
_OTHERS = "others.totals"


def counter_tables(counters: Counters) -> tuple[Table, ...]:
    """One table for each part that has counted something, in the order of the documentation."""
    by_part: dict[str, list[tuple[Cell, ...]]] = {}
    # A newer process may count what this one does not know yet.
    known = [name for name in METRICS if name in counters.totals]
    for name in [*known, *sorted(counters.totals.keys() - METRICS.keys())]:
        by_label = counters.by_label.get(name, {})
        rows = _others(by_label) if name == _OTHERS else _metric(name, counters.totals[name], by_label)
        by_part.setdefault(name.partition(".")[0], []).extend(rows)
    return tuple(
        Table(name=f"counters-{part}", title=part, columns=_COLUMNS, rows=tuple(rows)) for part, rows in by_part.items()
    )


def _metric(name: str, total: int, by_label: Mapping[tuple[str, ...], int]) -> Iterator[tuple[Cell, ...]]:
    metric = METRICS.get(name, Metric(name=name, kind="total", unit="", meaning=""))
    own = name.partition(".")[2] or name
    unit = f"{metric.unit}, at most" if metric.kind == "now" else metric.unit
    yield text(own), number(total), text(unit), text(metric.meaning)
    for labels, count in _largest(by_label):
        yield text(f"{own}: {', '.join(labels)}", may_be_long=True), number(count), text(unit), text("")


def _others(by_label: Mapping[tuple[str, ...], int]) -> Iterator[tuple[Cell, ...]]:
    for labels, count in sorted(by_label.items()):
        yield text(": ".join(labels), may_be_long=True), number(count), text(""), text(_meaning_of_other(labels))


def _largest(by_label: Mapping[tuple[str, ...], int]) -> list[tuple[tuple[str, ...], int]]:
    return sorted(by_label.items(), key=lambda item: (-item[1], item[0]))[:LABELS_SHOWN]


def _meaning_of_other(labels: tuple[str, ...]) -> str:
    part, *what = labels
    for pattern, meanings in OTHERS.items():
        if _is_named(part, pattern):
            return next((meaning for each, meaning in meanings.items() if _is_named(": ".join(what), each)), "")
    return ""


def _is_named(name: str, pattern: str) -> bool:
    """Whether the name matches the pattern, in which "<…>" stands for any text."""
    parts = [re.escape(part) for part in re.split(r"<\w+>", pattern)]
    return re.fullmatch(".*".join(parts), name, re.DOTALL) is not None
