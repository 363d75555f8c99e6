"""
A site is upgraded in place: this release goes on with the database and the Redis that release 0.1.0 left behind.

fill_upgrade_state.py wrote tests/support/upgrade_state.json in a checkout of that release. It has notifications on the
stream, in the outbox, scheduled, and in a bot that was killed; entries of a project's own stream that wait for another
attempt, were given up or were not read; and the history of a topic.
"""

import asyncio
import base64
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from realtime.broker.history import HistoryReader
from realtime.redis import clients
from realtime.redis.keys import Keys
from realtime.streams import Entry, StreamWorker, dead_letters
from realtime.streams.keys import GroupKeys
from tests.support.fill_upgrade_state import GROUP, STREAM
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until, wait_until_sync

# The database in the state is an SQLite file.
pytestmark = pytest.mark.database_independent

ROOT = Path(__file__).resolve().parents[2]
STATE = json.loads((ROOT / "tests/support/upgrade_state.json").read_text())
KEYS = Keys()
# The user's key and the message, as the console transport prints them.
UNDELIVERED = [
    "user 1: in the outbox",
    "user 1: on the stream",
    "user 2: behind it",
    "user 2: in a bot that died",
    "user 3: on the stream",
    "user 3: scheduled",
]


@pytest.fixture
def left_redis() -> Iterator[RedisServer]:
    """A server with what the earlier release left."""
    with RedisServer() as server, redis.Redis.from_url(server.url) as client:
        for command in STATE["redis"]:
            client.execute_command(
                *(part["plain"] if isinstance(part, dict) else base64.b64decode(part) for part in command)
            )
        yield server


@pytest.fixture
def left_database(tmp_path: Path) -> Path:
    """A file with what the earlier release left."""
    path = tmp_path / "db.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript("\n".join(STATE["sql"]))
    return path


def rows(path: Path, sql: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(path, timeout=20)) as database:
        return database.execute(sql).fetchall()


def test_notifications_are_delivered_once_wherever_they_were(left_redis: RedisServer, left_database: Path) -> None:
    """By settings that name a function by its former path; the old tables are migrated."""
    settings = {
        "SEND_MESSAGE": "notifications.bot.send_message",
        "STREAM_LEASE_SECONDS": 1,
        "INGRESS_LEASE_SECONDS": 1,
        "SWEEP_INTERVAL_SECONDS": 0.1,
    }
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.support.subscriber_settings",
        "DATABASE_URL": f"sqlite:///{left_database}",
        "REDIS_URL": left_redis.url,
        "NOTIFICATIONS": json.dumps(settings),
    }
    subprocess.run([sys.executable, "manage.py", "migrate"], cwd=ROOT, env=environment, check=True, capture_output=True)
    output = left_database.with_name("output")
    with output.open("wb") as file:
        command = [sys.executable, "manage.py", "run_bot_subscriber"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        unfinished = (
            "SELECT id FROM notifications_notification WHERE relayed_at IS NULL OR dispatched_at IS NULL UNION ALL "
            "SELECT id FROM notifications_delivery WHERE state <> 'sent' UNION ALL "
            "SELECT id FROM notifications_event WHERE published_at IS NULL"
        )
        wait_until_sync(lambda: rows(left_database, unfinished) == [], seconds=60)
        # The database has the last delivery before Redis has its ack.
        with redis.Redis.from_url(left_redis.url) as client:
            wait_until_sync(lambda: not client.exists(KEYS.key_owners("notifications", "bot")), seconds=60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()
        process.wait()
    lines = output.read_text().splitlines()
    assert sorted(line for line in lines if line.startswith("user ")) == UNDELIVERED
    assert rows(left_database, "SELECT count(*) FROM notifications_delivery") == [(len(UNDELIVERED) + 1,)]
    with redis.Redis.from_url(left_redis.url) as client:
        stream = KEYS.stream("notifications")
        assert {group["pending"] + (group["lag"] or 0) for group in client.xinfo_groups(stream)} == {0}
        assert client.hgetall(KEYS.key_owners("notifications", "bot")) == {}


async def test_entries_of_another_stream_are_handled_in_order(left_redis: RedisServer) -> None:
    """Those that waited first, of each key; the dead letter can be put back."""
    handled: list[tuple[str, str]] = []

    async def handle(entries: Sequence[Entry]) -> None:
        handled.extend((each.fields[b"customer"].decode(), each.fields[b"item"].decode()) for each in entries)

    reader, client = clients.async_reader(left_redis.url), clients.async_publisher(left_redis.url)
    worker = StreamWorker(
        reader, KEYS.stream(STREAM), GROUP, handle, redis=client, order_field="customer", lease_seconds=1
    )
    task = asyncio.create_task(worker.run())
    try:
        await wait_until(lambda: len(handled) >= 4)
        with redis.Redis.from_url(left_redis.url) as sync_client:
            keys = GroupKeys(KEYS.stream(STREAM), GROUP)
            (letters,) = await asyncio.to_thread(lambda: list(dead_letters.find(sync_client, keys)))
            assert await asyncio.to_thread(dead_letters.replay, sync_client, keys, letters) == 1
        await wait_until(lambda: len(handled) >= 5)
    finally:
        await worker.stop()
        await task
        await clients.close(reader)
        await clients.close(client)
    assert [item for customer, item in handled if customer == "alice"] == ["first", "second", "third"]
    assert sorted(item for customer, item in handled if customer == "bob") == ["poison", "unread"]


async def test_a_client_resumes_from_the_history_of_before(left_redis: RedisServer) -> None:
    """The epoch is the same and nothing is lost, so its page need not be loaded again."""
    client = clients.async_publisher(left_redis.url)
    reader = HistoryReader(client, keys=KEYS, crypter=None)
    try:
        history = await reader.read("news.today", after=1)
    finally:
        await reader.stop()
        await clients.close(client)
    (stored,) = (command for command in STATE["redis"] if "{news.today}:position" in _text(command[1]))
    assert history.position.epoch in [_text(part) for part in stored]
    assert history.position.offset == 3
    assert [json.loads(frame)["data"] for frame in history.frames] == [{"number": 1}, {"number": 2}]


def _text(part: Any) -> str:
    return str(part["plain"]) if isinstance(part, dict) else base64.b64decode(part).decode(errors="replace")
