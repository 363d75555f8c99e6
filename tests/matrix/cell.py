"""
Runs the ring in one cell: a new environment with the wheel, a private database and a private Redis.

Owns the steps and their time limits. The tests see the installed package only: they run in a copy of this tree without
the two apps. Does not own which versions are run together (versions).
"""

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from tests.matrix.postgres import Postgres
from tests.matrix.programs import Programs, Unavailable, run_uv
from tests.matrix.versions import LOWEST, Cell
from tests.support.wheel import ROOT, environment

__all__ = ["Result", "Step", "run"]

# The limit for one step, also on a loaded machine.
SECONDS = 900.0
# The packages that the tests need; their versions are those of the requirements files.
TOOLS = (
    *("pytest", "pytest-django", "pytest-asyncio", "pytest-randomly", "pytest-timeout", "hypothesis"),
    *("django-environ", "django-tasks"),
)
COPIED = ("tests", "project", "docs", "manage.py", "pyproject.toml")
MANAGE_STEPS = {
    "system checks": ("check",),
    "no migration is missing": ("makemigrations", "--check", "--dry-run"),
    "migrations from zero": ("migrate", "--verbosity=0"),
}
TESTS = {"the newcomer's tour": "tests/fundamentals", "end to end, and the admin": "tests/matrix"}
VERSIONS = """
import importlib.metadata as metadata, platform
print(platform.python_version(), metadata.version("django"))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a cell. `failure` is the output of a step that failed, else ""."""

    name: str
    seconds: float
    failure: str = ""
    # How many tests it counts for.
    count: int = 1


@dataclass(slots=True, kw_only=True)
class Result:
    """The steps of one cell that were run."""

    cell: Cell
    steps: list[Step] = field(default_factory=list)
    # The exact versions of Python and Django; "" if they could not be installed.
    python: str = ""
    django: str = ""

    @property
    def has_passed(self) -> bool:
        """Whether every step has passed."""
        return not any(step.failure for step in self.steps)

    @property
    def seconds(self) -> float:
        """The time that all steps took."""
        return sum(step.seconds for step in self.steps)


class StepFailed(Exception):
    """The text is what the step printed."""


def run(cell: Cell, programs: Programs, wheel: Path, *, report: Callable[[Step], None]) -> Result:
    """Run the steps of a cell, up to a failed one that later steps need. `report` is called after each step."""
    result = Result(cell=cell)
    with tempfile.TemporaryDirectory(prefix="sb-cell-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        python = directory / "venv/bin/python"

        def step(name: str, work: Callable[[], int]) -> bool:
            began = time.monotonic()
            count, failure = 1, ""
            try:
                count = work()
            except (StepFailed, Unavailable, OSError, RuntimeError, subprocess.SubprocessError) as error:
                failure = str(error) or repr(error)
            taken = Step(name=name, seconds=time.monotonic() - began, failure=failure, count=count)
            result.steps.append(taken)
            report(taken)
            return not failure

        if not step("install", lambda: _install(cell, programs.python(cell.python), python, wheel)):
            return result
        result.python, result.django = _run([python, "-c", VERSIONS], directory, {}).split()
        _copy_tests(directory)
        with contextlib.ExitStack() as stack:
            variables = _variables(directory, programs.server(cell.server))

            def start_database() -> int:
                if cell.database != "SQLite":
                    variables["DATABASE_URL"] = stack.enter_context(Postgres(programs.server(cell.database))).url
                return 1

            if not step("database", start_database):
                return result
            for name, arguments in MANAGE_STEPS.items():
                if not step(name, functools.partial(_manage, python, directory, variables, *arguments)):
                    return result
            for name, path in TESTS.items():
                step(name, functools.partial(_test, python, directory, variables, path, cell=cell))
    return result


def _install(cell: Cell, base: Path, python: Path, wheel: Path) -> int:
    run_uv("venv", "--python", base, python.parent.parent)
    into = ("pip", "install", "--python", python)
    wanted = ["--resolution", "lowest-direct"] if cell.django == LOWEST else [f"Django=={cell.django}.*"]
    run_uv(*into, "-r", ROOT / "pyproject.toml", "--all-extras", *wanted, *_tools())
    run_uv(*into, "--no-deps", wheel)
    return 1


def _tools() -> list[str]:
    """The lines of the requirements files for TOOLS."""
    lines = [line for name in ("requirements.txt", "requirements-dev.txt") for line in (ROOT / name).open()]
    by_name = {re.split(r"[=\[;]", line)[0].lower(): line.strip() for line in lines}
    return [by_name[name] for name in TOOLS]


def _copy_tests(directory: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, directory / name, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
        else:
            shutil.copy(source, directory)


def _variables(directory: Path, server: Path) -> dict[str, str]:
    return {"VAR_DIR": str(directory / "var"), "TEST_REDIS_SERVER": str(server), "DEBUG": "1", "LOG_LEVEL": "WARNING"}


def _manage(python: Path, directory: Path, variables: dict[str, str], *arguments: str) -> int:
    _run([python, "manage.py", *arguments], directory, variables)
    return 1


def _test(python: Path, directory: Path, variables: dict[str, str], path: str, *, cell: Cell) -> int:
    report = directory / "report.xml"
    report.unlink(missing_ok=True)
    command = [python, "-m", "pytest", path, "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    if cell.django == LOWEST:
        # Old versions of other packages use what Python or Django has deprecated since.
        command += ["-o", "filterwarnings=default"]
    _run(command, directory, variables)
    (suite,) = ElementTree.parse(report).iter("testsuite")  # noqa: S314 (pytest wrote it just now)
    return int(suite.attrib["tests"])


def _run(command: list[str | Path], directory: Path, variables: dict[str, str]) -> str:
    """Run a command in the copy of the tests and return its output. If it takes too long, end all its processes."""
    with _group(command, directory, environment(**variables)) as process:
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise StepFailed(f"no end after {SECONDS:.0f} s: {command}") from error
    if process.returncode:
        raise StepFailed(output.decode(errors="replace"))
    return output.decode(errors="replace")


@contextlib.contextmanager
def _group(
    command: list[str | Path], directory: Path, variables: dict[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
