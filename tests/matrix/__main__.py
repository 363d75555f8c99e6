"""
`make matrix`: run the ring over the versions that this machine has or can fetch, each at least once.

Prints each step when it ends, and then a table. The exit code is 1 if a cell failed. Versions that this machine neither
has nor can fetch are listed as not run.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.matrix import report
from tests.matrix.cell import Step, run
from tests.matrix.programs import Programs, Unavailable
from tests.matrix.versions import DATABASES, DJANGOS, PYTHONS, SERVERS, Cell, plan
from tests.support.wheel import ROOT, build_wheel

# How many lines of the output of a failed step are shown.
SHOWN_LINES = 40
# This database needs no server.
NO_SERVER = "SQLite"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells that the command line asks for; returns the exit code."""
    options = _parse(arguments)
    programs = Programs(cache=ROOT / "var/matrix", server_directory=os.environ.get("MATRIX_SERVERS", ""))
    # Only a run fetches what is not here.
    find_server = programs.source if options.list else programs.server
    cells, not_run = _plan(programs, find_server, ends_only=options.ends)
    chosen = {number: cell for number, cell in enumerate(cells, 1) if options.cell in (None, number)}
    for name, reason in not_run.items():
        _say(f"not run: {name}: {reason}")
    if options.list:
        _say(*(f"{number}. {cell}{_to_fetch(programs, cell)}" for number, cell in chosen.items()))
        return 0
    cells = list(chosen.values())
    results = []
    with tempfile.TemporaryDirectory(prefix="sb-wheel-") as name:
        wheel = build_wheel(Path(name))
        for number, cell in enumerate(cells, 1):
            _say(f"cell {number} of {len(cells)}: {cell}")
            results.append(run(cell, programs, wheel, report=_report))
    _say("", report.table(results), *(f"not run: {name}" for name in not_run))
    if options.json:
        report.write_json(options.json, results, not_run)
    if options.junit:
        report.write_junit(options.junit, results)
    if options.docs:
        report.write_docs(results, not_run)
    return 0 if results and all(result.has_passed for result in results) else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make matrix", description=__doc__)
    parser.add_argument("--ends", action="store_true", help="only the oldest of all parts and the newest of all")
    parser.add_argument("--list", action="store_true", help="only say which cells there are")
    parser.add_argument("--cell", type=int, metavar="N", help="only this one of them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write a JUnit report there")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/reference/versions.md")
    options = parser.parse_args(arguments)
    if options.docs and (options.ends or options.cell is not None):
        parser.error("--docs needs all cells: the table would say that the other versions were not run")
    return options


def _to_fetch(programs: Programs, cell: Cell) -> str:
    """The packages that a run of this cell will fetch for its servers, in brackets; "" if there are none."""
    servers = [name for name in (cell.server, cell.database) if name != NO_SERVER]
    packages = ", ".join(filter(None, map(programs.source, servers)))
    return f" (fetches {packages})" if packages else ""


def _plan(
    programs: Programs, find_server: Callable[[str], object], *, ends_only: bool
) -> tuple[list[Cell], dict[str, str]]:
    """The cells, and for each version that is not run the reason."""
    not_run: dict[str, str] = {}

    def there(names: Sequence[str], find: Callable[[str], object], kind: str = "") -> list[str]:
        if ends_only:
            # Only as many are looked for, and fetched, as it takes to have one at each end.
            found = [*filter(None, (next(filter(is_there(find, kind), row), None) for row in (names, names[::-1])))]
        else:
            found = list(filter(is_there(find, kind), names))
        if not found:
            sys.exit(f"None of these was found: {', '.join(kind + name for name in names)}")
        return found

    def is_there(find: Callable[[str], object], kind: str) -> Callable[[str], bool]:
        def check(name: str) -> bool:
            try:
                find(name)
            except Unavailable as error:
                not_run[f"{kind}{name}"] = str(error)
            return f"{kind}{name}" not in not_run

        return check

    cells = plan(
        pythons=there(PYTHONS, programs.python, "Python "),
        djangos=[DJANGOS[0], DJANGOS[-1]] if ends_only else DJANGOS,
        servers=there(SERVERS, find_server),
        databases=there(DATABASES, lambda name: name if name == NO_SERVER else find_server(name)),
    )
    return cells, not_run


def _report(step: Step) -> None:
    _say(f"  {step.name}: {'FAILED' if step.failure else 'passed'} in {step.seconds:.1f} s")
    _say(*(f"    {line}" for line in step.failure.splitlines()[-SHOWN_LINES:]))


def _say(*lines: str) -> None:
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in lines if line)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
