"""
`python -m benchmarks.delivering COUNT DIRECTORY`: have one bot make so many deliveries, and print what it took as JSON.

Owns what is told to whom, the bot and the receiver it calls, and looking at what became of each. Which transport it is,
and where it leads, the settings say (providers). A database server is used by a database of its own, made and removed
here.

All notifications are on the stream before the bot starts; what happens until it has done a part of them, its start
included, is not measured. What is acked is done: its row says so.
"""

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import redis

from benchmarks import machine
from benchmarks.processes import Process
from benchmarks.providers.receiver import RECEIVERS
from benchmarks.workers import WARM_UP_SHARE, wait_for

__all__ = ["main"]

# What is told to one user is told in its order.
USERS = int(os.environ["BENCHMARK_USERS"])


def main() -> None:
    """Do what the command line says."""
    count, directory = int(sys.argv[1]), Path(sys.argv[2])
    django.setup()
    with _database() as name:
        figures = _deliver(count, directory, {"BENCHMARK_DATABASE": name})
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def _database() -> Iterator[str]:
    """The name of the one to use; the stage's own if it is a file."""
    from django.db import connection

    name = connection.settings_dict["NAME"]
    if connection.vendor == "sqlite":
        yield str(name)
        return
    connection.settings_dict["TEST"]["NAME"] = f"signalbox_benchmark_{os.getpid()}"
    own: str = connection.creation.create_test_db(verbosity=0, autoclobber=True)
    try:
        yield own
    finally:
        connection.creation.destroy_test_db(name, verbosity=0)


def _deliver(count: int, directory: Path, environment: dict[str, str]) -> dict[str, float]:
    from django.conf import settings

    recipients = _notify(count)
    arguments = [settings.TRANSPORT, settings.PORT, settings.KEYS]
    with contextlib.ExitStack() as ends:
        client = ends.enter_context(redis.Redis.from_url(settings.REDIS_URL))
        helpers = [machine.processes_of(client.info("server")["process_id"])]
        if settings.TRANSPORT in RECEIVERS:
            command = [sys.executable, "-m", "benchmarks.providers.receiver", *arguments]
            receiver = ends.enter_context(Process(command, core=machine.OTHER_CORE, log=directory / "receiver.log"))
            receiver.wait_for_port(int(settings.PORT))
            helpers.append(receiver.pids())
        command = [sys.executable, "manage.py", "run_bot_subscriber", "--only", "bot"]
        bot = Process(command, core=machine.SERVER_CORE, log=directory / "bot.log", environment=environment)
        figures = _observe(ends.enter_context(bot), client, count, helpers)
    return figures | _outcome(count, recipients, Path(settings.KEYS).read_text().split())


def _notify(count: int) -> Any:
    """Tell each user equally often, so many in all; returns the users."""
    from django.contrib.auth import get_user_model

    from notifications.services import notify

    model = get_user_model()
    # Several runs may share a database.
    prefix = f"recipient-{os.getpid()}-"
    names = (f"{prefix}{number}" for number in range(min(count, USERS)))
    model.objects.bulk_create(model(username=name, email=f"{name}@example.com", password="!") for name in names)  # noqa: S106
    users = model.objects.filter(username__startswith=prefix)
    for told in range(0, count, USERS):
        notify(users.order_by("pk")[: count - told], "Your order is on its way!", kind="benchmark")
    return users


def _observe(bot: Process, client: Any, count: int, helpers: list[list[int]]) -> dict[str, float]:
    def done_count() -> int:
        groups = client.xinfo_groups(stream) if client.exists(stream) else ()
        return sum((group["entries-read"] or 0) - group["pending"] for group in groups if group["name"] == b"bot")

    from realtime.conf import keys

    stream = keys().stream("notifications")
    wait_for(round(count * WARM_UP_SHARE), done_count, lambda: bot.log_text()[-2000:])
    begin, done = time.monotonic(), done_count()
    before = [bot.cpu_seconds(), *(machine.cpu_seconds(pids) for pids in helpers)]
    seconds = max(wait_for(count, done_count, None) - begin, 1e-6)
    after = [bot.cpu_seconds(), *(machine.cpu_seconds(pids) for pids in helpers)]
    deliveries = max(done_count() - done, 1)
    bot_cpu, redis_cpu, *receiver_cpu = (each - first for each, first in zip(after, before, strict=True))
    figures = {
        "deliveries": count,
        "deliveries_per_second": deliveries / seconds,
        "bot_cpu_us": bot_cpu * 1e6 / deliveries,
        "bot_core_used": bot_cpu / seconds,
        "redis_cpu_us": redis_cpu * 1e6 / deliveries,
    }
    if receiver_cpu:
        figures["receiver_core_used"] = receiver_cpu[0] / seconds
    return figures


def _outcome(count: int, recipients: Any, keys: list[str]) -> dict[str, float]:
    """By the rows and by what the receiver was given; the first calls opened connections and do not count for times."""
    from notifications.models import Delivery

    mine = Delivery.objects.filter(notification__recipient__in=recipients, state=Delivery.State.SENT)
    sent = list(mine.order_by("finished_at").values_list("key", "latency_seconds"))
    times = [latency for _, latency in sent[round(count * WARM_UP_SHARE) :]]
    hundredths = statistics.quantiles(times, n=100) if len(times) > 1 else [0.0] * 99
    return {
        "call_p50_ms": hundredths[49] * 1e3,
        "call_p99_ms": hundredths[98] * 1e3,
        "lost": count - len({key.hex for key, _ in sent} & set(keys)),
        "doubled": len(keys) - len(set(keys)),
    }


if __name__ == "__main__":
    main()
