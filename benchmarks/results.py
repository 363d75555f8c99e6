"""
Runs: what each measured, on which machine and of which code, and the file that keeps the latest figures.

Owns `results/latest.json`, and one file for each run in VAR_DIR/benchmarks, which git ignores. Does not own measuring,
nor tables and charts.

A run is one call of `python -m benchmarks`. Figures are compared within a run only: another run may have had another
machine, another load or other versions.
"""

import datetime
import json
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "DIRECTORY",
    "LATEST",
    "Measured",
    "Run",
    "Values",
    "find",
    "load",
    "new_run",
    "save",
    "save_raw",
    "summarize",
]

DIRECTORY = Path(__file__).resolve().parent / "results"
LATEST = DIRECTORY / "latest.json"

# Scenario → contender → figures. A figure is the median of several measurements; "runs" says of how many, "spread" has
# the lowest and the highest of each.
type Measured = dict[str, dict[str, dict[str, Any]]]
# Scenario → contender → the figures of each measurement.
type Values = Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]

# What must be 0 in each measurement, not only in most of them: the worst one counts.
_WORST = ("lost", "doubled", "closed", "failed", "fell_behind")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """
    Attributes:
        id: Its name.
        at: When it ended, in UTC.
        machine: The processor, the cores and the kernel.
        versions: Of Python and of the packages that are measured.
        commit: Of the code that is measured; with a "+" if something of it was not committed.
        load: The load of the machine before the run.
        measured: Its figures.
    """

    id: str
    at: str
    machine: str
    versions: Mapping[str, str]
    commit: str
    load: float
    measured: Measured

    def head(self) -> dict[str, Any]:
        """All but the figures, as JSON has it."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "measured"}


def new_run(values: Values, *, machine: str, versions: Mapping[str, str], commit: str, load: float) -> Run:
    """A run that ends now."""
    now = datetime.datetime.now(datetime.UTC)
    return Run(
        id=f"{now:%Y%m%dT%H%M%S}-{commit}",
        at=now.isoformat(timespec="minutes"),
        machine=machine,
        versions=versions,
        commit=commit,
        load=round(load, 1),
        measured={
            scenario: {name: summarize(each) for name, each in found.items()} for scenario, found in values.items()
        },
    )


def summarize(measurements: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The figures of one contender in one scenario."""
    values = {name: [each[name] for each in measurements if name in each] for name in measurements[0]}
    figures: dict[str, Any] = {
        name: round(max(each) if name.startswith(_WORST) else statistics.median(each), 4)
        for name, each in values.items()
    }
    figures["runs"] = len(measurements)
    figures["spread"] = {name: [round(min(each), 4), round(max(each), 4)] for name, each in values.items()}
    return figures


def find(runs: Iterable[Run], scenario: str, contender: str) -> Run | None:
    """The latest of these runs that has figures of this contender."""
    having = [run for run in runs if contender in run.measured.get(scenario, {})]
    return max(having, key=lambda run: run.at, default=None)


def load(path: Path = LATEST) -> list[Run]:
    """What is kept: of each scenario the last run that measured it as a whole; [] if nothing is."""
    if not path.exists():
        return []
    return [Run(**{**run, "measured": _unpacked(run["measured"])}) for run in json.loads(path.read_text())["runs"]]


def save(runs: Sequence[Run], path: Path = LATEST) -> None:
    """Keep these runs, and nothing else."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'{{"runs": [\n{",\n".join(_written(run) for run in runs)}\n]}}\n')


def save_raw(run: Run, values: Values) -> Path:
    """Write each measurement of a run into a file of its own; returns its path."""
    root = DIRECTORY.parent.parent
    path = Path(os.environ.get("VAR_DIR") or root / "var") / "benchmarks" / f"{run.id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**run.head(), "values": values}, indent=1) + "\n")
    return path


def _written(run: Run) -> str:
    """JSON with one line for each contender, so that a change of one figure is a change of one line."""
    scenarios = ",\n".join(
        f"  {json.dumps(scenario)}: {{\n{',\n'.join(_line(name, figures) for name, figures in found.items())}\n  }}"
        for scenario, found in run.measured.items()
    )
    head = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in run.head().items())
    return f'{{\n{head},\n "measured": {{\n{scenarios}\n }}\n}}'


def _line(name: str, figures: Mapping[str, Any]) -> str:
    """A figure is [median, lowest, highest], or a number where all three are the same."""
    packed: dict[str, Any] = {"runs": figures["runs"]}
    for figure, (lowest, highest) in figures["spread"].items():
        value = figures[figure]
        packed[figure] = value if value == lowest == highest else [value, lowest, highest]
    return f"   {json.dumps(name)}: {json.dumps(packed)}"


def _unpacked(measured: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Measured:
    found: Measured = {}
    for scenario, contenders in measured.items():
        for name, packed in contenders.items():
            triples = {
                figure: value if isinstance(value, list) else [value] * 3
                for figure, value in packed.items()
                if figure != "runs"
            }
            found.setdefault(scenario, {})[name] = {
                **{figure: value for figure, (value, _, _) in triples.items()},
                "runs": packed["runs"],
                "spread": {figure: [lowest, highest] for figure, (_, lowest, highest) in triples.items()},
            }
    return found
