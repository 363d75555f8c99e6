"""
What is kept of a run: all of it, if it measured everything; else nothing.

Owns when a run is whole, and the files that are made from it: latest.json, latest.md, the charts, and the tables in the
page on performance. Does not own their form (results, tables, charts).
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import charts, results, tables
from benchmarks.contenders import Contender
from benchmarks.results import Run
from benchmarks.scenarios import SCENARIOS, Scenario

__all__ = ["FULL_RUNS", "contenders_of", "files", "left_out", "write"]

# How often each contender is measured in a whole run, unless the scenario says less.
FULL_RUNS = 3
_PAGE = Path(__file__).resolve().parent.parent / "docs" / "topics" / "performance.md"


def contenders_of(scenario: Scenario) -> list[Contender]:
    """Those that the scenario can measure."""
    return [each for each in scenario.contenders.values() if each.is_ours or not scenario.ours_only]


def left_out(run: Run, failed: frozenset[tuple[str, str]] = frozenset()) -> list[str]:
    """
    What keeps a run from being whole, each "scenario: contender"; [] for a whole run.

    Args:
        failed: Scenarios and contenders that were tried and failed. A peer may fail: not every server can hold 10,000
            connections.
    """
    missing = []
    for name, scenario in SCENARIOS.items():
        for contender in contenders_of(scenario):
            figures = run.measured.get(name, {}).get(contender.name, {"runs": 0})
            is_allowed = (name, contender.name) in failed and not contender.is_ours
            if figures["runs"] < min(FULL_RUNS, scenario.runs) and not is_allowed:
                missing.append(f"{name}: {contender.title}")
    return missing


def files(runs: Sequence[Run]) -> dict[Path, str]:
    """The files that show these runs, and what is in them."""
    return {
        results.DIRECTORY / "latest.md": tables.markdown(runs),
        **{results.DIRECTORY / name: svg for name, svg in charts.draw_all(runs).items()},
        _PAGE: tables.with_quote(_PAGE.read_text(), runs),
    }


def write(runs: Sequence[Run]) -> None:
    """Write what shows these runs."""
    for path, text in files(runs).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
