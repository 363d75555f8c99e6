"""The two apps in a project where another app, or another relation on users, has the name of ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from realtime.redis.keys import Keys
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.database_independent

ROOT = Path(__file__).resolve().parents[2]
NEIGHBOUR = "tests.neighbours.notifications"
ALERTS = "tests.neighbours.alerts"
SIGNALBOX = "notifications.apps.SignalboxConfig"


def run(
    *arguments: str,
    installed: str,
    directory: Path,
    url: str = "redis://127.0.0.1:1",
    prefix: str = "",
    place: Path = ROOT,
) -> str:
    """Run a process of a project with these apps. Returns its output, or if it fails "failed: " and all it wrote."""
    environment = {
        **os.environ,
        "APPS": installed,
        "PYTHONPATH": str(ROOT),
        "DATABASE_FILE": str(directory / "db.sqlite3"),
        "REDIS_URL": url,
        "KEY_PREFIX": prefix,
        "DJANGO_SETTINGS_MODULE": "tests.neighbours.settings",
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )
    return done.stdout if done.returncode == 0 else f"failed: {done.stdout}{done.stderr}"


@pytest.mark.parametrize(
    ("installed", "label", "relation"),
    [
        (f"{NEIGHBOUR} realtime {SIGNALBOX}", "signalbox_notifications", "signalbox_notifications"),
        (f"realtime {SIGNALBOX} {NEIGHBOUR}", "signalbox_notifications", "signalbox_notifications"),
        (f"{ALERTS} realtime tests.neighbours.apps.PrefixedConfig", "notifications", "told_notifications"),
        ("realtime notifications", "notifications", "notifications"),
    ],
    ids=["after a neighbour", "before a neighbour", "another relation", "alone"],
)
def test_everything_works_under_another_label(
    installed: str, label: str, relation: str, redis_server: RedisServer, keys: Keys, tmp_path: Path
) -> None:
    """From the migrations to the pages of the admin, and the neighbour's own pages stay its own."""
    arguments = ("-m", "tests.neighbours.visit", label, relation)
    said = run(*arguments, installed=installed, directory=tmp_path, url=redis_server.url, prefix=keys.prefix)
    assert not said.startswith("failed"), said


def test_two_apps_with_one_label_are_one_sentence(tmp_path: Path) -> None:
    """It names the other app, and says what to write."""
    installed = f"{NEIGHBOUR} realtime notifications"
    said = run("-m", "django", "check", installed=installed, directory=tmp_path)
    assert said.splitlines()[-1] == (
        f'django.core.exceptions.ImproperlyConfigured: The app {NEIGHBOUR} has the label "notifications" too: in '
        f'INSTALLED_APPS, write "{SIGNALBOX}" instead of "notifications".'
    )


def test_another_relation_of_the_name_is_an_error_of_the_check(tmp_path: Path) -> None:
    """E009, beside Django's own."""
    said = run("-m", "django", "check", installed=f"{ALERTS} realtime notifications", directory=tmp_path)
    assert "(notifications.E009) alerts.Alert.user and notifications.Notification both use the name User.notif" in said
    assert SIGNALBOX in said


@pytest.mark.parametrize("installed", ["realtime", "channels"])
@pytest.mark.parametrize("module", ["notifications.services", "notifications.urls", "notifications.models"])
def test_a_project_that_forgets_the_app_is_told_where_to_add_it(module: str, installed: str, tmp_path: Path) -> None:
    """Instead of Django's error about a model that the project has never heard of."""
    program = f"import django; django.setup(); import {module}"
    said = run("-c", program, installed=installed, directory=tmp_path)
    assert said.splitlines()[-1] == (
        "django.core.exceptions.ImproperlyConfigured: The project imports notifications, which is not in "
        'INSTALLED_APPS: add "realtime" and "notifications" there.'
    )


def test_a_project_that_forgets_realtime_is_told_where_to_add_it(tmp_path: Path) -> None:
    """By a check, as everything can be imported."""
    said = run("-m", "django", "check", installed="notifications", directory=tmp_path)
    assert "Traceback" not in said
    assert "(notifications.E005) INSTALLED_APPS has notifications but not realtime" in said


def hide(place: Path, kind: str) -> Path:
    """Put another notifications beside manage.py. Returns what hides ours."""
    if kind == "module":
        (place / "notifications.py").touch()
        return place / "notifications.py"
    (place / "notifications").mkdir()
    names = {"package": ["__init__"], "app": ["__init__", "apps", "models", "admin"], "folder": ["views"]}
    for name in names[kind]:
        (place / f"notifications/{name}.py").touch()
    if kind == "app":
        config = 'from django.apps import AppConfig\n\nclass Config(AppConfig):\n    name = "notifications"\n'
        (place / "notifications/apps.py").write_text(config)
    return place / "notifications"


@pytest.mark.parametrize(
    ("kind", "installed"),
    [
        ("package", "realtime notifications"),
        ("package", "notifications realtime"),
        ("package", "realtime"),
        ("package", f"realtime {SIGNALBOX}"),
        ("app", "realtime notifications"),
        ("app", f"realtime {SIGNALBOX}"),
        ("module", "realtime notifications"),
        ("module", f"realtime {SIGNALBOX}"),
    ],
)
@pytest.mark.parametrize("module", ["notifications.urls", "notifications.services"])
def test_what_hides_the_app_is_named(kind: str, installed: str, module: str, tmp_path: Path) -> None:
    """In the last line of the traceback, wherever the project imports the app first."""
    other = hide(tmp_path, kind)
    program = f"import django; django.setup(); import {module}"
    said = run("-c", program, installed=installed, directory=tmp_path, place=tmp_path)
    last = said.splitlines()[-1]
    assert f"Python finds another notifications before Signalbox's: {other}. Rename that one" in last


@pytest.mark.parametrize(
    ("installed", "is_hidden", "text"),
    [
        ("realtime", False, "The project imports notifications, which is not in INSTALLED_APPS"),
        ("realtime notifications", True, "No module named 'notifications.urls': Python finds another notifications"),
    ],
)
def test_the_first_command_of_a_project_says_it_in_one_line(
    installed: str, is_hidden: bool, text: str, tmp_path: Path
) -> None:
    """Without a traceback: the URLs are loaded by the system checks, which this command runs."""
    if is_hidden:
        hide(tmp_path, "app")
    said = run("-m", "django", "run_signalbox", installed=installed, directory=tmp_path, place=tmp_path)
    assert said.startswith(f"failed: CommandError: {text}")
    assert len(said.splitlines()) == 1


def test_a_folder_without_init_hides_nothing(tmp_path: Path) -> None:
    """Python prefers a package."""
    hide(tmp_path, "folder")
    program = "import django; django.setup(); import notifications.services"
    assert run("-c", program, installed="realtime notifications", directory=tmp_path, place=tmp_path) == ""


@pytest.mark.parametrize("kind", ["app", "module"])
def test_a_project_may_have_its_own_package_of_that_name(kind: str, tmp_path: Path) -> None:
    """With realtime alone: Django and the project find in it what there is, and nothing else is an error."""
    hide(tmp_path, kind)
    installed = "realtime notifications" if kind == "app" else "realtime"
    program = (
        "import importlib.util, django; django.setup(); from django.core.management import call_command; "
        "call_command('migrate', verbosity=0); import notifications; "
        "print(notifications.__file__, hasattr(notifications, 'nothing'))"
    )
    said = run("-c", program, installed=installed, directory=tmp_path, place=tmp_path)
    assert said.startswith(str(tmp_path)), said


def test_a_folder_that_hides_the_app_is_a_warning(tmp_path: Path) -> None:
    """W010: Python finds the folder beside manage.py first."""
    (tmp_path / "notifications").mkdir()
    (tmp_path / "notifications/__init__.py").touch()
    (tmp_path / "notifications/urls.py").write_text("urlpatterns = []\n")
    said = run(
        *("-m", "django", "check", "--fail-level", "WARNING"),
        installed="realtime notifications",
        directory=tmp_path,
        place=tmp_path,
    )
    assert "(realtime.W010) The app notifications is not Signalbox's" in said
    assert f"of this name in {tmp_path}" in said
