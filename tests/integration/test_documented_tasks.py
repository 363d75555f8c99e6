"""docs/how-to/run-tasks.md: its files and commands, in a new project with a worker of its own."""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from realtime.exceptions import PermanentError
from realtime.tasks import RedisTask
from realtime.tasks.backend import BackendOptions
from tests.support.howto import DOCS, blocks_of, commands_of
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.database_independent

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = "how-to/run-tasks.md"
SECONDS = 60.0
# Of the first page, what tasks need; the page adds TASKS.
SETTINGS = """
import os

INSTALLED_APPS += ["channels", "realtime", "notifications"]
REALTIME = {"REDIS_URL": os.environ["REDIS_URL"]}
CHANNEL_LAYERS = {"default": {"BACKEND": "realtime.layer.RedisChannelLayer"}}
DATABASES["default"]["OPTIONS"] = {"transaction_mode": "IMMEDIATE", "timeout": 20}
"""
MAKE_ALICE = "from django.contrib.auth.models import User; User.objects.create_user('alice')"
COUNT = "from notifications.models import Notification; print(Notification.objects.count())"


def test_the_tasks_of_the_page_run_as_it_says(tmp_path: Path, redis_server: RedisServer) -> None:
    """The script prints what its comments promise, alice is welcomed, and SIGTERM ends the worker in order."""
    # A database of its own: other tests use the server too.
    environment = {**os.environ, "REDIS_URL": f"{redis_server.url}?db=6", "PYTHONPATH": str(ROOT)}
    environment["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
    python = [sys.executable, "manage.py"]

    def manage(*arguments: str) -> str:
        done = subprocess.run(
            [*python, *arguments],
            cwd=tmp_path,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    subprocess.run([sys.executable, "-m", "django", "startproject", "mysite", tmp_path], check=True)
    with (tmp_path / "mysite/settings.py").open("a") as settings:
        settings.write(SETTINGS)
    for block in blocks_of(PAGE):
        block.put_into(tmp_path)
    manage("migrate", "--verbosity=0")
    manage("shell", "-v0", "--command", MAKE_ALICE)
    commands = commands_of(PAGE)
    (start,), (enqueue,) = commands["a worker: one or more, beside the web server"], commands["enqueue"]
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, *shlex.split(start)[1:]], cwd=tmp_path, env=environment, stdout=output, stderr=output
        )
    try:
        lines = manage(*shlex.split(enqueue)[2:], "-v0").splitlines()
        script = (tmp_path / "enqueue_tasks.py").read_text()
        promised = [
            line.partition(":")[0] if "READY" in line else line for line in re.findall(r"  # (.+)$", script, re.M)
        ]
        assert lines == promised
        wait_until_sync(lambda: manage("shell", "-v0", "--command", COUNT).strip() == "1", seconds=SECONDS)
        worker.terminate()
        assert worker.wait(SECONDS) == 0, log.read_text()
    finally:
        worker.kill()
        worker.wait()
    assert "run_task_worker: queues default and mail running" in log.read_text()
    (only,) = commands["workers for one queue"]
    assert "mail" in manage(*shlex.split(only)[2:], "--help")


def test_every_option_is_on_the_page_with_its_default() -> None:
    """Those beyond Django's, in the order of the class."""
    text = (DOCS / PAGE).read_text().partition("## Options beyond Django's")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", text, re.MULTILINE)
    options = [name for name in RedisTask.__dataclass_fields__ if RedisTask.__dataclass_fields__[name].default is None]
    assert [name for name, _ in rows] == [name for name in options if name != "run_after"]
    defaults = BackendOptions()
    for name, default in rows:
        if name != "unique_key":
            expected = getattr(defaults, name)
            shown = None if default == "no limit" else ast.literal_eval(default.strip("`"))
            assert shown == expected, name


def test_the_errors_of_the_page_are_public() -> None:
    """Each that it names as one of ours."""
    from realtime import exceptions

    text = (DOCS / PAGE).read_text()
    for name in (
        "PermanentError",
        "Retry",
        "TaskTimedOut",
        "TaskUnknown",
        "TasksUnavailable",
        "TaskQueueFull",
        "WorkerLost",
    ):
        assert f"`{name}" in text or f".{name}" in text or f"{name}(" in text
        assert name in exceptions.__all__
    assert issubclass(exceptions.TaskUnknown, PermanentError)
