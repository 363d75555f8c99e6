"""Pushing counters to Redis: once each, for their own minute, whatever fails in between."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from realtime.redis import clients
from realtime.redis.keys import Keys
from realtime.statistics import pusher
from realtime.statistics.pusher import IDLE_SECONDS, MINUTES_LIMIT, Pusher
from realtime.statistics.stored import read_hours, read_minutes, read_processes
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until, wait_until_sync

pytestmark = pytest.mark.database_independent

ROOT = Path(__file__).resolve().parents[2]
MINUTE = 28_000_000


class Counting:
    """A process that counts, with a clock that tests turn."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self.client, self.keys = client, keys
        self.totals: Counter[str] = Counter()
        self.now: dict[str, int] = {}
        self.seconds = float(MINUTE * 60)
        self.pusher = Pusher(
            lambda: (self.client, self.keys),
            role=lambda: "web",
            read=lambda: (Counter(self.totals), dict(self.now)),
            clock=lambda: self.seconds,
        )

    def minutes(self, count: int = 3) -> dict[int, dict[str, int]]:
        """What Redis has: minute after MINUTE → figures."""
        found = read_minutes(self.client, self.keys, range(MINUTE, MINUTE + count))
        return {number - MINUTE: minute.figures for number, minute in found.items()}


@pytest.fixture
def counting(redis_client: redis.Redis, keys: Keys) -> Counting:
    return Counting(redis_client, keys)


def test_differences_are_added_to_their_minute_and_hour(counting: Counting, redis_client: redis.Redis) -> None:
    """By several processes; each field is the sum."""
    other = Counting(redis_client, counting.keys)
    counting.totals["hub.delivery_count"] = 5
    assert counting.pusher.push()
    counting.totals["hub.delivery_count"] = 8
    other.totals["hub.delivery_count"] = 100
    assert counting.pusher.push()
    assert other.pusher.push()
    counting.seconds += 60
    counting.totals.update({"hub.delivery_count": 1, "notifications.created|news": 2})
    assert counting.pusher.push()
    assert counting.minutes() == {
        0: {"hub.delivery_count": 108},
        1: {"hub.delivery_count": 1, "notifications.created|news": 2},
    }
    hour = MINUTE // 60
    assert read_hours(redis_client, counting.keys, [hour])[hour].figures == {
        "hub.delivery_count": 109,
        "notifications.created|news": 2,
    }


def test_one_push_is_one_call(counting: Counting, redis_client: redis.Redis) -> None:
    """However much was counted."""
    counting.totals.update({f"notifications.created|kind-{number}": 1 for number in range(1000)})
    counting.pusher.push()
    before = redis_client.info("commandstats")
    counting.totals.update({f"notifications.created|kind-{number}": 1 for number in range(1000)})
    counting.pusher.push()
    after = redis_client.info("commandstats")

    def calls(stats: object, name: str) -> int:
        return int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"])  # type: ignore[attr-defined]

    assert calls(after, "evalsha") - calls(before, "evalsha") == 1
    assert counting.minutes()[0]["notifications.created|kind-999"] == 2


async def test_a_push_whose_answer_is_lost_is_not_added_twice(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """It is sent again with the same number, which Redis knows."""
    async with Proxy(redis_server.url) as proxy:
        with clients.publisher(proxy.url, timeout_seconds=60.0) as client:
            client.connection_pool.connection_kwargs["retry"] = None
            counting = Counting(client, keys)
            counting.totals["x"] = 1
            assert await asyncio.to_thread(counting.pusher.push)
            proxy.go_deaf()
            counting.totals["x"] = 4
            pushing = asyncio.create_task(asyncio.to_thread(counting.pusher.push))
            await wait_until(lambda: read_minutes(redis_client, keys, [MINUTE])[MINUTE].figures == {"x": 4})
            proxy.cut()
            assert not await pushing
            # Counted meanwhile, it waits behind the push that is not confirmed.
            counting.totals["x"] = 10
            assert not await asyncio.to_thread(counting.pusher.push)
            assert (await asyncio.to_thread(counting.minutes))[0] == {"x": 4}
            assert await asyncio.to_thread(counting.pusher.push)
            assert (await asyncio.to_thread(counting.minutes))[0] == {"x": 10}


def test_what_is_counted_in_an_outage_is_added_to_its_own_minutes(keys: Keys) -> None:
    """And nothing is lost, when Redis comes back with its data."""
    with RedisServer(append_only=True) as server, clients.publisher(server.url) as client:
        counting = Counting(client, keys)
        counting.totals["x"] = 1
        assert counting.pusher.push()
        server.kill()
        for number in range(3):
            counting.totals["x"] += 10 ** (number + 1)
            assert not counting.pusher.push()
            counting.seconds += 60
        server.start()
        assert not counting.pusher.push()
        assert counting.pusher.push()
        assert counting.minutes(4) == {0: {"x": 11}, 1: {"x": 100}, 2: {"x": 1000}}


def test_a_long_outage_keeps_a_limited_number_of_minutes(keys: Keys) -> None:
    """Older ones are counted with the oldest that is kept; the sum stays right."""
    with RedisServer() as server, clients.publisher(server.url) as client:
        counting = Counting(client, keys)
        server.kill()
        counting.totals["x"] = 1
        counting.pusher.push()
        for _ in range(MINUTES_LIMIT + 20):
            counting.seconds += 60
            counting.totals["x"] += 1
            counting.pusher.push()
        server.start()
        while not counting.pusher.push():
            pass
        # With USE_TZ off, two hours may have one name in the database, and differ by this alone.
        hours = read_hours(client, keys, range(MINUTE // 60, MINUTE // 60 + MINUTES_LIMIT // 60 + 2))
        assert len({hour.epoch for hour in hours.values()}) == len(hours) > 2
        found = counting.minutes(MINUTES_LIMIT + 30)
        assert sum(each["x"] for each in found.values()) == MINUTES_LIMIT + 21
        # The first one was in the push that failed, and stays on its own.
        assert len(found) == MINUTES_LIMIT + 1


def test_a_minute_of_a_redis_that_lost_its_data_has_another_epoch(keys: Keys) -> None:
    """So that a copy of the old one can be told apart."""
    with RedisServer() as server, clients.publisher(server.url) as client:
        counting = Counting(client, keys)
        counting.totals["x"] = 1
        counting.pusher.push()
        first = read_minutes(client, keys, [MINUTE])[MINUTE]
        counting.totals["x"] = 2
        counting.pusher.push()
        assert read_minutes(client, keys, [MINUTE])[MINUTE].epoch == first.epoch != ""
        client.flushall()
        counting.totals["x"] = 4
        counting.pusher.push()
        last = read_minutes(client, keys, [MINUTE])[MINUTE]
        assert (last.figures, last.epoch != first.epoch) == ({"x": 2}, True)


@pytest.mark.parametrize("key", ["minute", "hour", "process", "processes"])
def test_a_key_of_another_type_is_replaced(counting: Counting, redis_client: redis.Redis, key: str) -> None:
    """Whoever made it: no figure is lost by it, and none added twice."""
    names = {
        "minute": counting.keys.statistics_minute(MINUTE),
        "hour": counting.keys.statistics_hour(MINUTE // 60),
        "process": counting.keys.statistics_process(counting.pusher.id),
        "processes": counting.keys.statistics_processes(),
    }
    redis_client.set(names[key], "mine", ex=60)
    counting.totals["x"] = 3
    assert counting.pusher.push()
    counting.totals["x"] = 5
    assert counting.pusher.push()
    assert counting.minutes()[0] == {"x": 5}
    assert read_hours(redis_client, counting.keys, [MINUTE // 60])[MINUTE // 60].figures == {"x": 5}
    assert len(read_processes(redis_client, counting.keys)) == 1


def test_a_process_in_which_nothing_happens_pushes_rarely(counting: Counting, redis_client: redis.Redis) -> None:
    """Only to say that it is alive, or when its state has changed."""

    def pushed() -> bool:
        before = redis_client.hget(counting.keys.statistics_process(counting.pusher.id), "number")
        counting.pusher.push()
        return redis_client.hget(counting.keys.statistics_process(counting.pusher.id), "number") != before

    assert pushed()
    assert not pushed()
    counting.now["clients.open_count"] = 3
    assert pushed()
    assert not pushed()
    counting.seconds += IDLE_SECONDS
    assert pushed()


def test_a_process_is_seen_while_its_clock_is_behind(counting: Counting, redis_client: redis.Redis) -> None:
    """A clock that went back by an hour does not make an idle process look dead for an hour."""
    counting.pusher.push()
    number = redis_client.hget(counting.keys.statistics_process(counting.pusher.id), "number")
    counting.seconds -= 3600
    counting.pusher.push()
    assert redis_client.hget(counting.keys.statistics_process(counting.pusher.id), "number") != number
    counting.totals["x"] = 1
    assert counting.pusher.push()
    assert read_minutes(redis_client, counting.keys, [MINUTE - 60])[MINUTE - 60].figures == {"x": 1}


def test_a_process_says_what_it_is_and_that_it_ends(counting: Counting, redis_client: redis.Redis) -> None:
    """Its present state is that of the last push."""
    counting.now["clients.open_count"] = 3
    counting.pusher.push()
    (found,) = read_processes(redis_client, counting.keys)
    assert (found.about.role, found.about.now, found.is_alive) == ("web", {"clients.open_count": 3}, True)
    assert found.about.name.endswith(f":{os.getpid()}")
    counting.totals["x"] = 1
    counting.pusher.push(is_last=True)
    (found,) = read_processes(redis_client, counting.keys)
    assert not found.is_alive
    assert counting.minutes()[0] == {"x": 1}


def test_totals_that_fall_are_not_subtracted(counting: Counting) -> None:
    """A part that was dropped without its end takes its totals with it; later ones count from there."""
    counting.totals["x"] = 5
    counting.pusher.push()
    counting.totals["x"] = 2
    counting.pusher.push()
    counting.totals["x"] = 4
    counting.pusher.push()
    assert counting.minutes()[0] == {"x": 7}


PROGRAM = """
import os, sys, time
import django
django.setup()
from realtime.statistics import count
count("notifications.created", 3, "news")
child = os.fork()
if not child:
    count("notifications.created", 4, "news")
    sys.exit()
os.waitpid(child, 0)
import multiprocessing
child = multiprocessing.get_context("fork").Process(target=count, args=("notifications.created", 5, "news"))
child.start()
child.join()
print("counted", flush=True)
if sys.argv[1] == "wait":
    time.sleep(60)
"""


@pytest.fixture
def program(redis_server: RedisServer, keys: Keys, tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts PROGRAM, which counts 3 and, in forked processes, 4 and 5."""
    settings = tmp_path / "pushing_settings.py"
    settings.write_text(
        "from tests.settings import *\n"
        f"REALTIME |= {{'REDIS_URL': {redis_server.url!r}, 'KEY_PREFIX': {keys.prefix!r}, 'STATISTICS': True}}\n"
    )
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "pushing_settings",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
    }
    started: list[subprocess.Popen[str]] = []

    def start(how: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, how], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def created(client: redis.Redis, keys: Keys) -> int:
    names = list(client.scan_iter(match=keys.statistics_minute(0).replace(":0", ":*"), count=1000))
    return sum(int(client.hget(name, "notifications.created|news") or 0) for name in names)


def test_a_process_that_ends_pushes_the_rest(
    program: Callable[[str], subprocess.Popen[str]], redis_client: redis.Redis, keys: Keys
) -> None:
    """So do its forked children, which do not push what the parent has counted."""
    assert program("end").wait(120) == 0
    assert created(redis_client, keys) == 12
    assert {each.is_alive for each in read_processes(redis_client, keys)} == {False}


def test_a_process_that_is_killed_has_pushed_what_is_a_second_old(
    program: Callable[[str], subprocess.Popen[str]], redis_client: redis.Redis, keys: Keys
) -> None:
    """And nothing is added when it is gone."""
    process = program("wait")
    wait_until_sync(lambda: created(redis_client, keys) == 12)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert created(redis_client, keys) == 12


def test_counting_does_not_fail_if_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A machine may have no room for it, and a process that ends starts none. The next use tries again."""
    monkeypatch.setattr(pusher, "_state", pusher._State(connect=ZeroDivisionError, is_enabled=lambda: True))

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        pusher._start()
    assert [record.message for record in caplog.records] == [
        "statistics of this process are not pushed yet (can't start new thread)"
    ]
    pusher._start()
    thread = pusher._state.thread
    assert thread is not None
    assert thread.is_alive()
    pusher.stop()
    assert not thread.is_alive()


def test_a_defect_is_logged_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Not once a second."""
    ticks = []

    class Broken:
        def push(self, *, is_last: bool = False) -> bool:
            ticks.append(is_last)
            if len(ticks) >= 3:
                ending.set()
            raise ZeroDivisionError

    monkeypatch.setattr(pusher, "INTERVAL_SECONDS", 0.001)
    ending = threading.Event()
    pusher._run(Broken(), ending)  # type: ignore[arg-type]
    assert ticks == [False, False, False, True]
    assert [record.message for record in caplog.records] == [
        "pushing statistics failed: it is tried again every 0.001 s"
    ]
