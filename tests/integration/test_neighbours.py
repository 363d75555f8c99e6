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
