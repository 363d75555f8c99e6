"""
The dashboard for programs and spreadsheets: JSON and CSV.

Owns these two forms. Does not own the figures, or the tables that the CSV has (sections).
"""

import csv
import io
from collections.abc import Sequence
from typing import Any

import msgspec

from notifications.admin.dashboard.tables import Table, Value
from notifications.statistics.figures import Dashboard

__all__ = ["as_csv", "as_json"]

# A spreadsheet runs a cell that begins with one of these as a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def as_json(dashboard: Dashboard) -> bytes:
    """The fields of the dashboard. Counts by label are a list, because the keys of JSON are texts."""
    counters = dashboard.counters
    by_label = [
        {"metric": metric, "labels": labels, "count": count}
        for metric, counts in counters.by_label.items()
        for labels, count in counts.items()
    ]
    balances = [{**_fields(balance), "difference": balance.difference} for balance in dashboard.balances]
    return msgspec.json.encode(
        {
            **_fields(dashboard),
            "counters": {**_fields(counters), "by_label": by_label},
            "balances": balances,
        }
    )


def as_csv(tables: Sequence[Table], *, is_single: bool) -> str:
    """
    Tables for a spreadsheet, with one header line.

    Args:
        is_single: True for one table with its own columns. False for all tables in one, with a line for each figure:
            table, row, column, value.

    Guarantees:
        Numbers have no separators. No cell is run as a formula: a text that begins like one gets an apostrophe.
    """
    target = io.StringIO()
    writer = csv.writer(target)
    if is_single:
        writer.writerows([_safe(column) for column in table.columns] for table in tables)
        writer.writerows([_safe(cell.value) for cell in row] for table in tables for row in table.rows)
    else:
        writer.writerow(("table", "row", "column", "value"))
        for table in tables:
            for first, *others in table.rows:
                for column, cell in zip(table.columns[1:], others, strict=True):
                    writer.writerow([_safe(value) for value in (table.name, first.value, column, cell.value)])
    return target.getvalue()


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _safe(value: Value) -> Value:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
