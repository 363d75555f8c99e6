"""A database on which notify() would fail is refused before there is a table."""

import contextlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.database_independent
ROOT = Path(__file__).resolve().parents[2]
SETTINGS = """
from tests.custom_user.settings import *
AUTH_USER_MODEL = "auth.User"
INSTALLED_APPS = [app for app in INSTALLED_APPS if app != "tests.custom_user"]
DATABASES["default"]["ENGINE"] = "tests.other_database"
"""


def test_migrate_refuses_mariadb_in_one_sentence(tmp_path: Path) -> None:
    """MySQL, Oracle and all others that have no tests here are refused in the same way."""
    (tmp_path / "other_settings.py").write_text(SETTINGS)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "DATABASE_URL"},
        **{"USER_MODEL": "auth.User", "REDIS_URL": "redis://127.0.0.1:1", "KEY_PREFIX": ""},
        "DJANGO_SETTINGS_MODULE": "other_settings",
        "DATABASE_FILE": str(tmp_path / "db.sqlite3"),
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
    }
    command = [sys.executable, "-m", "django", "migrate"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    said = (
        "(notifications.E008) Notifications are stored in the database 'default', which is MySQL or MariaDB: only "
        "SQLite and PostgreSQL are supported, because deliveries are claimed by UPDATE … RETURNING."
    )
    assert said in done.stderr
    with contextlib.closing(sqlite3.connect(tmp_path / "db.sqlite3")) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == []
