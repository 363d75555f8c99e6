"""Runs programs of the project tests/custom_user as processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from realtime.redis.keys import Keys

__all__ = ["reported", "run"]


def run(*arguments: str, model: str, url: str, keys: Keys, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a Python program as a process of the project tests/custom_user."""
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.custom_user.settings",
        "USER_MODEL": f"custom_user.{model}",
        "DATABASE_FILE": str(directory / "db.sqlite3"),
        "REDIS_URL": url,
        "KEY_PREFIX": keys.prefix,
    }
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def reported(program: str, *arguments: str, **where: Any) -> Any:
    """What a program of tests/custom_user prints."""
    done = run("-m", f"tests.custom_user.{program}", *arguments, **where)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
