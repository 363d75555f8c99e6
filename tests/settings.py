"""Settings under test: the project's own, with a private database file; conftest.py gives each test a private Redis."""

import os
import tempfile

from project.settings import *  # noqa: F403
from project.settings import DATABASES, REALTIME

# Removed by conftest.py when the run ends.
TEST_DIR = tempfile.mkdtemp(prefix="signalbox-tests-")

if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # A file, not memory: threads of sync_to_async and the test must see one database in WAL mode, as in production.
    DATABASES["default"]["TEST"] = {"NAME": f"{TEST_DIR}/db.sqlite3"}
    # Rows of a SELECT without ORDER BY come in the other order than usual: neither a test nor the product relies on it,
    # since PostgreSQL returns them in any order.
    options = DATABASES["default"].setdefault("OPTIONS", {})
    options["init_command"] = options.get("init_command", "") + "PRAGMA reverse_unordered_selects=ON;"
if not os.environ.get("REDIS_URL"):
    # Nobody is there: a test that forgets to ask for a Redis does not use that of `make run`.
    REALTIME["REDIS_URL"] = f"unix://{TEST_DIR}/nobody.sock"
# Tests of the statistics push them themselves.
REALTIME["STATISTICS"] = False
# Threads end with their event loop here, and must have closed their connections by then.
DATABASES["default"]["CONN_MAX_AGE"] = 0
# Hashing passwords slowly protects nobody here.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# So that the tasks of tests have all options.
TASKS = {"default": {"BACKEND": "realtime.tasks.RedisStreamBackend", "QUEUES": ["default", "mail"]}}
