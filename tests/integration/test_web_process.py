"""What a web process has in memory: nothing of what run_bot_subscriber runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# All that a web process imports, and its system checks and statistics, which make each transport.
SCRIPT = """
import importlib, json, sys
import django
django.setup()
from django.core.management import call_command
for module in ("project.asgi", "project.urls", "notifications.admin", "notifications.statistics", "realtime.server"):
    importlib.import_module(module)
call_command("check")
from notifications.transports import get_transports
get_transports()
print(json.dumps(sorted(sys.modules)))
"""
SUBSCRIBER = {
    *(f"notifications.delivery.{name}" for name in ("bot", "claim", "batched_calls", "slots", "prepare")),
    *(f"notifications.workers.{name}" for name in ("ingress", "recovery", "relay", "service", "sweeper")),
}


@pytest.mark.database_independent
def test_a_web_process_imports_no_bot_relay_or_subscriber() -> None:
    """In a fresh process, because other tests import these modules here."""
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings", "REDIS_URL": "redis://127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    modules = set(json.loads(done.stdout.splitlines()[-1]))
    assert "notifications.admin.dashboard.view" in modules
    assert modules & SUBSCRIBER == set()
    for name in SUBSCRIBER:
        assert (ROOT / name.replace(".", "/")).with_suffix(".py").exists(), f"{name} is elsewhere now"
