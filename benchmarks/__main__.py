"""
`python -m benchmarks`, or `make bench`: measure, compare, and keep the results.

Owns the command line and the order of runs: scenario by scenario, and in each the contenders in turn, again and again,
so that what changes on the machine meanwhile touches all alike.
"""

import argparse
import json
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import callers, charts, deliverers, machine, results, tables, targets
from benchmarks.contenders import Contender
from benchmarks.load_client import build
from benchmarks.processes import BenchmarkError
from benchmarks.scenarios import FULL, QUICK, SCENARIOS, Figures, Scenario, Sizes
from benchmarks.servers import SERVERS
from benchmarks.stage import Stage
from benchmarks.workers import WORKERS

__all__ = ["main", "measure"]

QUIET_LOAD = 1.0
CONTENDERS: dict[str, Contender] = {
    **SERVERS,
    **WORKERS,
    **deliverers.DELIVERERS,
    **callers.NOTIFIERS,
    **callers.PUBLISHERS,
}
_PAGE = Path(__file__).resolve().parent.parent / "docs" / "topics" / "performance.md"


def main(words: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 0, or 1 if a contender could not be measured."""
    options = _options(words)
    console = Console(stderr=options.json)
    if not console.is_terminal:
        # Into a file: nothing has to be folded.
        console = Console(stderr=options.json, width=160)
    sizes = QUICK if options.quick else FULL
    runs = options.runs or (1 if options.quick else 3)
    scenarios = [SCENARIOS[name] for name in options.scenario or SCENARIOS]
    names = _present(scenarios, options.server or CONTENDERS, console)
    load = machine.load_average()
    if not options.quick and load > QUIET_LOAD:
        console.print(f"[yellow]the load is {load:.1f}: other programs will disturb the figures")
    if any(scenario.needs_load_client for scenario in scenarios):
        build()
    with Stage(users=max(_users(scenario, sizes) for scenario in scenarios)) as stage:
        measured, failures = measure(scenarios, names, stage, sizes, runs=runs, console=console)
    for failure in failures:
        console.print(f"[red]{failure}", soft_wrap=True)
    if not options.quick:
        signed = results.sign(measured, commit=machine.commit(), load=load)
        measured = results.merge(results.load(), signed)
        _keep(measured, load)
    if options.json:
        sys.stdout.write(json.dumps(measured, indent=1) + "\n")
    else:
        _show(console, measured, [scenario.name for scenario in scenarios], with_targets=not options.quick)
    return 1 if failures else 0


def measure(
    scenarios: Sequence[Scenario],
    names: Collection[str],
    stage: Stage,
    sizes: Sizes,
    *,
    runs: int,
    console: Console,
) -> tuple[results.Results, list[str]]:
    """What is asked for, of the contenders of these names; and a sentence for each that could not be measured."""
    figures: dict[tuple[str, str], list[Figures]] = {}
    failures = []
    plan = [
        (scenario, contender)
        for scenario in scenarios
        for _ in range(min(runs, scenario.runs))
        for contender in scenario.contenders.values()
        if contender.name in names and (contender.is_ours or not scenario.ours_only)
    ]
    bar = Progress(
        TextColumn("{task.description:<60}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    with bar:
        task = bar.add_task("", total=len(plan))
        for scenario, contender in plan:
            bar.update(task, description=f"{scenario.name}: {contender.title}")
            try:
                figures.setdefault((scenario.name, contender.name), []).append(scenario.run(contender, stage, sizes))
            except (BenchmarkError, OSError) as error:
                failures.append(f"{scenario.name}: {contender.title}: {error}")
            bar.advance(task)
            if not console.is_terminal:
                console.print(f"{scenario.name}: {contender.title}: done")
    summary: results.Results = {}
    for (scenario_name, name), each in figures.items():
        if each:
            summary.setdefault(scenario_name, {})[name] = results.summarize(each)
    return summary, failures


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure Signalbox beside others.")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="only this one; may be given again")
    parser.add_argument(
        "--server",
        action="append",
        choices=CONTENDERS,
        help="only this server, worker, bot or caller; may be given again",
    )
    parser.add_argument("--runs", type=int, help="of each in each scenario; 3 by default, 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="small and short, to see that it works; keeps nothing")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of tables")
    return parser.parse_args(words)


def _present(scenarios: Sequence[Scenario], names: Collection[str], console: Console) -> list[str]:
    """The names of those that can be run here; of the others it says why not."""
    present = []
    for name in names:
        wanted = [contender for scenario in scenarios if (contender := scenario.contenders.get(name))]
        if wanted and (missing := wanted[0].missing()):
            console.print(f"[yellow]left out: {wanted[0].title}: {missing}")
        elif wanted:
            present.append(name)
    return present


def _users(scenario: Scenario, sizes: Sizes) -> int:
    sockets = {"idle": max(sizes.idle), "storm": sizes.storm}
    return sockets.get(scenario.name, sizes.connections) if scenario.needs_load_client else 1


def _keep(measured: results.Results, load: float) -> None:
    results.save(measured)
    charts.draw_all(measured)
    head = f"{machine.describe()}; what is measured on one core, everything else on the other; load before: {load:.1f}."
    (results.DIRECTORY / "latest.md").write_text(f"{head}\n\n{tables.markdown(measured)}")
    _PAGE.write_text(tables.with_quote(_PAGE.read_text(), measured))


def _show(console: Console, measured: results.Results, names: Sequence[str], *, with_targets: bool) -> None:
    for name in names:
        if name in measured:
            console.print(tables.terminal(name, measured))
    if not with_targets:
        return
    table = Table("target", "limit", "measured", "", title="Targets", title_justify="left", box=SIMPLE_HEAD)
    for outcome in targets.check(measured):
        limit = f"{'≥' if outcome.target.is_floor else '≤'} {outcome.target.limit:g}"
        value = "–" if outcome.value is None else f"{outcome.value:,.2f}"
        verdict = {None: "not measured", True: "[green]met", False: "[red]missed"}[outcome.is_met]
        table.add_row(outcome.target.text, limit, value, verdict)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
