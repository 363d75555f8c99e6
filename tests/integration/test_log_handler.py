"""RedisStreamHandler on a real Redis: what it sends, and what it does in outages, after a fork and at the end."""

import gc
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from realtime.logs import RedisStreamHandler
from realtime.logs.record import LogRecord, decode_record
from realtime.redis import clients
from realtime.redis.keys import Keys
from realtime.statistics import collect
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until, wait_until_sync

pytestmark = pytest.mark.database_independent

ROOT = Path(__file__).resolve().parent.parent.parent
type MakeHandler = Callable[..., RedisStreamHandler]


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger for the handler under test alone."""
    logger = logging.getLogger("tests.pipeline")
    logger.propagate, before = False, logger.level
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.propagate = True
    logger.setLevel(before)


@pytest.fixture
def make_handler(logger: logging.Logger, keys: Keys, redis_server: RedisServer) -> Iterator[MakeHandler]:
    """Makes handlers that the logger has until the end of the test."""
    handlers: list[RedisStreamHandler] = []

    def make(**options: Any) -> RedisStreamHandler:
        handler = RedisStreamHandler(**{"redis_url": redis_server.url, "key_prefix": keys.prefix, **options})
        handlers.append(handler)
        logger.addHandler(handler)
        return handler

    yield make
    for handler in handlers:
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture(autouse=True)
def _no_stream_left(redis_client: redis.Redis, keys: Keys) -> Iterator[None]:
    yield
    redis_client.delete(keys.stream("logs"))


def records(client: redis.Redis, keys: Keys) -> list[LogRecord]:
    """What is on the stream."""
    entries: Any = client.xrange(keys.stream("logs"))
    return [decode_record(fields[b"record"]) for _, fields in entries]


def messages(client: redis.Redis, keys: Keys) -> list[str]:
    return [record.message for record in records(client, keys)]


def spilled(directory: Path) -> list[str]:
    """The messages in spill files."""
    bodies = [path.read_bytes() for path in sorted(directory.glob("*.ndjson"))]
    return [json.loads(line)["message"] for body in bodies for line in body.splitlines()]


# What is sent ---------------------------------------------------------------------------------------------------------


def test_records_arrive_in_their_order(
    logger: logging.Logger, make_handler: MakeHandler, redis_client: redis.Redis, keys: Keys
) -> None:
    """With all that they have."""
    handler = make_handler()
    for number in range(1_200):
        logger.info("number %d", number, extra={"queue": "lobby", "task": {"number": number}})
    handler.flush()
    found = records(redis_client, keys)
    assert [record.message for record in found] == [f"number {number}" for number in range(1_200)]
    assert {(record.level, record.logger, record.queue) for record in found} == {("INFO", "tests.pipeline", "lobby")}
    assert found[7].task == {"number": 7}
    assert collect().others["log handler logs"]["sent"] >= 1_200
    assert handler._sender.statistics() == {
        **{"queued": 1_200, "sent": 1_200},
        **dict.fromkeys(("spilled", "replayed", "refused", "lost"), 0),
    }


def test_levels_filters_and_queues_choose_records(
    logger: logging.Logger, make_handler: MakeHandler, redis_client: redis.Redis, keys: Keys
) -> None:
    """As for any handler; `queued_only` takes those that ask for it."""
    handler = make_handler(level="INFO", queued_only=True)
    handler.addFilter(lambda record: "secret" not in record.getMessage())
    logger.debug("too low", extra={"queue": "lobby"})
    logger.info("a secret", extra={"queue": "lobby"})
    logger.info("without a queue")
    logger.info("taken", extra={"queue": "lobby"})
    handler.flush()
    assert messages(redis_client, keys) == ["taken"]


def test_threads_may_log_at_the_same_time(
    logger: logging.Logger, make_handler: MakeHandler, redis_client: redis.Redis, keys: Keys
) -> None:
    """Each record arrives once, those of one thread in their order."""
    handler = make_handler()

    def log(name: int) -> None:
        for number in range(300):
            logger.info("%d %d", name, number)

    threads = [threading.Thread(target=log, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handler.flush()
    found = [tuple(map(int, message.split())) for message in messages(redis_client, keys)]
    assert len(found) == 8 * 300
    for name in range(8):
        assert [number for each, number in found if each == name] == list(range(300))


def test_records_of_its_own_thread_are_not_sent(
    logger: logging.Logger, make_handler: MakeHandler, redis_client: redis.Redis, keys: Keys, monkeypatch: Any
) -> None:
    """Each batch would cause another one, for ever."""
    handler = make_handler()
    append = handler._sender._append

    def log_and_append(guard: str, batch: Any) -> object:
        logger.info("from the thread")
        return append(guard, batch)

    monkeypatch.setattr(handler._sender, "_append", log_and_append)
    logger.info("hello")
    handler.flush()
    logger.info("goodbye")
    handler.flush()
    assert messages(redis_client, keys) == ["hello", "goodbye"]


def test_a_record_that_is_too_large_is_refused(
    logger: logging.Logger,
    make_handler: MakeHandler,
    redis_client: redis.Redis,
    keys: Keys,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is counted, and the standard error says how large it is and whose. The others arrive."""
    handler = make_handler()
    logger.info("x" * (1 << 20))
    logger.info("after")
    wait_until_sync(lambda: messages(redis_client, keys) == ["after"])
    assert handler._sender.statistics()["refused"] == 1
    error = capsys.readouterr().err
    assert re.search(r"dropped: 1048\d{3} bytes of the logger tests\.pipeline, the limit is 1048576", error)
    assert "queue is full" not in error


# While Redis takes nothing --------------------------------------------------------------------------------------------


def test_an_outage_is_spilled_to_the_disk_and_sent_later(
    logger: logging.Logger, make_handler: MakeHandler, keys: Keys, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order in which they were logged; the standard error says it once, and when it is over."""
    with RedisServer() as server:
        handler = make_handler(redis_url=server.url, spill_directory=tmp_path / "spilled")
        logger.info("before")
        handler.flush()
        server.kill()
        for number in range(20):
            logger.info("during %d", number)
            if not number % 5:
                handler.flush()
        handler.flush()
        assert spilled(tmp_path / "spilled") == [f"during {number}" for number in range(20)]
        server.start()
        logger.info("after")
        with clients.publisher(server.url) as client:
            expected = [*(f"during {number}" for number in range(20)), "after"]
            # Without persistence, the server has forgotten what was before.
            wait_until_sync(lambda: messages(client, keys) == expected)
        wait_until_sync(lambda: not list((tmp_path / "spilled").iterdir()))
        wait_until_sync(lambda: "takes records again" in capsys.readouterr().err or not handler._sender._failures)


def test_without_a_directory_records_wait_in_memory(
    logger: logging.Logger, make_handler: MakeHandler, keys: Keys
) -> None:
    """They are sent when Redis is back."""
    with RedisServer() as server:
        server.kill()
        handler = make_handler(redis_url=server.url)
        for number in range(700):
            logger.info("%d", number)
        wait_until_sync(lambda: handler._sender._failures > 0)
        server.start()
        with clients.publisher(server.url) as client:
            wait_until_sync(lambda: messages(client, keys) == [str(number) for number in range(700)])


def test_what_has_no_room_is_dropped_counted_and_reported(
    logger: logging.Logger, make_handler: MakeHandler, keys: Keys, capsys: pytest.CaptureFixture[str]
) -> None:
    """The oldest stay. Logging neither waits nor raises."""
    with RedisServer() as server:
        server.kill()
        handler = make_handler(redis_url=server.url, queue_records=100, exit_seconds=0.1)
        logger.info("0")
        # From now on, the thread holds the first batch.
        wait_until_sync(lambda: handler._sender._failures > 0)
        for number in range(1, 300):
            logger.info("%d", number)
        counted = handler._sender.statistics()
        assert counted["queued"] + counted["refused"] == 300
        assert counted["refused"] >= 199
        errors = ""

        def is_reported() -> bool:
            nonlocal errors
            errors += capsys.readouterr().err
            return "records were dropped: the queue is full" in errors

        wait_until_sync(is_reported)
        server.start()
        with clients.publisher(server.url) as client:
            wait_until_sync(lambda: messages(client, keys) == [str(number) for number in range(counted["queued"])])


def test_a_full_stream_is_like_an_outage(
    logger: logging.Logger, make_handler: MakeHandler, redis_client: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    """No sink reads it: Redis must not run out of memory."""
    handler = make_handler(stream_limit=3, spill_directory=tmp_path)
    for number in range(3):
        logger.info("%d", number)
    handler.flush()
    logger.info("3")
    handler.flush()
    assert messages(redis_client, keys) == ["0", "1", "2"]
    assert spilled(tmp_path) == ["3"]
    redis_client.xtrim(keys.stream("logs"), maxlen=0)
    wait_until_sync(lambda: messages(redis_client, keys) == ["3"])


async def test_a_lost_reply_doubles_nothing(
    logger: logging.Logger, make_handler: MakeHandler, redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """The batch is sent again with the same guard."""
    async with Proxy(redis_server.url) as proxy:
        handler = make_handler(redis_url=proxy.url)
        logger.info("one")
        await wait_until(lambda: messages(redis_client, keys) == ["one"])
        proxy.go_deaf()
        logger.info("two")
        logger.info("three")
        await wait_until(lambda: handler._sender.waiting_count == 0)
        assert messages(redis_client, keys) == ["one", "two", "three"]


def test_the_disk_has_a_limit_too(
    logger: logging.Logger, make_handler: MakeHandler, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beyond it, records wait in memory."""
    with RedisServer() as server:
        server.kill()
        handler = make_handler(
            redis_url=server.url,
            spill_directory=tmp_path,
            spill_limit_bytes=1_000,
            exit_seconds=0.1,
        )
        for number in range(50):
            logger.info("%d", number)
        wait_until_sync(lambda: "records cannot be spilled" in capsys.readouterr().err)
        assert handler._sender.waiting_count == 50
        assert not list(tmp_path.iterdir())


# Processes ------------------------------------------------------------------------------------------------------------

PROGRAM = """
import logging, os, signal, sys
from realtime.logs import RedisStreamHandler
url, prefix, directory, seconds = sys.argv[1:]
options = {"redis_url": url, "key_prefix": prefix, "spill_directory": directory or None}
handler = RedisStreamHandler(**options, exit_seconds=float(seconds))
logger = logging.getLogger("program")
logger.setLevel("INFO")
logger.addHandler(handler)
"""


def run(
    server: RedisServer, keys: Keys, program: str, directory: Path | str = "", exit_seconds: float = 60
) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    # Forking beside the thread of the handler is what a test is about.
    options = ["-W", "ignore::DeprecationWarning", "-c", PROGRAM + program]
    command = [sys.executable, *options, server.url, keys.prefix, str(directory), str(exit_seconds)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_the_end_of_a_process_waits_until_its_records_are_sent(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Also at an exception, and without any call."""
    program = "for n in range(5000): logger.info('%d', n)\nraise SystemExit(3)"
    done = run(redis_server, keys, program)
    assert (done.returncode, done.stderr) == (3, "")
    assert messages(redis_client, keys) == [str(number) for number in range(5_000)]


def test_a_process_that_ends_in_an_outage_leaves_its_records_to_the_next(
    logger: logging.Logger, make_handler: MakeHandler, redis_client: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    """On the disk."""
    with RedisServer() as server:
        server.kill()
        done = run(server, keys, "for n in range(50): logger.info('%d', n)", tmp_path, exit_seconds=3)
    assert done.returncode == 0, done.stderr
    assert spilled(tmp_path) == [str(number) for number in range(50)]
    make_handler(spill_directory=tmp_path)
    logger.info("next")
    wait_until_sync(lambda: messages(redis_client, keys) == [*map(str, range(50)), "next"])
    assert not list(tmp_path.iterdir())


def test_a_process_that_ends_while_a_name_server_hangs_leaves_its_records_to_the_next(
    logger: logging.Logger,
    make_handler: MakeHandler,
    redis_server: RedisServer,
    redis_client: redis.Redis,
    keys: Keys,
    tmp_path: Path,
) -> None:
    """The thread that sends never gets an answer, so the end of the process spills the records itself."""
    program = """
import socket, threading
hangs = threading.Event()
socket.getaddrinfo = lambda *a, **k: hangs.set() or threading.Event().wait()
# The server of the tests has a socket without a name.
handler._redis_url = "redis://redis.example:6379/0"
logger.info("0")
assert hangs.wait(10)
for n in range(1, 1500): logger.info("%d", n)
"""
    done = run(redis_server, keys, program, tmp_path, exit_seconds=0.3)
    assert (done.returncode, done.stderr) == (0, "")
    assert spilled(tmp_path) == [str(number) for number in range(1_500)]
    make_handler(spill_directory=tmp_path)
    logger.info("next")
    wait_until_sync(lambda: messages(redis_client, keys) == [*map(str, range(1_500)), "next"])


def test_the_counters_of_a_closed_handler_stay(
    logger: logging.Logger, redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """A total never falls, also where `logging` replaces its handlers."""
    # No other test of this process has the name.
    stream = f"closed-{keys.prefix}"
    handler = RedisStreamHandler(stream=stream, redis_url=redis_server.url, key_prefix=keys.prefix)
    logger.addHandler(handler)
    logger.info("sent")
    # A busy machine may need longer than `flush` waits.
    wait_until_sync(lambda: collect().others[f"log handler {stream}"]["sent"] == 1)
    logger.removeHandler(handler)
    handler.close()
    del handler
    gc.collect()
    assert collect().others[f"log handler {stream}"]["sent"] == 1
    redis_client.delete(keys.stream(stream))


def test_a_closed_handler_has_no_connection(keys: Keys) -> None:
    """Otherwise it stays open until garbage collection finds the handler, which refers to itself."""
    with RedisServer() as server, clients.publisher(server.url) as client:
        handler = RedisStreamHandler(redis_url=server.url, key_prefix=keys.prefix)
        handler.handle(logging.makeLogRecord({"msg": "hello"}))
        wait_until_sync(lambda: len(client.client_list()) == 2)
        handler.close()
        wait_until_sync(lambda: len(client.client_list()) == 1)


def test_what_is_not_sent_before_the_end_is_counted(logger: logging.Logger, make_handler: MakeHandler) -> None:
    """Redis did not take it in time."""
    with RedisServer() as server:
        server.kill()
        handler = make_handler(stream="ended", redis_url=server.url, exit_seconds=0.1)
        for number in range(3):
            logger.info("%d", number)
        handler.close()
        assert collect().others["log handler ended"]["lost"] == 3
        assert handler._sender.waiting_count == 0


def test_a_process_without_a_directory_says_what_it_loses(keys: Keys) -> None:
    """After the time for the exit."""
    with RedisServer() as server:
        server.kill()
        done = run(server, keys, "logger.info('lost')", exit_seconds=0.3)
    assert done.returncode == 0
    assert "1 records are lost: Redis did not take them in time" in done.stderr


def test_a_forked_child_sends_its_own_records_only(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Those that the parent had queued are sent by the parent; nothing is sent twice, and nobody hangs."""
    program = """
logger.info("parent before")
children = []
for n in range(5):
    pid = os.fork()
    if not pid:
        logger.info("child %d", n)
        logging.shutdown()
        os._exit(0)
    children.append(pid)
    logger.info("parent %d", n)
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
"""
    done = run(redis_server, keys, program)
    assert (done.returncode, done.stderr) == (0, "")
    expected = ["parent before", *(f"{who} {number}" for who in ("child", "parent") for number in range(5))]
    assert sorted(messages(redis_client, keys)) == sorted(expected)


def test_logging_alone_configures_it(redis_server: RedisServer, redis_client: redis.Redis, keys: Keys) -> None:
    """In Django's LOGGING, which is used before any other setting; REALTIME says where Redis is."""
    program = """
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "realtime"],
    REALTIME={"REDIS_URL": url, "KEY_PREFIX": prefix},
    LOGGING={
        "version": 1,
        "handlers": {"pipeline": {"class": "realtime.logs.RedisStreamHandler", "level": "WARNING"}},
        "root": {"handlers": ["pipeline"], "level": "INFO"},
    },
)
django.setup()
logging.getLogger("shop").info("too low")
logging.getLogger("shop").warning("an order", extra={"queue": "orders"})
"""
    done = run(redis_server, keys, program)
    assert (done.returncode, done.stderr) == (0, "")
    assert [(each.logger, each.message, each.queue) for each in records(redis_client, keys)] == [
        ("shop", "an order", "orders")
    ]


def test_flushed_records_survive_a_kill(redis_server: RedisServer, redis_client: redis.Redis, keys: Keys) -> None:
    """When `flush` returns, they are on the stream."""
    program = """
for n in range(2000):
    logger.info("%d", n)
handler.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run(redis_server, keys, program).returncode == -signal.SIGKILL
    assert messages(redis_client, keys) == [str(number) for number in range(2_000)]


def test_the_end_of_a_child_of_multiprocessing_waits_too(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """Such a child ends without `logging.shutdown`."""
    program = """
import multiprocessing
def work():
    for n in range(100): logger.info("child %d", n)
child = multiprocessing.get_context("fork").Process(target=work)
child.start()
child.join()
assert child.exitcode == 0
"""
    done = run(redis_server, keys, program)
    assert (done.returncode, done.stderr) == (0, "")
    assert messages(redis_client, keys) == [f"child {number}" for number in range(100)]
