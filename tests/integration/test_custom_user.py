"""The two apps in another project, whose users have a key of another type."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from realtime.keys import Keys
from tests.domain import entries_on_stream
from tests.redis_server import RedisServer


@pytest.mark.parametrize("model", ["UuidUser", "TextUser"])
def test_a_project_with_its_own_user_model_notifies(
    model: str, redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    """Its keys are on the stream as texts, and what is not one of them is refused."""
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.custom_user.settings",
        "USER_MODEL": f"custom_user.{model}",
        "DATABASE_FILE": str(tmp_path / "db.sqlite3"),
        "REDIS_URL": redis_server.url,
        "KEY_PREFIX": keys.prefix,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.custom_user.notify_all_ways"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    alice, bob = report["ids"]
    entries = entries_on_stream(redis_client, keys)
    assert sorted((entry["e"]["message"], entry["u"]) for entry in entries) == sorted(
        [
            *(("each once", user_id) for user_id in (alice, bob)),
            *(("all", user_id) for user_id in (alice, bob)),
            ("one", alice),
            *(("by name or id", user_id) for user_id in (alice, bob)),
        ]
    )
    assert report["read_count"] == 4
    assert len(report["errors"]) == 3
