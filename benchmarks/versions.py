"""
`python -m benchmarks.versions REVISION`: what our hot paths cost in this version, and at an earlier revision.

Owns the command line, and counting: valgrind counts the instructions of a process. Unlike times, these hardly depend on
what else the machine does. One process takes each path a few times, another one more often; their difference leaves out
the cost of starting. Does not own what the paths do (hot_paths).
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import redis
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.hot_paths.__main__ import PATHS, PREPARED
from benchmarks.processes import ROOT, BenchmarkError
from benchmarks.stage import Stage

__all__ = ["main"]

# Path → how many times the two processes take it.
COUNTS = {
    "publish": (500, 1500),
    "notify 1": (50, 150),
    "notify 100": (10, 30),
    "notify 10000": (1, 2),
    "deliver": (100, PREPARED),
    "handle": (1000, 5000),
    "tasks": (200, 1000),
    "connect": (20, 120),
    "fan-out": (20, 820),
    "map": (10, 60),
    "log": (500, 3000),
    "sink": (1000, 6000),
}
VALGRIND = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
_COUNTED = re.compile(r"I +refs: +([\d,]+)")


def main(words: Sequence[str] | None = None) -> int:
    """Count and compare; 0, or 1 if something could not be counted."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.versions",
        description="Compare the instructions of our hot paths with those of an earlier revision. Takes 20 minutes.",
        epilog="Needs valgrind (apt-get install valgrind) and git.",
    )
    parser.add_argument("revision", help="the earlier one, for example a tag or a commit")
    parser.add_argument("--path", action="append", choices=PATHS, help="only this one; may be given again")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON instead of a table")
    options = parser.parse_args(words)
    console = Console(stderr=True)
    if shutil.which(VALGRIND[0]) is None:
        console.print("[red]valgrind is missing: apt-get install valgrind")
        return 1
    paths = options.path or list(PATHS)
    try:
        with _checked_out(options.revision) as before, Stage(users=1) as stage, Progress(console=console) as progress:
            counting = progress.add_task("counting", total=2 * 2 * len(paths))
            found = {
                name: _count(directory, stage, paths, lambda: progress.advance(counting))
                for name, directory in (("before", before), ("now", ROOT))
            }
    except BenchmarkError as error:
        console.print(f"[red]{error}", soft_wrap=True)
        return 1
    if options.json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        Console().print(_table(found))
    return 0


@contextmanager
def _checked_out(revision: str) -> Iterator[Path]:
    """A directory with this revision and the hot paths of this version."""
    with tempfile.TemporaryDirectory(prefix="sbv-") as parent:
        directory = Path(parent) / "version"
        _run(["git", "worktree", "add", "--quiet", "--detach", str(directory), revision], ROOT, {})
        try:
            copy = directory / "benchmarks" / "hot_paths"
            shutil.copytree(ROOT / "benchmarks" / "hot_paths", copy, dirs_exist_ok=True)
            yield directory
        finally:
            _run(["git", "worktree", "remove", "--force", str(directory)], ROOT, {})


def _count(directory: Path, stage: Stage, paths: Sequence[str], advance: Callable[[], object]) -> dict[str, float]:
    """Path → the instructions of taking it once, in the version in this directory."""
    with tempfile.TemporaryDirectory(prefix="sbv-") as parent, redis.Redis.from_url(stage.redis_url) as client:
        client.flushall()
        prepared, used = Path(parent) / "prepared", Path(parent) / "used"
        environment = {
            **stage.process_environment(),
            # The same order of sets in each process.
            "PYTHONHASHSEED": "0",
            # SQLite, whose file is copied.
            "DATABASE_URL": "",
            "VAR_DIR": str(prepared),
        }
        _run([sys.executable, "manage.py", "migrate", "--verbosity", "0"], directory, environment)
        program = [sys.executable, "-m", "benchmarks.hot_paths"]
        _run([*program, "prepare", str(PREPARED)], directory, environment)
        found: dict[str, float] = {}
        for path in paths:
            counts = []
            for number in COUNTS[path]:
                shutil.rmtree(used, ignore_errors=True)
                shutil.copytree(prepared, used)
                words = [*VALGRIND, *program, path, str(number)]
                said = _run(words, directory, {**environment, "VAR_DIR": str(used)})
                counts.append(int(_COUNTED.findall(said)[-1].replace(",", "")))
                advance()
            few, many = COUNTS[path]
            found[path] = (counts[1] - counts[0]) / (many - few)
        return found


def _run(words: Sequence[str], directory: Path, environment: Mapping[str, str]) -> str:
    """Run a program to its end; what it said on the standard error."""
    done = subprocess.run(  # noqa: S603 - our own programs
        words, cwd=directory, env=dict(environment) or None, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchmarkError(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")
    return done.stderr


def _table(found: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table("path", "instructions before", "now", "now ÷ before")
    for column in table.columns[1:]:
        column.justify = "right"
    for path, before in found["before"].items():
        now = found["now"][path]
        table.add_row(path, f"{before:,.0f}", f"{now:,.0f}", f"{now / before:.3f}")
    return table


if __name__ == "__main__":
    raise SystemExit(main())
