"""Settings under test: the project's own, with a private database file; conftest.py gives it a private Redis."""

import tempfile
from pathlib import Path

from project.settings import *  # noqa: F403
from project.settings import DATABASES

if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # A file, not memory: threads of sync_to_async and the test must see one database in WAL mode, as in production.
    DATABASES["default"]["TEST"] = {"NAME": str(Path(tempfile.gettempdir()) / "signalbox-tests.sqlite3")}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
