"""
CSV for spreadsheets.

Owns the form of its cells, and that none is run as a formula. Does not own what is in them (ledger, dashboard).
"""

import csv
import io
from collections.abc import Iterable, Sequence

__all__ = ["csv_text"]

type Cell = str | float | None

# A spreadsheet runs a cell that begins with one of these as a formula; some also take the full-width forms.
FORMULA_SIGNS = tuple("=+-@\t\r\n＝＋－＠")


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """
    A header line and rows.

    Guarantees:
        Numbers have no separators; None is an empty cell. A text that begins like a formula gets an apostrophe.
    """
    target = io.StringIO()
    writer = csv.writer(target)
    writer.writerow(header)
    writer.writerows([_safe(cell) for cell in row] for row in rows)
    return target.getvalue()


def _safe(cell: Cell) -> Cell:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_SIGNS) else cell
