"""
What the runs gave: medians, how far apart the runs were, and the file that keeps them.

Owns `results/latest.json`: scenario → server → figures. A figure is the median of its runs; "runs" says of how many,
"spread" has the lowest and the highest of each, and "of" when, of which commit and at which load they were measured.
"""

import datetime
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["DIRECTORY", "LATEST", "Results", "load", "merge", "save", "sign", "summarize"]

DIRECTORY = Path(__file__).resolve().parent / "results"
LATEST = DIRECTORY / "latest.json"

# Scenario → server → figures.
type Results = dict[str, dict[str, dict[str, Any]]]

# What must be 0 in each run, not only in most of them: the worst run counts.
_WORST = ("lost", "doubled", "closed", "failed", "fell_behind")


def summarize(runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The figures of one server in one scenario, from those of its runs."""
    names = runs[0].keys()
    values = {name: [run[name] for run in runs if name in run] for name in names}
    figures: dict[str, Any] = {
        name: round(max(each) if name.startswith(_WORST) else statistics.median(each), 4)
        for name, each in values.items()
    }
    figures["runs"] = len(runs)
    figures["spread"] = {name: [round(min(each), 4), round(max(each), 4)] for name, each in values.items()}
    return figures


def sign(measured: Results, *, commit: str, load: float) -> Results:
    """The same, saying of what it is: `load` is that of the machine before the runs."""
    of = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "commit": commit,
        "load": round(load, 1),
    }
    return {
        scenario: {name: {**each, "of": of} for name, each in found.items()} for scenario, found in measured.items()
    }


def load() -> Results:
    """What was kept last; nothing, if nothing was."""
    return json.loads(LATEST.read_text()) if LATEST.exists() else {}


def merge(old: Results, new: Results) -> Results:
    """`old` with what was measured anew in its place."""
    scenarios = [*old, *(name for name in new if name not in old)]
    return {name: {**old.get(name, {}), **new.get(name, {})} for name in scenarios}


def save(results: Results) -> None:
    """Keep them."""
    DIRECTORY.mkdir(exist_ok=True)
    LATEST.write_text(json.dumps(results, indent=1) + "\n")
