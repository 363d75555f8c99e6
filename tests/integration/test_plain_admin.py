"""The two apps bring their admin to projects that do not have unfold."""

import os
import subprocess
import sys
from pathlib import Path

import redis

from tests.support.redis_server import RedisServer

ROOT = Path(__file__).resolve().parents[2]


def test_the_admin_works_with_djangos_own_looks(
    tmp_path: Path, redis_server: RedisServer, redis_client: redis.Redis, key_prefix: str
) -> None:
    """Every page, and sending; nothing of unfold is even imported."""
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    environment |= {"VAR_DIR": str(tmp_path), "REDIS_URL": redis_server.url, "TEST_PREFIX": key_prefix}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.integration.plain_admin"],
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    # What no worker has read stays on the stream.
    redis_client.delete(f"{key_prefix}tasks:default")
    assert done.returncode == 0, done.stderr
