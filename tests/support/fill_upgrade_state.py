"""
Fills a database and a Redis as the release that is checked out does, and writes both down for test_upgrade.

Run it in a checkout of an earlier release, not in this one:
`python fill_upgrade_state.py REDIS_URL STATE.json`, with an empty Redis and DATABASE_URL on an empty SQLite file.

Owns what is in the state: an event for each place where a notification can be, entries of another stream in each
place of the stream worker, and the history of a topic. Does not own what must become of it (test_upgrade).
"""

import asyncio
import base64
import datetime
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis

STREAM, GROUP = "orders", "billing"
# Keys that live shorter have expired when the next release starts: leases, and what workers tell each other.
SHORT_MS = 60_000


def wait(fact: Callable[[], object]) -> None:
    """Until it is true, for half a minute at most."""
    end = time.monotonic() + 30
    while not fact():
        if time.monotonic() > end:
            raise TimeoutError(fact)
        time.sleep(0.05)


def run_bot(until: Callable[[], object], *, end: int, **notifications: Any) -> None:
    """Run relay and bot until something is true, then end them with a signal."""
    environment = {**os.environ, "NOTIFICATIONS": json.dumps(notifications)}
    command = [sys.executable, "manage.py", "run_bot_subscriber"]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        wait(until)
    finally:
        process.send_signal(end)
        process.wait(timeout=30)


async def work_on_orders(url: str, keys: Any) -> None:
    """One entry is handled, one given up, one waits for its next attempt, and one waits behind it."""
    from realtime import connections
    from realtime.streams import Entry, PermanentError, Retry, StreamWorker

    async def handle(entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.fields[b"item"] == b"poison":
                raise PermanentError("poison")
            if entry.fields[b"item"] == b"first":
                raise Retry(5, "not now")

    reader, client = connections.async_reader(url), connections.async_publisher(url)
    worker = StreamWorker(
        reader,
        keys.stream(STREAM),
        GROUP,
        handle,
        redis=client,
        order_field="customer",
        registry_key=keys.streams(),
    )
    task = asyncio.create_task(worker.run())
    # The entry that waits for its next attempt, and the one behind it.
    kept = keys.kept_entries(STREAM, GROUP)
    while await client.hlen(kept) < 2 or not worker.statistics().handled_count:  # noqa: ASYNC110 - a script
        await asyncio.sleep(0.05)
    await worker.stop()
    await task
    await connections.close(reader)
    await connections.close(client)


def fill(url: str) -> None:
    """Each place of a notification and of an entry."""
    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django.utils import timezone

    from notifications.models import Delivery, Notification
    from notifications.services import notify
    from realtime import conf
    from realtime.publisher import publish

    call_command("migrate", verbosity=0)
    for name in ("alice", "bob", "carol"):
        get_user_model().objects.create_user(name, password="-")
    alice, bob, carol = get_user_model().objects.order_by("pk")

    def is_done() -> bool:
        left = Notification.objects.filter(relayed_at=None).exists() or Delivery.objects.exclude(state="sent").exists()
        return Delivery.objects.exists() and not left

    notify(alice, "was delivered")
    run_bot(is_done, end=signal.SIGTERM)
    notify(bob, "in a bot that died")
    run_bot(
        lambda: Delivery.objects.filter(state="sending").exists(),
        end=signal.SIGKILL,
        SEND_MESSAGE="tests.transports.hang",
    )
    notify(bob, "behind it")
    notify([alice, carol], "on the stream")
    environment = {**os.environ, "REDIS_URL": "redis://127.0.0.1:1"}
    command = [sys.executable, "manage.py", "notify", "alice", "in the outbox"]
    subprocess.run(command, env=environment, check=True)
    notify(carol, "scheduled", deliver_after=timezone.now() + datetime.timedelta(seconds=30))
    keys, client = conf.keys(), conf.sync_redis()
    for customer, item in (("alice", "first"), ("alice", "second"), ("bob", "poison"), ("carol", "handled")):
        client.xadd(keys.stream(STREAM), {"customer": customer, "item": item})
    asyncio.run(work_on_orders(url, keys))
    client.xadd(keys.stream(STREAM), {"customer": "alice", "item": "third"})
    client.xadd(keys.stream(STREAM), {"customer": "bob", "item": "unread"})
    for number in range(3):
        publish("news.today", {"number": number})


def commands_of(client: redis.Redis) -> list[list[Any]]:
    """The commands that make all of it again, on any server."""
    found: list[list[Any]] = []
    for key in sorted(client.scan_iter(count=1000)):
        ttl_ms = client.pttl(key)
        if 0 <= ttl_ms < SHORT_MS:
            continue
        found += _READ[client.type(key).decode()](client, key)
    return found


def _read_stream(client: redis.Redis, key: bytes) -> list[list[Any]]:
    found = [
        ["XADD", key, id, *(part for pair in fields.items() for part in pair)] for id, fields in client.xrange(key)
    ]
    for group in client.xinfo_groups(key):
        found.append(["XGROUP", "CREATE", key, group["name"], group["last-delivered-id"], "MKSTREAM"])
        for entry in client.xpending_range(key, group["name"], "-", "+", 1000):
            count = ["RETRYCOUNT", entry["times_delivered"], "FORCE"]
            found.append(["XCLAIM", key, group["name"], entry["consumer"], 0, entry["message_id"], *count])
    return found


_READ: dict[str, Callable[[redis.Redis, bytes], list[list[Any]]]] = {
    "string": lambda client, key: [["SET", key, client.get(key)]],
    "hash": lambda client, key: [["HSET", key, *(part for pair in client.hgetall(key).items() for part in pair)]],
    "set": lambda client, key: [["SADD", key, *sorted(client.smembers(key))]],
    "zset": lambda client, key: [
        ["ZADD", key, *(part for name, score in client.zrange(key, 0, -1, withscores=True) for part in (score, name))]
    ],
    "list": lambda client, key: [["RPUSH", key, *client.lrange(key, 0, -1)]],
    "stream": _read_stream,
}


def main() -> None:
    """Fill and write down."""
    import django
    from django.db import connection

    url, path = sys.argv[1:]
    os.environ["REDIS_URL"] = url
    django.setup()
    fill(url)
    # Values may be any bytes.
    packed = [
        [base64.b64encode(part).decode() if isinstance(part, bytes) else {"plain": part} for part in command]
        for command in commands_of(redis.Redis.from_url(url))
    ]
    with sqlite3.connect(connection.settings_dict["NAME"]) as database:
        sql = list(database.iterdump())
    with open(path, "w") as file:
        json.dump({"sql": sql, "redis": packed}, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
