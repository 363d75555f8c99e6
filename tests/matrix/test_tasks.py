"""Background tasks, by Django's Tasks framework or by its backport, with a worker as a process."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent]

ROOT = Path(__file__).resolve().parent.parent.parent
# A process of manage.py on a loaded machine.
SECONDS = 60.0
ENQUEUE = """
import json
from realtime.tasks import wait
from tests.matrix.tasks import add, fail_twice, greet
tasks = [add.enqueue(2, right=3), greet.enqueue("Zoë"), fail_twice.using(max_attempts=3, backoff=0.01).enqueue()]
results = [wait(task, timeout=60) for task in tasks]
print(json.dumps([[result.status, result.return_value, result.attempts] for result in results]))
"""


def test_a_worker_runs_tasks_and_their_results_come_back(tmp_path: Path) -> None:
    """Sync and async ones, and one that is tried again; each ends with its value."""
    with RedisServer() as server:
        environment = {
            **{name: value for name, value in os.environ.items() if name != "DATABASE_URL"},
            "DJANGO_SETTINGS_MODULE": "tests.matrix.site_settings",
            "VAR_DIR": str(tmp_path),
            "REDIS_URL": server.url,
        }
        worker = subprocess.Popen([sys.executable, "manage.py", "run_task_worker"], cwd=ROOT, env=environment)
        try:
            assert enqueue(environment) == [["SUCCESSFUL", 5, 1], ["SUCCESSFUL", "Grüezi Zoë", 1], ["SUCCESSFUL", 3, 3]]
            worker.terminate()
            assert worker.wait(SECONDS) == 0
        finally:
            worker.kill()
            worker.wait()


def enqueue(environment: Mapping[str, str]) -> Any:
    """Enqueue the tasks in another process, and return what it prints of their results."""
    command = [sys.executable, "manage.py", "shell", "-v0", "-c", ENQUEUE]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
