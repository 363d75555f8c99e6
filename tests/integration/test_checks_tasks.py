"""What `manage.py check` says of TASKS, and what a backend that is set up wrongly does."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured

from realtime.tasks.django_api import task, task_backends

pytestmark = pytest.mark.database_independent

ROOT = Path(__file__).resolve().parent.parent.parent
OURS = "realtime.tasks.RedisStreamBackend"
# A project of one settings file, in which the framework can be hidden.
WITHOUT_FRAMEWORK = """
import importlib.util, sys
import django
from django.conf import settings
from django.core.management import execute_from_command_line

find = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in ("django.tasks", "django_tasks") else find(name)
settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "channels", "realtime"],
    REALTIME={"REDIS_URL": "redis://127.0.0.1:1"},
    CHANNEL_LAYERS={"default": {"BACKEND": "realtime.layer.RedisChannelLayer"}},
    TASKS={"default": {"BACKEND": sys.argv[1]}},
)
execute_from_command_line(["manage.py", "check", "--tag", "realtime"])
"""
WITHOUT_APP = """
from django.conf import settings
from django.core.management import execute_from_command_line
import django.tasks

settings.configure(TASKS={"default": {"BACKEND": "realtime.tasks.RedisStreamBackend"}})
execute_from_command_line(["manage.py", "check"])
"""


@task
def nothing() -> None:
    """Does nothing."""


def backends(**entries: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {alias: {"BACKEND": OURS, **entry} for alias, entry in entries.items()}


def messages() -> list[tuple[str, str]]:
    """The ids and texts of the messages of `manage.py check --tag realtime`."""
    return [(message.id or "", message.msg) for message in run_checks(tags=["realtime"])]


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"OPTIONS": {"max_attempt": 3}}, 'TASKS["default"]["OPTIONS"]: Object contains unknown field `max_attempt`'),
        ({"OPTIONS": {"timeout": "long"}}, "Expected `float | null`, got `str` - at `$.timeout`"),
        ({"OPTIONS": {"max_attempts": 0}}, "max_attempts is 0: it must be a whole number from 1 to 100"),
        ({"OPTIONS": {"backoff": [-1]}}, "backoff is [-1.0]: it must be a number of seconds"),
        ({"OPTIONS": ["timeout"]}, 'TASKS["default"]["OPTIONS"]: '),
        (
            {"QUEUES": ["default", "my mail"]},
            'TASKS["default"]["QUEUES"] has \'my mail\': the name of a queue has 1 to 40',
        ),
    ],
)
def test_options_and_queues_that_are_not_valid_are_an_error(settings: Any, entry: dict[str, Any], words: str) -> None:
    """The check says which and why; a task is declared all the same, and cannot be enqueued."""
    settings.TASKS = backends(default=entry)
    ((id, text),) = messages()
    assert id == "realtime.E009"
    assert words in text
    assert task_backends["default"].problem
    declared = task(nothing.func)
    with pytest.raises(ImproperlyConfigured, match=r'TASKS\["default"\]'):
        declared.enqueue()


def test_valid_backends_pass(settings: Any) -> None:
    """Ours with all options, and others, of which Django's own check reports what is wrong."""
    options = {"max_attempts": 3, "backoff": [1, 5.5], "timeout": 60, "keep_failed_seconds": 10, "lease_seconds": 5}
    settings.TASKS = {
        **backends(default={"OPTIONS": options, "QUEUES": ["default", "mail"]}, any={"QUEUES": []}),
        "none": {"BACKEND": "no.such.Backend"},
        "dummy": {"BACKEND": "django.tasks.backends.dummy.DummyBackend", "QUEUES": ["mail"]},
    }
    assert messages() == []


def test_a_queue_of_two_backends_is_a_warning(settings: Any) -> None:
    """They share its tasks."""
    settings.TASKS = backends(default={}, slow={"QUEUES": ["default", "slow"]})
    ((id, text),) = messages()
    assert id == "realtime.W011"
    assert "'default' belongs to the backends default and slow" in text


def test_a_missing_framework_is_one_line_that_says_what_to_install() -> None:
    """On Django 5.2 without the backport."""
    done = run(WITHOUT_FRAMEWORK, OURS)
    assert done.returncode == 1
    assert "(realtime.E011) Background tasks need Django 6.0 or newer, or its backport: run " in done.stderr
    assert '-m pip install "django-tasks>=0.12".' in done.stderr
    assert "Traceback" not in done.stderr
    for other in ("another.Backend", "builtins.object"):
        done = run(WITHOUT_FRAMEWORK, other)
        assert "realtime.E011" not in done.stderr
        assert "Traceback" not in done.stderr


def test_a_project_without_the_app_is_told() -> None:
    """Django asks the backend itself, because the checks of the app do not run."""
    done = run(WITHOUT_APP)
    assert done.returncode == 1
    assert '(realtime.E010) TASKS["default"] is a RedisStreamBackend, but INSTALLED_APPS has no "realtime".' in (
        done.stderr
    )
    assert "Traceback" not in done.stderr
