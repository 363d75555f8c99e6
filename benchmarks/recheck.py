"""
`python -m benchmarks.recheck [--connections 10000] [--topics 1]`: what the recheck of open connections costs a process.

Owns a database and a Redis of its own, both removed in the end, and connections that are only the recheck's view of
them: a user, a session, topics. Measured for whole rounds: the time of the process, the queries, and how late a timer
of the event loop is meanwhile. DATABASE_URL, if it is set, names an empty database to use instead of SQLite.
"""

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["main"]

TICK_SECONDS = 0.01
ROUNDS = 2


def main() -> None:
    """Measure, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument(
        "--topics", type=int, default=0, help="live topics of each, with a permission that asks the database"
    )
    parser.add_argument("--recheck-seconds", type=float, default=45.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sb-recheck-") as directory:
        from tests.support.redis_server import RedisServer

        with RedisServer() as server:
            os.environ |= {"VAR_DIR": directory, "REDIS_URL": server.url, "DJANGO_SETTINGS_MODULE": "project.settings"}
            figures = _measure(options)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connections

    call_command("migrate", verbosity=0)
    cookies = Path(os.environ["VAR_DIR"]) / "cookies"
    call_command("seed_demo", f"--users={options.connections}", f"--cookies={cookies}", verbosity=0)
    keys = dict(line.split("\t") for line in cookies.read_text().splitlines())
    connections.close_all()
    return asyncio.run(_rounds(options, {int(user): key for user, key in keys.items()}))


async def _rounds(options: argparse.Namespace, keys: dict[int, str]) -> dict[str, Any]:
    from channels.layers import get_channel_layer
    from django.db.backends.utils import CursorWrapper

    from realtime.topics import Topic
    from realtime.websocket import authentication
    from realtime.websocket.roster import Roster

    asked: list[int] = []

    class Depot(Topic):
        pattern = "depot.<slug:name>"

        def may_subscribe(self, user: Any, **parameters: Any) -> bool:
            asked.append(user.pk)
            return not user.groups.filter(name=parameters["name"]).exists()

    layer: Any = get_channel_layer()
    roster = Roster(layer, recheck_seconds=options.recheck_seconds)
    users = await authentication.users_of_keys(list(keys.values()))
    names = [f"depot.{number}" for number in range(options.topics)]
    connections = [_Resident(user, key, names) for user, key in zip(users, keys.values(), strict=True)]
    queries = _count_queries(CursorWrapper)
    lateness = asyncio.create_task(_lateness())
    # The others come when orders are heard, and are not looked at at once.
    roster.add(connections[0])
    await roster.listening()
    for connection in connections[1:]:
        roster.add(connection)
    await asyncio.sleep(1)
    asked.clear()
    _late.clear()
    begun, cpu_begun = time.monotonic(), _cpu_seconds()
    await asyncio.sleep(ROUNDS * options.recheck_seconds)
    seconds, cpu = time.monotonic() - begun, _cpu_seconds() - cpu_begun
    lateness.cancel()
    late = sorted(_late)
    looked_at = sum(connection.count for connection in connections)
    if any(connection.is_over for connection in connections):
        raise RuntimeError("a connection was ended whose session has not")
    for connection in connections:
        roster.remove(connection)
    await layer.flush()
    return {
        "connections": len(connections),
        "topics of each": options.topics,
        "looked at": looked_at,
        "permissions asked": len(asked),
        "seconds": round(seconds, 1),
        "queries a second": round(queries[0] / seconds, 1),
        "share of a core": f"{100 * cpu / seconds:.1f} %",
        "CPU of one look": f"{1e6 * cpu / max(looked_at, 1):.0f} µs",
        "timer late, p50 ms": round(1e3 * late[len(late) // 2], 1),
        "timer late, p99 ms": round(1e3 * late[len(late) * 99 // 100], 1),
        "timer late, max ms": round(1e3 * late[-1], 1),
    }


_late: list[float] = []


async def _lateness() -> None:
    while True:
        asked_at = time.monotonic()
        await asyncio.sleep(TICK_SECONDS)
        _late.append(time.monotonic() - asked_at - TICK_SECONDS)


def _count_queries(wrapper: Any) -> list[int]:
    count, execute = [0], wrapper.execute

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        count[0] += 1
        return execute(self, *arguments, **options)

    wrapper.execute = counted
    return count


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class _Resident:
    """What the roster sees of a connection."""

    def __init__(self, user: Any, session_key: str, names: list[str]) -> None:
        self.user, self.session_key, self.ends_at = user, session_key, float("inf")
        self.is_over = False
        self.count = 0
        self._names = names

    def end(self, code: int, reason: str) -> None:
        self.is_over = True

    def refresh(self, user: Any) -> None:
        self.user = user
        self.count += 1

    def rechecked_topics(self) -> list[str]:
        return self._names

    def revoke(self, topic: str, code: str, detail: str) -> None:
        self.is_over = True


if __name__ == "__main__":
    main()
