"""
The figures that are kept: each scenario's, from the last run that measured the scenario completely.

Owns when a scenario is complete, and which files are made from the kept figures: latest.md, the charts, and the tables
in the page on performance. Does not own their form (tables, charts) nor latest.json (results).

The figures of one scenario are compared with each other, so they are kept or replaced together. Each scenario is kept
or replaced alone.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from benchmarks import charts, results, tables
from benchmarks.contenders import Contender
from benchmarks.results import Run
from benchmarks.scenarios import SCENARIOS, Scenario

__all__ = ["FULL_RUNS", "contenders_of", "files", "left_out", "with_run", "write"]

# How often each contender is measured, unless the scenario asks for fewer runs.
FULL_RUNS = 3
_PAGE = Path(__file__).resolve().parent.parent / "docs" / "topics" / "performance.md"


def contenders_of(scenario: Scenario) -> list[Contender]:
    """The contenders that the scenario can measure."""
    return [each for each in scenario.contenders.values() if each.is_ours or not scenario.ours_only]


def left_out(run: Run, scenario: str, failed: frozenset[tuple[str, str]] = frozenset()) -> list[str]:
    """
    The titles of the contenders that a run has not measured often enough in a scenario; [] if it is complete.

    Args:
        failed: Scenarios and contenders that were tried and failed. A peer may fail: not every server can hold 10,000
            connections.
    """
    missing = []
    for contender in contenders_of(SCENARIOS[scenario]):
        figures = run.measured.get(scenario, {}).get(contender.name, {"runs": 0})
        is_allowed = (scenario, contender.name) in failed and not contender.is_ours
        if figures["runs"] < min(FULL_RUNS, SCENARIOS[scenario].runs) and not is_allowed:
            missing.append(contender.title)
    return missing


def with_run(kept: Sequence[Run], run: Run, failed: frozenset[tuple[str, str]] = frozenset()) -> list[Run]:
    """
    The runs to keep after a run: its complete scenarios, and the other scenarios of the runs before it.

    Args:
        kept: The runs that were kept before.
        failed: As for `left_out`.
    """
    whole = {name: found for name, found in run.measured.items() if not left_out(run, name, failed)}
    rest = [
        dataclasses.replace(each, measured={name: found for name, found in each.measured.items() if name not in whole})
        for each in kept
    ]
    return [each for each in (*rest, dataclasses.replace(run, measured=whole)) if each.measured]


def files(runs: Sequence[Run]) -> dict[Path, str]:
    """The files that show these runs, with their texts."""
    return {
        results.DIRECTORY / "latest.md": tables.markdown(runs),
        **{results.DIRECTORY / name: svg for name, svg in charts.draw_all(runs).items()},
        _PAGE: tables.with_quote(_PAGE.read_text(), runs),
    }


def write(runs: Sequence[Run]) -> None:
    """Write the files that show these runs."""
    for path, text in files(runs).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
