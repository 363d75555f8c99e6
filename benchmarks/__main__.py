"""
`python -m benchmarks`, or `make bench`: measure, compare, and keep the figures of whole scenarios.

Owns the command line and the order of measuring: scenario by scenario, and in each the contenders in turn, again and
again, so that what changes on the machine meanwhile affects all alike. Does not own what is kept (keeping).
"""

import argparse
import json
import sys
from collections.abc import Collection, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import keeping, machine, results, tables, targets
from benchmarks.contenders import Contender
from benchmarks.load_client import build
from benchmarks.processes import BenchmarkError
from benchmarks.scenarios import FULL, QUICK, SCENARIOS, Figures, Scenario, Sizes
from benchmarks.stage import Stage

__all__ = ["main", "measure"]

QUIET_LOAD = 1.0
CONTENDERS: dict[str, Contender] = {
    name: contender for scenario in SCENARIOS.values() for name, contender in scenario.contenders.items()
}


def main(words: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 0, or 1 if a contender could not be measured."""
    options = _options(words)
    console = Console(stderr=options.json)
    if not console.is_terminal:
        # Into a file: nothing has to be folded.
        console = Console(stderr=options.json, width=160)
    if options.redraw:
        keeping.write(results.load())
        return 0
    sizes = QUICK if options.quick else FULL
    runs = options.runs or (1 if options.quick else keeping.FULL_RUNS)
    scenarios = [SCENARIOS[name] for name in options.scenario or SCENARIOS]
    names = _present(scenarios, options.server or CONTENDERS, console)
    load = machine.load_average()
    if not options.quick and load > QUIET_LOAD:
        console.print(f"[yellow]the load is {load:.1f}: other programs will disturb the figures")
    if any(scenario.needs_load_client for scenario in scenarios):
        build()
    with Stage(users=max(_users(scenario, sizes) for scenario in scenarios)) as stage:
        values, failures = measure(scenarios, names, stage, sizes, runs=runs, console=console)
    for (scenario, name), failure in failures.items():
        console.print(f"[red]{scenario}: {CONTENDERS[name].title}: {failure}", soft_wrap=True)
    run = results.new_run(
        values, machine=machine.describe(), versions=machine.versions(), commit=machine.commit(), load=load
    )
    if options.json:
        sys.stdout.write(json.dumps({**run.head(), "measured": run.measured}, indent=1) + "\n")
    else:
        _show(console, run, with_targets=not options.quick)
    if not options.quick:
        _keep(console, run, values, frozenset(failures))
    return 1 if failures else 0


def measure(
    scenarios: Sequence[Scenario],
    names: Collection[str],
    stage: Stage,
    sizes: Sizes,
    *,
    runs: int,
    console: Console,
) -> tuple[results.Values, dict[tuple[str, str], str]]:
    """Measure the contenders of these names; returns their figures, and of each that could not be measured why not."""
    values: dict[str, dict[str, list[Figures]]] = {}
    failures: dict[tuple[str, str], str] = {}
    plan = [
        (scenario, contender)
        for scenario in scenarios
        for _ in range(min(runs, scenario.runs))
        for contender in keeping.contenders_of(scenario)
        if contender.name in names
    ]
    bar = Progress(
        TextColumn("{task.description:<60}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    with bar:
        task = bar.add_task("", total=len(plan))
        for scenario, contender in plan:
            bar.update(task, description=f"{scenario.name}: {contender.title}")
            try:
                figures = scenario.run(contender, stage, sizes)
            except (BenchmarkError, OSError) as error:
                failures[scenario.name, contender.name] = str(error)
            else:
                values.setdefault(scenario.name, {}).setdefault(contender.name, []).append(figures)
            bar.advance(task)
            if not console.is_terminal:
                console.print(f"{scenario.name}: {contender.title}: done")
    return values, failures


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
    parser.add_argument(
        "--redraw", action="store_true", help="measure nothing: write tables and charts of what is kept"
    )
    parser.add_argument("--json", action="store_true", help="print the figures of this run as JSON instead of tables")
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
    sockets = {"idle": max(sizes.idle), "storm": sizes.storm, "map": sizes.map.viewers}
    return sockets.get(scenario.name, sizes.connections) if scenario.needs_load_client else 1


def _keep(console: Console, run: results.Run, values: results.Values, failed: frozenset[tuple[str, str]]) -> None:
    console.print(f"each measurement of this run: {results.save_raw(run, values)}", soft_wrap=True)
    for scenario in run.measured:
        if missing := keeping.left_out(run, scenario, failed):
            others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            console.print(
                f"{scenario} stays in {results.DIRECTORY} as it is: not measured {keeping.FULL_RUNS} times: "
                f"{missing[0]}{others}",
                soft_wrap=True,
            )
    kept = results.load()
    runs = keeping.with_run(kept, run, failed)
    if runs != kept:
        results.save(runs)
        keeping.write(runs)


def _show(console: Console, run: results.Run, *, with_targets: bool) -> None:
    """The tables of this run, and the targets on which it has figures."""
    for name in run.measured:
        console.print(tables.terminal(name, [run]))
    if not with_targets:
        return
    table = Table("target", "limit", "measured", "", title="Targets", title_justify="left", box=SIMPLE_HEAD)
    for outcome in targets.check(run.measured):
        if outcome.value is not None:
            limit = f"{'≥' if outcome.target.is_floor else '≤'} {outcome.target.limit:g}"
            verdict = "[green]met" if outcome.is_met else "[red]missed"
            table.add_row(outcome.target.text, limit, f"{outcome.value:,.2f}", verdict)
    if table.row_count:
        console.print(table)


if __name__ == "__main__":
    sys.exit(main())
