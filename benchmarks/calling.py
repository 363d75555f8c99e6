"""
`python -m benchmarks.calling WAY CALLS`: call what tells people, and print what it took as JSON.

Owns the calls. A database server is used by a database of its own, as tests have it, made and removed here.

- *notify*: `notify()` to 1, 100 and 10,000 people: from the call until the rows are committed and on the stream.
- *dashboard*: reading the delivery statistics of a million notifications.
- *publish*, *apublish*, *group-send*: a hundred messages on a topic, one after another, and all together
  where there is a way.
"""

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import django
from asgiref.sync import async_to_sync

from benchmarks import month
from benchmarks.payloads import payload

__all__ = ["main"]

TOPIC = "news.benchmark"
MESSAGES = 100
# Recipients of one call, and how much rarer than a call to one it is made.
SIZES = ((1, 1), (100, 4), (10_000, 40))


def main() -> None:
    """Do what the command line says."""
    way, calls = sys.argv[1], int(sys.argv[2])
    django.setup()
    figures = WAYS[way](calls)
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


def _notify(calls: int) -> dict[str, float]:
    from django.contrib.auth import get_user_model

    from notifications.models import Notification
    from notifications.services import notify
    from realtime import conf
    from realtime.redis import clients

    model = get_user_model()
    # Several runs may share a database.
    names = (f"recipient-{os.getpid()}-{number}" for number in range(SIZES[-1][0]))
    users = [user.pk for user in model.objects.bulk_create(model(username=name, password="!") for name in names)]  # noqa: S106
    figures, expected = {}, 0
    before = Notification.objects.count()
    for size, share in SIZES:
        times = []
        # The first one is not counted: it opens connections and loads scripts.
        for _ in range(1 + max(1, calls // share)):
            begin = time.perf_counter()
            notify(users[:size], "Your order is on its way!", kind="benchmark")
            times.append(time.perf_counter() - begin)
            expected += size
        figures[f"ms_{size}"] = statistics.median(times[1:]) * 1e3
        figures[f"max_ms_{size}"] = max(times[1:]) * 1e3
    largest = SIZES[-1][0]
    figures["recipients_per_second"] = largest / figures[f"ms_{largest}"] * 1e3
    with clients.publisher(os.environ["REDIS_URL"]) as client:
        appended: int = client.xlen(conf.keys().stream("notifications"))
    figures["lost"] = 2 * expected - (Notification.objects.count() - before) - appended
    figures["doubled"] = max(0, appended - expected)
    return figures


def _in_test_database(way: Callable[[int], dict[str, float]]) -> Callable[[int], dict[str, float]]:
    def call(calls: int) -> dict[str, float]:
        from django.db import connection

        name = connection.settings_dict["NAME"]
        # On SQLite a file beside the database's, which is removed with it.
        directory = f"{Path(name).parent}/" if connection.vendor == "sqlite" else ""
        connection.settings_dict["TEST"]["NAME"] = f"{directory}signalbox_benchmark_{os.getpid()}"
        connection.creation.create_test_db(verbosity=0, autoclobber=True)
        try:
            return way(calls)
        finally:
            connection.creation.destroy_test_db(name, verbosity=0)

    return call


def _publish(calls: int) -> dict[str, float]:
    from realtime.publisher import publish, publish_many

    def in_turn() -> None:
        for number in range(MESSAGES):
            publish(TOPIC, payload(number))

    return _figures(calls, in_turn, lambda: publish_many([(TOPIC, payload(number)) for number in range(MESSAGES)]))


def _apublish(calls: int) -> dict[str, float]:
    from realtime.publisher import apublish

    async def in_turn() -> None:
        for number in range(MESSAGES):
            await apublish(TOPIC, payload(number))

    async def together() -> None:
        await asyncio.gather(*(apublish(TOPIC, payload(number)) for number in range(MESSAGES)))

    with asyncio.Runner() as runner:
        return _figures(calls, lambda: runner.run(in_turn()), lambda: runner.run(together()))


def _group_send(calls: int) -> dict[str, float]:
    from channels.layers import get_channel_layer

    send = async_to_sync(get_channel_layer().group_send)

    def in_turn() -> None:
        for number in range(MESSAGES):
            send(TOPIC, {"type": "bench.message", "data": payload(number).decode()})

    return _figures(calls, in_turn, None)


def _figures(calls: int, in_turn: Callable[[], None], together: Callable[[], object] | None) -> dict[str, float]:
    rounds = max(1, calls // MESSAGES)
    in_turn()
    cpu = time.process_time()
    figures = {"in_turn_us": _median_us(rounds, in_turn)}
    figures["cpu_us"] = (time.process_time() - cpu) * 1e6 / (rounds * MESSAGES)
    if together is not None:
        together()
        figures["together_us"] = _median_us(rounds, together)
    return figures


def _median_us(rounds: int, call: Callable[[], object]) -> float:
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e6 / MESSAGES


WAYS: dict[str, Callable[[int], dict[str, float]]] = {
    "notify": _notify,
    "notify-test-database": _in_test_database(_notify),
    "dashboard-test-database": _in_test_database(month.measure),
    "publish": _publish,
    "apublish": _apublish,
    "group-send": _group_send,
}

if __name__ == "__main__":
    main()
