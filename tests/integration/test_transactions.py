"""Reading and writing in one transaction, on a SQLite with Django's default options."""

import contextlib
import datetime
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.db import OperationalError, connection, transaction
from django.db.backends.signals import connection_created
from django.utils import timezone

from notifications import services
from notifications.content import stream_entry
from notifications.database import transactions
from notifications.database.transactions import is_contended, write_transaction
from notifications.delivery import claim, records
from notifications.delivery.records import Result
from notifications.events.prune import prune
from notifications.models import Delivery, Event, Notification
from notifications.services import notify
from realtime.redis.keys import Keys
from realtime.streams import Entry
from tests.support.domain import make_users

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("signalbox"),
    pytest.mark.database_independent,
]


@pytest.fixture(params=["delete", "wal"])
def other(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[sqlite3.Connection]:
    """
    Another program's connection, which never waits; Django's own has no options, as in a new project.

    To a copy of the database: the way of its journal can only be changed while nobody else has it open.
    """
    path = tmp_path / "copy.sqlite3"
    with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
        with contextlib.closing(sqlite3.connect(connection.settings_dict["NAME"])) as original:
            original.backup(other)
        other.execute(f"PRAGMA journal_mode={request.param}")
        connection.close()
        with monkeypatch.context() as patch:
            patch.setitem(connection.settings_dict, "NAME", str(path))
            patch.setitem(connection.settings_dict, "OPTIONS", {})
            yield other
            connection.close()


class Intruder:
    """Writes, or tries to, after each question within a transaction of ours; knows how often that was refused."""

    def __init__(self, other: sqlite3.Connection) -> None:
        self.refusals = 0
        self._other = other

    def __call__(self, execute: Any, sql: str, *rest: Any) -> Any:
        result = execute(sql, *rest)
        if connection.in_atomic_block and sql.startswith("SELECT"):
            try:
                self._other.execute("BEGIN IMMEDIATE")
                self._other.execute("UPDATE auth_user SET last_name = last_name")
                self._other.execute("COMMIT")
            except sqlite3.OperationalError:
                self.refusals += 1
        return result


def test_notify_has_its_turn_before_it_reads(other: sqlite3.Connection) -> None:
    """Who comes between its questions and its inserts is made to wait; it would be "database is locked" else."""
    (alice,) = make_users(1)
    intruder = Intruder(other)
    with connection.execute_wrapper(intruder):
        notify(alice, "Hello", idempotency_key="once")
        with transaction.atomic():
            notify([alice.pk], "Hello again")
    assert intruder.refusals >= 3
    assert Notification.objects.count() == 2


def test_a_bot_has_its_turn_before_it_reads(other: sqlite3.Connection, redis_client: redis.Redis, keys: Keys) -> None:
    """Claiming a delivery, writing down how it ended, and deleting old ones."""
    notify(make_users(1), "Hello")
    ((entry_id, fields),) = redis_client.xrange(keys.stream("notifications"))
    intruder = Intruder(other)
    with connection.execute_wrapper(intruder):
        claims = claim.begin(stream_entry.decode(Entry(entry_id, fields, 1)), entry_id="1-1", attempt=1)
        assert claims is not None
        assert intruder.refusals
        intruder.refusals = 0
        assert records.record(claims.granted[0], Result(state=Delivery.State.SENT, answer="well", outcomes={}))
        assert intruder.refusals
        intruder.refusals = 0
        assert sum(pruned.notifications for pruned in prune(timezone.now())) == 1
        assert intruder.refusals


def test_what_people_choose_has_its_turn_before_it_reads(other: sqlite3.Connection, signalbox: Any) -> None:
    """A preference, an address, a browser that may be woken and quiet hours."""
    webhook = {"BACKEND": "notifications.transports.webhook.WebhookTransport"}
    signalbox.NOTIFICATIONS = {**signalbox.NOTIFICATIONS, "TRANSPORTS": {"webhook": webhook}}
    (alice,) = make_users(1)
    keys = {"p256dh": "B" * 87, "auth": "A" * 22}
    intruder = Intruder(other)
    with connection.execute_wrapper(intruder):
        services.set_preference(alice.pk, "order.shipped", "webhook", False)
        services.add_destination(alice.pk, "webhook", "https://shop.example/hook")
        services.add_push_subscription(alice.pk, {"endpoint": "https://push.example/1", "keys": keys})
        services.set_quiet_hours(alice.pk, datetime.time(22), datetime.time(7), "Europe/Berlin")
    assert intruder.refusals >= 4


def test_the_lock_is_waited_for(other: sqlite3.Connection) -> None:
    """As long as `timeout` says, and then it is an error like any other."""
    connection.close()
    connection.settings_dict["OPTIONS"]["timeout"] = 0.05
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OperationalError, match="locked"), write_transaction("default"):
        raise AssertionError("not before the other has finished")
    other.execute("COMMIT")
    with write_transaction("default"):
        assert not Event.objects.exists()


def test_it_is_known_that_writers_wait_for_each_other(
    other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a while after one had to, so that the bot leaves them room; a free lock is no reason."""
    monkeypatch.setattr(transactions, "_waited_at", {})
    monkeypatch.setattr(transactions, "WAITED_SECONDS", 0.2)
    assert any(begin_alone() for _ in range(20))
    connection.close()
    connection.settings_dict["OPTIONS"]["timeout"] = 30
    is_taken = threading.Event()
    writer = threading.Thread(target=hold_lock, args=(connection.settings_dict["NAME"], is_taken, 0.5))
    writer.start()
    is_taken.wait(10)
    with write_transaction("default"):
        assert is_contended("default")
    writer.join()
    monkeypatch.setattr(transactions, "CONTENDED_SECONDS", 0.0)
    assert not is_contended("default")


def test_opening_a_connection_does_not_count_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take as long, but the bot need not leave room for anybody."""
    monkeypatch.setattr(transactions, "_waited_at", {})
    monkeypatch.setattr(transactions, "WAITED_SECONDS", 0.5)
    opened: list[object] = []

    def open_slowly(**signal: object) -> None:
        opened.append(signal["connection"])
        time.sleep(0.6)

    def begin() -> bool:
        connection.close()
        return begin_alone()

    connection_created.connect(open_slowly)
    try:
        assert any(begin() for _ in range(3))
    finally:
        connection_created.disconnect(open_slowly)
    assert opened


def begin_alone() -> bool:
    """Whether a transaction that nobody hinders is taken for one that nobody hinders."""
    with write_transaction("default"):
        return not is_contended("default")


def hold_lock(path: str, is_taken: threading.Event, seconds: float) -> None:
    """As another program that writes for so long."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        is_taken.set()
        time.sleep(seconds)
        writer.execute("COMMIT")


def test_nothing_is_spent_where_the_transaction_takes_its_lock_itself(django_assert_num_queries: Any) -> None:
    """The project's own settings have transaction_mode IMMEDIATE."""
    with django_assert_num_queries(2) as queries, write_transaction("default"):
        pass
    assert [query["sql"] for query in queries.captured_queries] == ["BEGIN IMMEDIATE", "COMMIT"]
