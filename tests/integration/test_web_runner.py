"""`python -m realtime.web`, with an application that is not ours."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.acceptance.site import free_port
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.database_independent

ROOT = Path(__file__).resolve().parents[2]
APPLICATION = """
import gc

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    text = str(gc.get_freeze_count() > 1000)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})
"""


def test_what_was_imported_is_not_collected_again(tmp_path: Path) -> None:
    """The garbage collector leaves the imported modules alone. SIGTERM ends the server."""
    (tmp_path / "plain.py").write_text(APPLICATION)
    port = free_port()
    with subprocess.Popen(_words("plain", port), cwd=ROOT, env=_environment(tmp_path)) as process:
        try:
            text = wait_until_sync(lambda: _answer(port))
            assert text == "True"
        finally:
            process.terminate()
        process.wait(120)
    assert process.returncode in (0, -15)


def test_an_application_that_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    """The reason is printed, and the process fails."""
    done = _run("nothing", free_port(), tmp_path)
    assert done.returncode != 0
    assert 'Could not import module "nothing"' in done.stderr


def test_a_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    """As with uvicorn itself."""
    (tmp_path / "plain.py").write_text(APPLICATION)
    port = free_port()
    with subprocess.Popen(_words("plain", port), cwd=ROOT, env=_environment(tmp_path)) as first:
        try:
            wait_until_sync(lambda: _answer(port))
            second = _run("plain", port, tmp_path)
        finally:
            first.terminate()
        first.wait(120)
    assert second.returncode != 0
    assert "address already in use" in second.stderr


def _words(module: str, port: int) -> list[str]:
    return [sys.executable, "-m", "realtime.web", f"{module}:application", "--port", str(port)]


def _environment(directory: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(directory)}


def _run(module: str, port: int, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _words(module, port), cwd=ROOT, env=_environment(directory), capture_output=True, text=True, timeout=300
    )


def _answer(port: int) -> str | None:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/").text
    except httpx.TransportError:
        return None
