"""The Makefile and the CI scripts: they find a Python that will do, install once, count honestly, leave nothing."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support import browser

pytestmark = pytest.mark.database_independent

ROOT = Path(__file__).resolve().parents[2]
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


def run(*command: str | Path, directory: Path = ROOT, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with another PATH if one is given, and without what this run was started with."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ARGS", "MAKE", "PYTEST"))}
    environment["PATH"] = path or environment["PATH"]
    return subprocess.run(
        [str(word) for word in command],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory with the Makefile, requirements that are quick to install, and nothing else."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.txt", "requirements-dev.txt"):
        (tmp_path / name).write_text("# none\n")
    return tmp_path


def programs(directory: Path, **scripts: str) -> str:
    """A PATH with the usual tools and these scripts, and with no other Python."""
    directory.mkdir()
    for tool in ("sh", "make", "cmp", "cp", "echo", "test", "dirname", "readlink", "realpath", "cat"):
        if found := shutil.which(tool):
            (directory / tool).symlink_to(found)
    for name, script in scripts.items():
        program = directory / name.replace("_", ".")
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    return str(directory)


@needs_make
def test_make_alone_lists_every_target() -> None:
    """`make` shows a line for each target that a person may want."""
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    listed = re.findall(r"^  make ([\w-]+) +\w", run("make").stdout, re.MULTILINE)
    assert listed == [target for target in phony[1].split() if not target.startswith(".")]


@needs_make
def test_no_usable_python_is_a_clear_error(checkout: Path, tmp_path: Path) -> None:
    """None at all, one too old, or a shim that only fails: the error says what to install."""
    old = f'{sys.executable} -c "raise SystemExit(1)"'
    path = programs(tmp_path / "bin", python3=old, python3_13="echo 'pyenv: not active' >&2; exit 127")
    result = run("make", ".venv/run", "CANDIDATES=python3.13 python3", directory=checkout, path=path)
    assert result.returncode
    assert result.stderr.splitlines()[0].startswith("Signalbox needs Python 3.12 or newer with venv: install it")
    assert not (checkout / ".venv").exists()


@needs_make
def test_environment_is_made_once_and_again_when_it_must(checkout: Path, tmp_path: Path) -> None:
    """The first Python that works makes .venv; the second call does nothing; new requirements are installed."""
    path = programs(tmp_path / "bin", python3_13="exit 127", python3=f'exec {sys.executable} "$@"')
    first = run("make", ".venv/dev", directory=checkout, path=path)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines() == [
        f"Making .venv with Python {sys.version.split()[0]}",
        "Installing requirements.txt",
        "Installing requirements-dev.txt",
    ]
    second = run("make", ".venv/dev", directory=checkout, path=path)
    assert (second.returncode, second.stdout) == (0, "")
    (checkout / "requirements.txt").write_text("# none, said otherwise\n")
    assert run("make", ".venv/run", directory=checkout, path=path).stdout == "Installing requirements.txt\n"
    (checkout / "requirements.txt").write_text("no-such-package-of-ours @ file:///nowhere\n")
    assert run("make", ".venv/run", directory=checkout, path=path).returncode
    (checkout / "requirements.txt").write_text("# none, said otherwise\n")
    assert run("make", ".venv/run", directory=checkout, path=path).stdout == ""


@pytest.fixture
def installed_checkout(checkout: Path) -> Path:
    """A checkout with everything installed, whose Python only says what it is asked to do."""
    (checkout / ".venv/bin").mkdir(parents=True)
    python = checkout / ".venv/bin/python"
    python.write_text('#!/bin/sh\ntest "$1" = -c || echo "python $*"\n')
    python.chmod(0o755)
    for name in ("requirements.txt", "requirements-dev.txt"):
        shutil.copy(checkout / name, checkout / ".venv")
    return checkout


@needs_make
def test_make_test_takes_arguments(installed_checkout: Path) -> None:
    """Those of pytest."""
    result = run("make", "test", "ARGS=-k bell", directory=installed_checkout)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "python -m pytest -k bell"


@needs_make
def test_second_start_need_not_compile_again(installed_checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYTHONDONTWRITEBYTECODE, which containers often have, would make every start as slow as the first."""
    (installed_checkout / ".venv/bin/python").write_text(
        '#!/bin/sh\ntest "$1" = -c || echo "${PYTHONDONTWRITEBYTECODE-not set}"\n'
    )
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert run("make", "run", directory=installed_checkout).stdout == "not set\n"


REPORT = (
    '<testsuites><testsuite tests="{tests}" failures="{failures}" errors="{errors}" skipped="{skipped}"/></testsuites>'
)


def count(*reports: Path) -> tuple[int, str]:
    """Exit code and last line."""
    result = run(sys.executable, ROOT / ".ci/count_tests.py", *reports)
    return result.returncode, result.stdout.splitlines()[-1]


def test_last_line_of_ci_adds_up_all_runs(tmp_path: Path) -> None:
    """Passed is what is left; a failure or an error anywhere makes the exit code 1."""
    well, ill = tmp_path / "well.xml", tmp_path / "ill.xml"
    well.write_text(REPORT.format(tests=10, failures=0, errors=0, skipped=1))
    ill.write_text(REPORT.format(tests=10, failures=2, errors=1, skipped=0))
    assert count(well, well) == (0, "18 passed, 0 failed, 2 skipped")
    assert count(well, ill) == (1, "16 passed, 3 failed, 1 skipped")


def test_failed_tests_are_named_at_the_end(tmp_path: Path) -> None:
    """The end of CI's output names the failed test, its run and its message."""
    report = tmp_path / "sqlite.xml"
    report.write_text(
        '<testsuites><testsuite tests="2" failures="1" errors="0" skipped="0">'
        '<testcase classname="tests.unit.test_x" name="test_well"/>'
        '<testcase classname="tests.unit.test_x" name="test_ill">'
        '<failure message="m">assert 1 == 2</failure></testcase>'
        "</testsuite></testsuites>"
    )
    result = run(sys.executable, ROOT / ".ci/count_tests.py", report)
    assert result.stdout.splitlines() == [
        "== sqlite: failure in tests.unit.test_x::test_ill",
        "sqlite | assert 1 == 2",
        "1 passed, 1 failed, 0 skipped",
    ]


def test_run_without_report_has_not_passed(tmp_path: Path) -> None:
    """A run that crashed, one cut off while it wrote, and one that ran no test."""
    well, cut, empty = tmp_path / "well.xml", tmp_path / "cut.xml", tmp_path / "empty.xml"
    well.write_text(REPORT.format(tests=10, failures=0, errors=0, skipped=0))
    cut.write_text("<testsuites>")
    empty.write_text(REPORT.format(tests=0, failures=0, errors=0, skipped=0))
    assert count(well, tmp_path / "missing.xml") == (1, "10 passed, 1 failed, 0 skipped")
    assert count(well, cut) == (1, "10 passed, 1 failed, 0 skipped")
    assert count(empty) == (1, "0 passed, 0 failed, 0 skipped")


@pytest.mark.skipif(
    not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")) and not shutil.which("pg_config"),
    reason="there is no PostgreSQL server; .ci/run installs one for its second half",
)
def test_private_postgres_serves_a_command_and_is_gone_after_it() -> None:
    """The command gets a DATABASE_URL that works, its exit code is passed on, and nothing is left on the disk."""
    script = (
        "import os, psycopg, sys; connection = psycopg.connect(os.environ['DATABASE_URL']); "
        "sys.exit(connection.execute('SELECT 40 + 2').fetchone()[0])"
    )
    with tempfile.TemporaryDirectory() as directory:
        # pytest's own directories keep out other users, and PostgreSQL runs as another when root starts it.
        Path(directory).chmod(0o755)
        result = run("env", f"TMPDIR={directory}", ROOT / ".ci/with-postgres", sys.executable, "-c", script)
        assert result.returncode == 42, result.stderr
        assert not list(Path(directory).iterdir())


def test_browser_that_is_missing_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No Chromium on the PATH and none of Playwright's: the error says how to get one."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    monkeypatch.setattr(browser, "MACOS_PROGRAM", tmp_path / "none")
    browser.chromium_path.cache_clear()
    with pytest.raises(browser.NoBrowser, match=r"apt-get install chromium.*playwright install chromium"):
        browser.chromium_path()
