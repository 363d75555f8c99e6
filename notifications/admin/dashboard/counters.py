"""
The tables of what processes have counted: one for each part, with what each counter means.

Owns the grouping. Does not own the counters or their meanings (realtime.statistics).
"""

from notifications.admin.dashboard.tables import Cell, Table, number, text
from notifications.statistics.figures import Counters

__all__ = ["counter_tables"]


def counter_tables(counters: Counters) -> tuple[Table, ...]:
    """One table for each part that has counted something, in the order of their names."""
    by_part: dict[str, list[tuple[Cell, ...]]] = {}
    for name in sorted(counters.totals):
        part, _, own = name.rpartition(".")
        by_part.setdefault(part or "others", []).extend(_rows(counters, name, own))
    return tuple(
        Table(name=f"counters-{part}", title=part, columns=("Counter", "Count", "Meaning"), rows=tuple(rows))
        for part, rows in by_part.items()
    )


def _rows(counters: Counters, name: str, own: str) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = [(text(own), number(counters.totals[name]), text(_meaning(name)))]
    by_label = sorted(counters.by_label.get(name, {}).items(), key=lambda item: (-item[1], item[0]))
    rows += [
        (text(f"{own}: {', '.join(labels)}"), number(count), text("")) for labels, count in by_label if any(labels)
    ]
    return rows


def _meaning(name: str) -> str:
    return ""
