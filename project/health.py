"""
`python -m project.health web|bot`: whether this container's process does its work; docker-compose.yml asks.

Owns what "well" means for each kind of process. Prints why when it is not so.
"""

import contextlib
import http.client
import os
import socket
import sys

__all__ = ["Unwell", "check_bot", "check_web"]

TIMEOUT_SECONDS = 5.0
# A worker reads, claims or renews a lease at least every 7.5 s.
SILENCE_LIMIT_SECONDS = 30.0


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
    host = os.environ.get("ALLOWED_HOSTS", "").split(",")[0].lstrip(".")
    headers = {"Host": "localhost" if host in ("", "*") else host, "X-Forwarded-Proto": "https"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    with contextlib.closing(connection):
        connection.request("GET", "/", headers=headers)
        status = connection.getresponse().status
    if status >= http.client.BAD_REQUEST:
        raise Unwell(f"the front page answers {status}")


def check_bot(host: str | None = None) -> None:
    """
    Look in Redis whether run_bot_subscriber on this host has lately read in each consumer group that it is in.

    Args:
        host: The name that the consumers' names begin with; default: this host's.

    Raises:
        Unwell: It has not.
        redis.RedisError: Redis cannot be asked.
    """
    from realtime import conf

    prefix = f"{host or socket.gethostname()}-".encode()
    stream = conf.keys().stream("notifications")
    client = conf.sync_redis()
    # The silence of this host's liveliest consumer, by group; one of an earlier process may be there still.
    silence: dict[str, float] = {}
    for group in client.xinfo_groups(stream):
        name = group["name"].decode()
        for consumer in client.xinfo_consumers(stream, name):
            if consumer["name"].startswith(prefix):
                silence[name] = min(silence.get(name, float("inf")), consumer["idle"] / 1000)
    if not silence:
        raise Unwell(f"no consumer group of {stream} has a consumer of this host")
    for name, seconds in silence.items():
        if seconds > SILENCE_LIMIT_SECONDS:
            raise Unwell(f"nothing was read in the group {name} for {seconds:.0f} s")


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    try:
        if sys.argv[1] == "bot":
            check_bot()
        else:
            check_web()
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
