"""Redis away, hanging or back, and processes killed at the worst moment: nothing is lost, nothing doubled."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import OperationalError, connection

from notifications import services
from notifications.events import outbox
from notifications.models import Event
from realtime import conf
from realtime.exceptions import StreamUnavailable
from realtime.redis import clients
from realtime.redis.keys import Keys
from tests.support.domain import entries_on_stream, make_users, recipients_on_stream
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.django_db(transaction=True)

SOCKET_TIMEOUT_SECONDS = 3.0


@pytest.fixture
def own_redis(signalbox: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """A server that the test may stop. Timeouts are shorter than in production, and the sweep has no grace period."""
    monkeypatch.setattr(clients, "CALLER_TIMEOUT_SECONDS", SOCKET_TIMEOUT_SECONDS)
    signalbox.NOTIFICATIONS = {"OUTBOX_GRACE_SECONDS": 0.0}
    with RedisServer(append_only=True) as server:
        signalbox.REALTIME = {**signalbox.REALTIME, "REDIS_URL": server.url}
        yield server
        conf.sync_redis().close()


@pytest.fixture
def start(
    own_redis: RedisServer, keys: Keys, tmp_path: Path
) -> Iterator[Callable[[str, User], subprocess.Popen[bytes]]]:
    """Starts notify_and_die.py on this test's database and Redis."""
    processes = []

    def start(how: str, recipient: User) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "VAR_DIR": str(tmp_path),
            "REDIS_URL": own_redis.url,
            "TEST_DATABASE": str(connection.settings_dict["NAME"]),
            "TEST_PREFIX": keys.prefix,
            "RECIPIENT": str(recipient.pk),
        }
        command = [sys.executable, "-m", "tests.integration.notify_and_die", how]
        processes.append(subprocess.Popen(command, env=environment))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def _warning_count(caplog: pytest.LogCaptureFixture) -> int:
    return len([record for record in caplog.records if record.levelno >= logging.WARNING])


def _on_stream(server: RedisServer, keys: Keys) -> list[int]:
    with clients.publisher(server.url) as client:
        return recipients_on_stream(client, keys)


class TestRedisAway:
    def test_calls_succeed_without_redis_and_the_sweep_publishes_later(
        self, own_redis: RedisServer, keys: Keys, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Twenty calls, one warning. When Redis is available again, each event is published once."""
        users = make_users(20)
        own_redis.kill()
        events = [services.notify(user, "Hello") for user in users]
        assert all(event.published_at is None for event in events)
        assert _warning_count(caplog) == 1
        assert "Redis is unavailable (ConnectionError: " in caplog.text
        with pytest.raises(StreamUnavailable):
            outbox.sweep()
        own_redis.start()
        assert outbox.sweep() == 20
        assert outbox.sweep() == 0
        assert _on_stream(own_redis, keys) == [user.pk for user in users]

    def test_one_caller_waits_for_a_hanging_redis(self, own_redis: RedisServer, keys: Keys, signalbox: Any) -> None:
        """The first caller waits for the timeout. During the pause, all others leave their event to the sweep."""
        signalbox.NOTIFICATIONS = {**signalbox.NOTIFICATIONS, "OUTBOX_PAUSE_SECONDS": 60.0}
        users = make_users(10)
        services.notify(users[0], "before")
        own_redis.pause()
        services.notify(users[1], "waits")
        started = time.monotonic()
        for user in users[2:]:
            services.notify(user, "does not wait")
        # Eight that wait would take eight times that.
        assert time.monotonic() - started < 6 * SOCKET_TIMEOUT_SECONDS
        own_redis.resume()
        assert outbox.sweep() == 9
        assert sorted(_on_stream(own_redis, keys)) == [user.pk for user in users]

    def test_redis_is_used_again_after_the_pause(self, own_redis: RedisServer, signalbox: Any) -> None:
        """Callers publish again, without the sweep."""
        signalbox.NOTIFICATIONS = {"OUTBOX_PAUSE_SECONDS": 0.0}
        (alice,) = make_users()
        own_redis.kill()
        assert services.notify(alice, "away").published_at is None
        own_redis.start()
        assert services.notify(alice, "back").published_at is not None

    def test_events_from_an_outage_are_published_before_newer_ones(
        self, own_redis: RedisServer, keys: Keys, signalbox: Any
    ) -> None:
        """One call during the outage, six after it."""
        signalbox.NOTIFICATIONS = {"OUTBOX_PAUSE_SECONDS": 0.0}
        (alice,) = make_users()
        own_redis.kill()
        events = [services.notify(alice, "away")]
        own_redis.start()
        events += [services.notify(alice, f"back {number}") for number in range(6)]
        with clients.publisher(own_redis.url) as client:
            entries = entries_on_stream(client, keys)
        assert [entry["e"]["event_id"] for entry in entries] == [event.pk for event in events]

    @pytest.mark.parametrize("is_async", [False, True])
    async def test_an_error_of_the_database_does_not_keep_redis_from_being_used(
        self, own_redis: RedisServer, signalbox: Any, is_async: bool
    ) -> None:
        """Redis is available again, but the caller that tries it has a failing database. The next caller publishes."""
        signalbox.NOTIFICATIONS = {"OUTBOX_PAUSE_SECONDS": 0.0}
        (alice,) = await sync_to_async(make_users)()

        async def notify(message: str) -> Event:
            if is_async:
                return await services.anotify(alice, message)
            return await sync_to_async(services.notify)(alice, message)

        own_redis.kill()
        await notify("away")
        own_redis.start()

        def fail(event: Event) -> bool:
            raise OperationalError("server closed the connection unexpectedly")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(outbox, "_leave_outbox", fail)
            assert (await notify("is published and not recorded")).published_at is None
        assert (await notify("is published")).published_at is not None

    async def test_the_async_twin_neither_fails_nor_waits(
        self, own_redis: RedisServer, keys: Keys, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Killed before the first connection of this loop."""
        users = await sync_to_async(make_users)(5)
        own_redis.kill()
        events = [await services.anotify(user, "Hello") for user in users]
        assert all(event.published_at is None for event in events)
        assert _warning_count(caplog) == 1
        own_redis.start()
        assert await sync_to_async(outbox.sweep)() == 5
        await conf.close_async_redis()
        assert _on_stream(own_redis, keys) == [user.pk for user in users]


class TestCrash:
    def test_a_process_killed_between_commit_and_publishing_loses_nothing(
        self, start: Callable[[str, User], subprocess.Popen[bytes]], own_redis: RedisServer, keys: Keys
    ) -> None:
        """The sweep of another process publishes its event, once."""
        (alice,) = make_users()
        assert start("killed-after-commit", alice).wait(timeout=120) == -signal.SIGKILL
        assert Event.objects.get().published_at is None
        assert _on_stream(own_redis, keys) == []
        assert outbox.sweep() == 1
        assert outbox.sweep() == 0
        assert _on_stream(own_redis, keys) == [alice.pk]

    def test_a_process_killed_while_publishing_publishes_once(
        self, start: Callable[[str, User], subprocess.Popen[bytes]], own_redis: RedisServer, keys: Keys
    ) -> None:
        """Redis is paused, and may or may not run its command later. The event is on the stream once."""
        (alice,) = make_users()
        with clients.publisher(own_redis.url) as client:
            client.client_pause(60_000, all=False)
            process = start("publishing", alice)
            wait_until_sync(lambda: any(row["cmd"] == "evalsha" for row in client.client_list()), seconds=90)
            process.kill()
            process.wait()
            client.client_unpause()
        assert Event.objects.get().published_at is None
        assert outbox.sweep() == 1
        assert _on_stream(own_redis, keys) == [alice.pk]
