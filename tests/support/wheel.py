"""
The package as a stranger gets it: one wheel, installed into a new virtual environment.

Owns how the wheel is built and installed. Does not own what is tried with it. Needs a package index.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

__all__ = ["EXTRA_MODULES", "ROOT", "build_wheel", "environment", "install", "lower_bounds", "new_venv"]

ROOT = Path(__file__).resolve().parent.parent.parent
# The modules that need more than the core, by the extra that brings it. All others must do without.
EXTRA_MODULES = {
    "realtime.server": "server",
    **{
        f"realtime.tasks.conformance.{name}": "conformance"
        for name in (
            "base",
            "beyond",
            "defining",
            "enqueueing",
            "failing",
            "ordering",
            "results",
            "retrying",
            "running",
            "signals",
            "suite",
        )
    },
    "realtime.websocket.connection": "server",
    "realtime.websocket.framing": "server",
    "realtime.websocket.http_protocol": "server",
    "notifications.transports.apprise": "chat",
    "notifications.transports.http": "webhook",
    "notifications.transports.webhook": "webhook",
    "notifications.transports.webpush": "webpush",
}
# An index far away, on a machine that does other things too.
SECONDS = 600.0


def build_wheel(directory: Path) -> Path:
    """Build the wheel as `pip install .` does, and return its path in `directory`."""
    _run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", directory, ROOT)
    (wheel,) = directory.glob("signalbox-*.whl")
    return wheel


def new_venv(directory: Path) -> Path:
    """Make a virtual environment with nothing but pip, by the Python of this process. Returns its `python`."""
    _run(sys.executable, "-m", "venv", directory)
    return directory / "bin/python"


def install(python: Path, wheel: Path | None = None, *more: str | Path, extras: str = "") -> None:
    """
    Install a wheel, and what it requires, into the environment of this `python`.

    Args:
        more: Other requirements or options of `uv pip install`.
        extras: Names with commas between them, as "webhook,chat".
    """
    wheels = [f"{wheel}[{extras}]" if extras else wheel] if wheel else []
    # It does the same as pip in a tenth of the time.
    _run(Path(sys.executable).with_name("uv"), "pip", "install", "--python", python, *wheels, *more)


def lower_bounds() -> list[str]:
    """The lowest versions that pyproject.toml allows, as constraints of pip: "Django==5.2"."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    found = (re.match(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", each) for each in required)
    return sorted({f"{bound[1]}=={bound[2]}" for bound in found if bound})


def environment(**variables: str) -> dict[str, str]:
    """Variables for a process that may see only what is installed: not this checkout, nor the settings of a site."""
    hidden = ("PYTHONPATH", "DJANGO_SETTINGS_MODULE", "REDIS_URL", "DATABASE_URL", "VIRTUAL_ENV")
    return {**{name: value for name, value in os.environ.items() if name not in hidden}, **variables}


def _run(*command: str | Path) -> None:
    done = subprocess.run(
        command,
        # The folders of the two apps stand in ROOT: they would be found before the installed ones.
        cwd=Path(sys.prefix),
        env=environment(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PIP_PREFER_BINARY="1"),
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}"
