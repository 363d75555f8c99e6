"""What is committed is published, whatever fails in between, and published once."""

import datetime
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.utils import timezone

from notifications import services
from notifications.database.clock import moment_of
from notifications.database.paging import oldest_first
from notifications.events import outbox
from notifications.models import Event, Notification
from realtime.redis.keys import Keys
from tests.support.domain import entries_on_stream, make_users, recipients_on_stream, rows_read

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]


@pytest.fixture(autouse=True)
def _no_grace(signalbox: Any) -> None:
    signalbox.NOTIFICATIONS = {"OUTBOX_GRACE_SECONDS": 0.0}


def _unpublish(event: Event) -> None:
    """As if the process had died before it marked the event as published."""
    Event.objects.filter(pk=event.pk).update(published_at=None)


def _committed_event(*recipients: User) -> Event:
    """An event in the outbox, as after a crash between its commit and its publication."""
    event = Event.objects.create(message="Hello")
    Notification.objects.bulk_create(Notification(event=event, recipient=recipient) for recipient in recipients)
    return event


class TestPublishing:
    def test_an_event_leaves_the_outbox_once(self, redis_client: redis.Redis, keys: Keys) -> None:
        """The entries are ordered by id. A second call has no effect, nor has one for an event that does not exist."""
        users = make_users(3)
        event = _committed_event(*users)
        assert outbox.publish_event(event.pk) is True
        assert outbox.publish_event(event.pk) is False
        assert outbox.publish_event(10**9) is False
        assert recipients_on_stream(redis_client, keys) == [user.pk for user in users]
        event.refresh_from_db()
        assert event.published_at is not None

    def test_the_sweep_publishes_the_same_envelope_as_notify(self, redis_client: redis.Redis, keys: Keys) -> None:
        """Whether it is made from memory or from the database."""
        alice, bob = make_users(2)
        data = {"a": [1, 2.5, None, True, {"ä": "\u2028 🚚"}], "small": -0.001, "large": 2**53 - 1}
        event = services.notify(alice, "Hello\nthere", title="„Titel“", url="/x", kind="a.b", data=data)
        _unpublish(event)
        redis_client.delete(*redis_client.scan_iter(match=f"*{keys.prefix}*"), keys.stream("notifications"))
        services.notify(bob, "another")
        assert outbox.publish_event(event.pk)
        again = entries_on_stream(redis_client, keys)[-1]["e"]
        assert again["created_at"] == moment_of(event.created_at).isoformat().replace("+00:00", "Z")
        assert (again["message"], again["title"], again["url"], again["kind"], again["data"]) == (
            "Hello\nthere",
            "„Titel“",
            "/x",
            "a.b",
            data,
        )

    def test_publishing_again_after_a_lost_answer_appends_nothing(self, redis_client: redis.Redis, keys: Keys) -> None:
        """Redis had accepted everything. Publishing again finds the guards."""
        users = make_users(1200)
        event = services.notify(users, "Hello")
        _unpublish(event)
        assert outbox.publish_event(event.pk) is True
        assert recipients_on_stream(redis_client, keys) == [user.pk for user in users]

    def test_rows_deleted_in_between_neither_shift_nor_hide_others(self, redis_client: redis.Redis, keys: Keys) -> None:
        """After a failure in the middle of an event, and the deletion of users before and after that point."""
        users = make_users(1600)

        def fail_after_the_first_part(step: str, count: int) -> None:
            if step == "published":
                raise ZeroDivisionError

        event = services.notify(users, "Hello", progress=fail_after_the_first_part)
        published = recipients_on_stream(redis_client, keys)
        assert 0 < len(published) < len(users)
        User.objects.filter(pk__in=[users[0].pk, users[-1].pk]).delete()
        assert outbox.publish_event(event.pk) is True
        assert recipients_on_stream(redis_client, keys) == [user.pk for user in users[:-1]]

    def test_an_event_whose_recipients_are_gone_leaves_the_outbox(self, redis_client: redis.Redis, keys: Keys) -> None:
        """There are no recipients left."""
        (alice,) = make_users()
        event = _committed_event(alice)
        User.objects.filter(pk=alice.pk).delete()
        assert outbox.publish_event(event.pk) is True
        assert redis_client.xlen(keys.stream("notifications")) == 0

    def test_a_new_database_may_reuse_the_ids_of_an_old_one(self, redis_client: redis.Redis, keys: Keys) -> None:
        """The guards of the old one are still in Redis, and have no effect."""
        alice, bob = make_users(2)
        old = services.notify(alice, "old")
        notification_id = old.notifications.get().pk
        event_id = old.pk
        old.delete()
        new = Event.objects.create(pk=event_id, message="new")
        Notification.objects.create(pk=notification_id, event=new, recipient=bob)
        assert outbox.publish_event(event_id) is True
        assert recipients_on_stream(redis_client, keys) == [alice.pk, bob.pk]

    def test_concurrent_sweeps_publish_each_event_once(self, redis_client: redis.Redis, keys: Keys) -> None:
        """Eight sweeps publish and count each event once."""
        users = make_users(5)
        for _ in range(10):
            _committed_event(*users)

        def sweep(_: int) -> int:
            try:
                return outbox.sweep()
            finally:
                connection.close()

        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(sweep, range(8))) == 10
        entries = entries_on_stream(redis_client, keys)
        assert sorted(int(entry["n"]) for entry in entries) == list(
            Notification.objects.order_by("id").values_list("id", flat=True)
        )

    def test_an_unexpected_error_is_logged_and_does_not_reach_the_caller(
        self, caplog: pytest.LogCaptureFixture, redis_client: redis.Redis, keys: Keys
    ) -> None:
        """With its traceback. Other on_commit callbacks run, and the sweep publishes the event."""
        (alice,) = make_users()
        ran = []

        def fail(step: str, count: int) -> None:
            if step == "published":
                raise ZeroDivisionError

        with transaction.atomic():
            event = services.notify(alice, "Hello", progress=fail)
            transaction.on_commit(lambda: ran.append("after"))
        assert ran == ["after"]
        assert event.published_at is None
        (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert record.getMessage() == f"publishing event {event.pk} failed: it stays in the outbox for the sweep"
        assert record.exc_info is not None
        assert record.exc_info[0] is ZeroDivisionError
        assert outbox.sweep() == 1
        assert recipients_on_stream(redis_client, keys) == [alice.pk]

    async def test_the_async_twin_publishes_too(self, redis_client: redis.Redis, keys: Keys) -> None:
        """It publishes once, too."""
        (alice,) = await sync_to_async(make_users)(1)
        event = await sync_to_async(_committed_event)(alice)
        assert await outbox.apublish_event(event.pk) is True
        assert await outbox.apublish_event(event.pk) is False
        assert recipients_on_stream(redis_client, keys) == [alice.pk]


class TestSweep:
    def test_it_publishes_the_oldest_first_and_no_more_than_asked(self, redis_client: redis.Redis, keys: Keys) -> None:
        """The rest is for the next call."""
        (alice,) = make_users()
        events = [_committed_event(alice) for _ in range(5)]
        assert [outbox.sweep(limit=2) for _ in range(4)] == [2, 2, 1, 0]
        entries = entries_on_stream(redis_client, keys)
        assert [entry["e"]["event_id"] for entry in entries] == [event.pk for event in events]

    def test_it_leaves_young_events_to_their_callers(self, signalbox: Any) -> None:
        """These are probably publishing them right now."""
        (alice,) = make_users()
        event = _committed_event(alice)
        signalbox.NOTIFICATIONS = {"OUTBOX_GRACE_SECONDS": 3600.0}
        assert outbox.sweep() == 0
        Event.objects.filter(pk=event.pk).update(created_at=timezone.now() - datetime.timedelta(hours=2))
        assert outbox.sweep() == 1

    def test_an_event_that_cannot_be_published_does_not_hold_up_others(
        self, caplog: pytest.LogCaptureFixture, redis_client: redis.Redis, keys: Keys
    ) -> None:
        """It is logged. (notify() would have refused it.)"""
        if connection.vendor != "sqlite":
            pytest.skip("no other database stores half a character")
        alice, bob = make_users(2)
        broken = _committed_event(alice)
        Event.objects.filter(pk=broken.pk).update(data="\ud800")
        _committed_event(bob)
        # The limit is one event that is published, not the broken one before it.
        assert outbox.sweep(limit=1) == 1
        assert recipients_on_stream(redis_client, keys) == [bob.pk]
        assert f"event {broken.pk} cannot be published and stays in the outbox" in caplog.text

    def test_it_reads_only_the_events_that_it_publishes(self) -> None:
        """After a long outage there are many events. Those beyond the limit are not read, and none is read twice."""
        Event.objects.bulk_create(Event(message=str(number)) for number in range(200))
        with rows_read("created_at") as counts:
            assert outbox.sweep(limit=10) == 10
        assert sum(counts) == 10
        with rows_read("created_at") as counts:
            assert outbox.sweep(limit=5000) == 190
        assert sum(counts) == 190

    def test_pages_have_each_row_once_in_the_order_of_its_time(self) -> None:
        """Rows with equal times are ordered by id, even if rows are deleted meanwhile and the first are skipped."""
        now = timezone.now()
        for number in range(30):
            Event.objects.create(message="x", created_at=now - datetime.timedelta(seconds=number // 4))
        expected = list(Event.objects.order_by("created_at", "id").values_list("id", flat=True))
        found = []
        for number, id in enumerate(oldest_first(Event.objects.all(), "created_at", page_size=3)):
            found.append(id)
            if number % 2:
                Event.objects.filter(pk=id).delete()
        assert found == expected
