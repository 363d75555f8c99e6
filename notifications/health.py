"""
`python -m notifications.health web|bot|tasks`: whether the process of this container works; docker-compose.yml asks.

Owns what is checked for each kind of process. Does not own what happens if the check fails.
"""

import argparse
import contextlib
import functools
import http.client
import re
import socket
import sys
from collections.abc import Callable

from django.conf import settings

from notifications.conf import STREAM
from realtime import conf

__all__ = ["Unwell", "check_bot", "check_tasks", "check_web", "main"]

TIMEOUT_SECONDS = 5.0


class Unwell(Exception):
    """It does not work; the text says what is missing."""


def check_web(port: int = 8000) -> None:
    """
    Ask for the front page as the proxy does.

    Raises:
        Unwell: It answers with an error page.
        OSError, http.client.HTTPException: It does not answer.
    """
    # Django serves its own host names only, and over HTTPS as the proxy tells it.
    host = next(iter(settings.ALLOWED_HOSTS), "").lstrip(".")
    headers = {"Host": "localhost" if host in ("", "*") else host, "X-Forwarded-Proto": "https"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    with contextlib.closing(connection):
        connection.request("GET", "/", headers=headers)
        status = connection.getresponse().status
    if status >= http.client.BAD_REQUEST:
        raise Unwell(f"the front page answers {status}")


def check_bot(host: str | None = None) -> None:
    """
    Look in Redis whether run_bot_subscriber on this host holds its lease in each consumer group that it is in.

    Not when it last read: with all slots taken it reads nothing, and to restart it then would send again what is being
    sent. Its event loop renews the lease at every quarter of STREAM_LEASE_SECONDS, whatever it waits for.

    Args:
        host: Whose; this one by default.

    Raises:
        Unwell: It does not.
        redis.RedisError: Redis cannot be asked.
    """
    is_held = _leases(STREAM, host)
    if not is_held:
        raise Unwell(f"no consumer group of {conf.keys().stream(STREAM)} has a consumer of this host")
    for name, is_alive in is_held.items():
        if not is_alive:
            raise Unwell(f"the worker of the group {name} has not renewed its lease")


def check_tasks(host: str | None = None) -> None:
    """
    Look in Redis whether run_task_worker on this host holds its lease on each task queue that it reads.

    Args:
        host: Whose; this one by default.

    Raises:
        Unwell: It does not.
        redis.RedisError: Redis cannot be asked.
    """
    keys, client = conf.keys(), conf.sync_redis()
    first = keys.task_queue("")
    names = sorted(name.decode() for name in client.sscan_iter(keys.streams()))
    queues = [name.removeprefix(first) for name in names if name.startswith(first) and client.exists(name)]
    is_held = {queue: any(found.values()) for queue in queues if (found := _leases(f"tasks:{queue}", host))}
    if not is_held:
        raise Unwell("no task queue has a worker of this host")
    for queue, is_alive in is_held.items():
        if not is_alive:
            raise Unwell(f"the worker of the task queue {queue} has not renewed its lease")


def _leases(stream: str, host: str | None) -> dict[str, bool]:
    """
    Whether a consumer of this host has its lease, by consumer group; one of an earlier process may be there still.

    Raises:
        Unwell: The event loop of such a consumer is blocked.
    """
    # Host, pid, random: so those of another host whose name only begins so are left out.
    of_host = re.compile(rf"{re.escape(host or socket.gethostname())}-\d+-\w+".encode())
    keys, client = conf.keys(), conf.sync_redis()
    is_held: dict[str, bool] = {}
    for group in client.xinfo_groups(keys.stream(stream)):
        name = group["name"].decode()
        for consumer in client.xinfo_consumers(keys.stream(stream), name):
            if of_host.fullmatch(consumer["name"]):
                worker = consumer["name"].decode()
                is_held[name] = is_held.get(name, False) or bool(client.exists(keys.worker_lease(stream, name, worker)))
                where = client.get(keys.standstill(worker))
                if isinstance(where, bytes):
                    raise Unwell(f"the event loop of {worker} is blocked at {where.decode()}")
    return is_held


def main() -> None:
    """The command line: exits with 0, or with 1 after it has written the reason to the standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m notifications.health",
        description="Checks that the process on this machine does its work, and says why if not. It needs "
        "DJANGO_SETTINGS_MODULE in its environment.",
    )
    parser.add_argument(
        "process", choices=["web", "bot", "tasks"], help="the web server, run_bot_subscriber or run_task_worker"
    )
    parser.add_argument("--port", type=int, default=8000, help="of the web server; default: %(default)s")
    options = parser.parse_args()
    checks: dict[str, Callable[[], None]] = {
        "web": functools.partial(check_web, options.port),
        "bot": check_bot,
        "tasks": check_tasks,
    }
    try:
        checks[options.process]()
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
