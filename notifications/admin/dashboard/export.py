"""
The dashboard for programs and spreadsheets: JSON and CSV.

Owns these two forms. Does not own the figures, the tables that the CSV has (sections), or CSV itself (spreadsheet).
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from notifications.admin.dashboard.tables import Table
from notifications.admin.spreadsheet import csv_text
from notifications.statistics.figures import Dashboard

__all__ = ["as_csv", "as_json"]


def as_json(dashboard: Dashboard, *, with_errors: bool) -> bytes:
    """
    The fields of the dashboard. Counts by label are a list, because the keys of JSON are texts.

    Args:
        with_errors: Whether the user may see what providers answered. Otherwise `errors` is empty.
    """
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
            "errors": dashboard.errors if with_errors else (),
        }
    )


def as_csv(tables: Sequence[Table], *, is_single: bool) -> str:
    """
    Tables for a spreadsheet, with one header line.

    Args:
        tables: At least one.
        is_single: True for one table with its own columns. False for all tables in one, with a line for each figure:
            table, row, column, value.

    Guarantees:
        Those of `csv_text`: numbers have no separators, and no cell is run as a formula.
    """
    if is_single:
        (table,) = tables
        return csv_text(table.columns, ([cell.value for cell in row] for row in table.rows))
    figures = (
        (table.name, first.value, column, cell.value)
        for table in tables
        for first, *others in table.rows
        for column, cell in zip(table.columns[1:], others, strict=True)
    )
    return csv_text(("table", "row", "column", "value"), figures)


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}
