"""
A project with USE_TZ off, whose columns hold naive times of its own zone.

The setting cannot change within a process that has a database: Django's own tables would keep times of both sorts. So
another pytest, with its own settings (tests/support/naive_settings.py), runs what has to do with times: notify(),
scheduled events, digests, quiet hours, deliveries, the sweep, pruning, the inbox, the admin and the statistics.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = (
    *("admin", "admin_later", "bot", "cancel_event", "counters", "deliver_after", "deliveries", "digests"),
    *("fallback_and_quiet_hours", "inbox_views", "naive_rows", "notify_command", "outbox", "outbox_and_prune_commands"),
    *("recovery", "services", "statistics_balances", "statistics_dashboard", "statistics_rows"),
    "webhook_transport",
)


@pytest.mark.timeout(1500)
# Its own tests would need a second database on a server; naive times are shown on SQLite, where they are texts.
@pytest.mark.database_independent
def test_all_of_it_works_with_naive_local_times() -> None:
    """In New York, where neither the local time nor its date is that of UTC."""
    files = [f"tests/integration/test_{name}.py" for name in MODULES]
    # Warnings are errors here as there, of naive times too.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--ds",
        "tests.support.naive_settings",
        # Load shows nothing about times.
        "-k",
        "not under_load",
        *files,
    ]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:]
