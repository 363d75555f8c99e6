"""
`python -m tests.faults`, or `make faults`: run the matrix, show it, and keep it.

Owns the command line and the order of runs. Does not own the rows (rows) nor how results are kept (results).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.faults import results
from tests.faults.equation import Outcome
from tests.faults.rows import ROWS
from tests.faults.running import CALLS, run

__all__ = ["main"]


def main(words: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 0, or 1 if a row failed."""
    options = _options(words)
    console = Console(stderr=options.json)
    if not console.is_terminal:
        # Into a file: nothing has to be folded.
        console = Console(stderr=options.json, width=180)
    plan = [(name, seed) for name in options.row or ROWS for seed in options.seed or (1, 2, 3)]
    outcomes = sorted(_run_all(plan, options, console), key=lambda outcome: plan.index((outcome.row, outcome.seed)))
    if options.json:
        sys.stdout.write(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    else:
        console.print(results.terminal(outcomes))
    for outcome in outcomes:
        if not outcome.is_ok:
            console.print(f"{outcome.row}, seed {outcome.seed}: {outcome.error}", markup=False, soft_wrap=True)
    return 0 if all(outcome.is_ok for outcome in outcomes) else 1


def _run_all(plan: list[tuple[str, int]], options: argparse.Namespace, console: Console) -> list[Outcome]:
    outcomes = []
    bar = Progress(
        TextColumn("{task.description:<44}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    with bar, ThreadPoolExecutor(options.jobs) as pool:
        task = bar.add_task("starting", total=len(plan))
        runs = [pool.submit(run, name, seed, calls=options.calls, log=options.logs) for name, seed in plan]
        try:
            for each in as_completed(runs):
                outcome = each.result()
                outcomes.append(outcome)
                if options.calls == CALLS and not options.discard:
                    # At once: a run that is broken off has not been for nothing.
                    results.keep([outcome])
                said = f"{outcome.row}, seed {outcome.seed}: {outcome.error.partition(chr(10))[0] or 'ok'}"
                bar.update(task, advance=1, description=said)
                if not console.is_terminal:
                    console.print(f"{said}, {outcome.seconds} s", markup=False, soft_wrap=True)
        finally:
            # Ctrl-C: those that run come to their end, the others do not begin.
            pool.shutdown(wait=False, cancel_futures=True)
    return outcomes


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make faults", description="Let parts of a site fail, and count.")
    parser.add_argument("--row", action="append", choices=ROWS, help="only this one; may be given again")
    parser.add_argument("--seed", action="append", type=int, help="of the schedules; 1, 2 and 3 by default")
    parser.add_argument("--calls", type=int, default=CALLS, help="of notify() in a row; default: %(default)s")
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON instead of a table")
    parser.add_argument("--logs", action="store_true", help="with a row that failed, show what its processes wrote")
    parser.add_argument("--discard", action="store_true", help="leave the results in docs/topics/ as they are")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
