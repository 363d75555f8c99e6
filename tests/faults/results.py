"""
What the matrix has found, as a table: in the terminal, on its page in docs/, and as JSON beside it.

Owns the form and the two files. A row replaces the same row of an earlier run on the same engine with the same seed.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from tests.faults.equation import Outcome
from tests.faults.rows import ROWS

__all__ = ["PAGE", "keep", "load", "terminal"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "topics" / "fault-matrix.md"
_JSON = PAGE.with_suffix(".json")
_BEGIN = "<!-- the table: `make faults` writes it -->\n"
_END = "<!-- the end of the table -->\n"
_COUNTS = (
    "published",
    "delivered",
    "failed",
    "expired",
    "lost",
    "doubled",
    "repeated",
    "received",
    "read",
    "missed",
    "out_of_order",
)
_HEADS = ("fault", "seeds", *(name.replace("_", " ") for name in _COUNTS), "settled within", "")


def load() -> dict[str, list[Outcome]]:
    """The outcomes that are kept, by engine."""
    if not _JSON.exists():
        return {}
    names = {field.name for field in fields(Outcome)}
    return {
        engine: [Outcome(**{name: value for name, value in each.items() if name in names}) for each in outcomes]
        for engine, outcomes in json.loads(_JSON.read_text()).items()
    }


def keep(outcomes: Sequence[Outcome]) -> None:
    """Put them in the place of those of the same rows and seeds, and write the page anew."""
    kept = load()
    engine = "PostgreSQL" if os.environ.get("DATABASE_URL") else "SQLite"
    run = {(outcome.row, outcome.seed) for outcome in outcomes}
    merged = [*outcomes, *(each for each in kept.get(engine, []) if (each.row, each.seed) not in run)]
    kept[engine] = sorted(
        (outcome for outcome in merged if outcome.row in ROWS),
        key=lambda outcome: (list(ROWS).index(outcome.row), outcome.seed),
    )
    _JSON.write_text(json.dumps({name: [asdict(each) for each in found] for name, found in kept.items()}, indent=1))
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    text = "\n".join(f"On {name}:\n\n{_markdown(kept[name])}\n" for name in sorted(kept, reverse=True))
    PAGE.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{after}")


def terminal(outcomes: Sequence[Outcome]) -> Table:
    """For rich."""
    table = Table(title="The fault matrix", title_justify="left", box=SIMPLE_HEAD)
    for number, head in enumerate(_HEADS):
        table.add_column(head, justify="left" if number in (0, len(_HEADS) - 1) else "right")
    for cells in _rows(outcomes):
        table.add_row(*cells)
    return table


def _markdown(outcomes: Sequence[Outcome]) -> str:
    rule = ["---", *["--:"] * (len(_HEADS) - 2), "---"]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (_HEADS, rule, *_rows(outcomes)))


def _rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    found = []
    for name, row in ROWS.items():
        mine = [outcome for outcome in outcomes if outcome.row == name]
        if mine:
            sums = [_sum(getattr(outcome, count) for outcome in mine) for count in _COUNTS]
            verdict = "ok" if all(outcome.is_ok for outcome in mine) else "FAILED"
            settled = f"{max(outcome.settle_seconds for outcome in mine):.1f} s"
            found.append([row.title, str(len(mine)), *sums, settled, verdict])
    return found


def _sum(counts: Iterable[int | None]) -> str:
    known = [count for count in counts if count is not None]
    return f"{sum(known):,}" if known else "–"
