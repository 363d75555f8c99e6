"""Clients of Redis: what a new connection costs before anything is sent."""

import importlib.metadata
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from django.utils.safestring import SafeString

from realtime import conf
from realtime.redis import clients


@pytest.mark.parametrize("make", [clients.publisher, clients.async_publisher, clients.async_reader])
def test_a_new_connection_reads_nothing_from_disk(make: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sync code that sends to a group opens one for each call; redis-py would read its version from its metadata."""
    pool = make("redis://localhost").connection_pool

    def refuse(name: str) -> str:
        raise AssertionError(f"the metadata of {name} is read")

    monkeypatch.setattr(importlib.metadata, "version", refuse)
    connection = pool.make_connection()
    info = getattr(connection, "driver_info", None)
    assert (info.lib_version if info else connection.lib_version) == redis.__version__


@pytest.mark.parametrize("make", [clients.publisher, clients.async_publisher, clients.async_reader])
def test_a_connection_packs_commands_as_redis_py_does(make: Callable[[str], Any]) -> None:
    """Commands of several words, each type of value, and what Redis has no form for."""
    connection = make("redis://localhost").connection_pool.make_connection()
    plain = redis.Connection()
    for command in [
        ("PING",),
        ("SCRIPT LOAD", "return 1"),
        (b"XINFO STREAM", b"a b"),
        ("SET", "ä", b"\x00\r\n", 1, -2.5, 1e22, float("inf"), 2**70, ""),
        ("SET", "a", memoryview(b"b"), bytearray(b"c"), SafeString("d")),
    ]:
        assert b"".join(connection.pack_command(*command)) == b"".join(plain.pack_command(*command))
        assert b"".join(connection.pack_commands([command])) == b"".join(plain.pack_command(*command))
    for value in (None, True, [1], {"a": 1}):
        with pytest.raises(redis.DataError):
            connection.pack_command("SET", "a", value)


# Packs commands of many numbers until a signal handler has raised in the middle of it, many times.
PACK_AND_RAISE = """
import signal
from realtime.redis import clients

make = {make}
connection = make("redis://localhost").connection_pool.make_connection()
numbers = [*range(500), *(number / 7 for number in range(500))]

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
for _ in range(200):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        while True:
            connection.pack_command("RPUSH", "list", *numbers)
            connection.pack_commands([("RPUSH", "list", *numbers)])
    except KeyboardInterrupt:
        pass
print("alive")
"""


@pytest.mark.parametrize("make", ["clients.publisher", "clients.async_publisher"])
def test_a_signal_in_the_middle_of_a_command_is_an_exception(make: str) -> None:
    """hiredis dies by SIGSEGV if a handler raises while it packs a number: Ctrl-C would end us without a word."""
    done = subprocess.run(
        [sys.executable, "-c", PACK_AND_RAISE.format(make=make)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_threads_that_come_first_together_share_one_client(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """redis-py closes the connections of a client that nobody keeps, while a command of its thread uses one."""
    settings.REALTIME = {**settings.REALTIME, "REDIS_URL": "redis://localhost:1/0"}
    make, both = clients.publisher, threading.Barrier(2)

    def make_together(*arguments: Any, **options: Any) -> redis.Redis:
        both.wait(10)
        return make(*arguments, **options)

    monkeypatch.setattr(clients, "publisher", make_together)
    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(lambda _: conf.sync_redis(), range(2))
    assert one is other
