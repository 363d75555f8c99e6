"""Examples of the documentation, run as they stand there."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.site import free_port
from tests.support.howto import blocks_of, commands_of
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.database_independent

ROOT = Path(__file__).resolve().parent.parent.parent
ADDING = "how-to/add-to-your-project.md"
SENDING = "how-to/send-from-another-program.md"
PRODUCTION = "how-to/run-in-production.md"
STREAMS = "topics/streams.md"


def shell(script: str, directory: Path, **environment: str) -> str:
    """Run a script of a page beside a manage.py of the project and return what it prints; it must succeed."""
    shutil.copy(ROOT / "manage.py", directory)
    programs = directory / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("python", "python3.12"):
        python = programs / name
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
    inherited = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    done = subprocess.run(
        ["/bin/sh", "-euc", script],
        cwd=directory,
        env={
            **inherited,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "VAR_DIR": str(directory / "var"),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def test_the_first_lines_of_the_installation_make_a_virtual_environment(tmp_path: Path) -> None:
    """After them, `python -m pip` is that of the new environment; the front page has the same lines."""
    lines = commands_of(ADDING)["a virtual environment"]
    assert "\n".join(lines) in (ROOT / "README.md").read_text()
    said = shell("\n".join([*lines, "python -m pip --version"]), tmp_path)
    assert f"from {tmp_path / '.venv'}" in said


@pytest.mark.parametrize("scheme", ["unix", "redis"])
def test_a_foreign_program_reaches_a_redis_at_any_url(tmp_path: Path, scheme: str) -> None:
    """In Python, and by redis-cli where that is installed; it says how many received it."""
    port = free_port()
    with RedisServer(options=["--port", str(port)]) as server:
        url = server.url if scheme == "unix" else f"redis://127.0.0.1:{port}/0"
        for block in blocks_of(SENDING):
            block.put_into(tmp_path)
        commands = commands_of(SENDING)
        (told,) = commands["tell"]
        (by_cli,) = commands[f"redis-cli, with a {scheme}:// URL"]
        for line in (told, *([by_cli] if shutil.which("redis-cli") else [])):
            assert shell(line, tmp_path, REDIS_URL=url).strip() == "0", line


def test_the_environment_of_the_production_page_passes_the_check_of_a_deployment(tmp_path: Path) -> None:
    """Without a warning, too."""
    commands = commands_of(PRODUCTION)
    (make_key,) = commands["a secret key"]
    key = shell(make_key, tmp_path).strip()
    environment = "\n".join(commands["the environment"])
    assert environment.count("<the secret key>") == 1
    (check,) = commands["check"]
    said = shell(f"{environment.replace('<the secret key>', key)}\n{check} --fail-level=WARNING", tmp_path)
    assert "no issues (0 silenced)" in said


def test_the_worker_of_the_page_on_streams_handles_an_order_and_stops(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """An entry that is appended as the page has it; SIGTERM ends it in order, with nothing left in its hands."""
    for block in blocks_of(STREAMS):
        block.put_into(tmp_path)
    commands = commands_of(STREAMS)
    (line,), (append,) = commands["a worker: one or more"], commands["append"]
    # A database of its own: other tests use the server too.
    environment = {"REDIS_URL": f"{redis_server.url}?db=5", "DJANGO_SETTINGS_MODULE": "project.settings"}
    log = tmp_path / "worker.log"
    program, *arguments = shlex.split(line)
    assert program == "python"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT), "VAR_DIR": str(tmp_path / "var")},
            stdout=output,
            stderr=output,
        )
    try:
        shell(append, tmp_path, **environment)

        def handled() -> bool:
            assert worker.poll() is None, log.read_text()
            return "alice ordered kettle\n" in log.read_text()

        wait_until_sync(handled, seconds=60)
        worker.terminate()
        assert worker.wait(60) == 0, log.read_text()
    finally:
        worker.kill()
        worker.wait()
    assert "Traceback" not in log.read_text()
    status = shell("python manage.py stream_status", tmp_path, **environment)
    assert "orders" in status and "billing" in status
