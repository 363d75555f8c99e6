"""A notification or a user changes between being read and the write: the state at the time of the write decides."""

import concurrent.futures
import contextlib
import datetime
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, connections, transaction

from notifications import preferences, services
from notifications.content.stream_entry import StreamedNotification
from notifications.delivery import claim
from notifications.exceptions import InvalidPreference
from notifications.models import Delivery, Destination, Event, Notification
from realtime.redis.keys import Keys
from tests.support.domain import lock_waiters, make_users, recipients_on_stream
from tests.support.timing import begun, declare, ends, own_registry, pass_time, streamed
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox", "own_registry")]
__all__ = ["own_registry"]


def elsewhere(call: Callable[[], Any]) -> Any:
    """Call a function in another connection, and wait until it is committed."""

    def run() -> Any:
        try:
            return call()
        finally:
            connections.close_all()

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


@contextlib.contextmanager
def meanwhile(part: str, call: Callable[[], Any]) -> Iterator[list[str]]:
    """Call a function right after the first statement that contains `part`."""
    seen: list[str] = []

    def intrude(execute: Any, sql: str, *rest: Any) -> Any:
        result = execute(sql, *rest)
        if part in sql and not seen:
            seen.append(sql)
            call()
        return result

    with connection.execute_wrapper(intrude):
        yield seen
    assert seen, f"no statement has {part!r}"


@pytest.fixture
def waiting(redis_client: redis.Redis, keys: Keys, alice: User) -> StreamedNotification:
    """A notification whose fallback is due now."""
    declare(fallback={"console": datetime.timedelta(minutes=15)})
    services.notify(alice, "Bob mentioned you", kind="build", collapse_key="7")
    (found,) = streamed(redis_client, keys)
    begun(found)
    pass_time(minutes=16)
    return found


# Looked at right after the notification, and before the claim.
LOOKED_UP = 'FROM "notifications_preference"'


@pytest.mark.parametrize("what", ["mark_read", "mark_archived"])
def test_a_notification_read_at_the_last_moment_is_not_sent(
    waiting: StreamedNotification, alice: User, what: str
) -> None:
    """Between reading the notification and the claim."""
    mark = getattr(services, what)
    with meanwhile(LOOKED_UP, lambda: elsewhere(lambda: mark(alice.pk, [waiting.notification_id]))):
        assert begun(waiting) == ()
    assert ends() == [("skipped", "read before it was due")]


@pytest.mark.parametrize("is_planned", [True, False])
def test_a_notification_replaced_at_the_last_moment_is_not_sent(
    redis_client: redis.Redis, keys: Keys, alice: User, is_planned: bool
) -> None:
    """Whether or not its deliveries had been planned before."""
    services.notify(alice, "running", collapse_key="7")
    (found,) = streamed(redis_client, keys)
    if is_planned:
        begun(found)
        pass_time(minutes=2)
    newer = lambda: services.notify(alice, "passed", collapse_key="7")  # noqa: E731 - said once
    with meanwhile(LOOKED_UP, lambda: elsewhere(newer)):
        assert begun(found) == ()
    assert ends() == [("skipped", "replaced by a newer notification")]


def test_a_notification_deleted_at_the_last_moment_is_not_sent(waiting: StreamedNotification, alice: User) -> None:
    """Its deliveries are deleted too."""
    with meanwhile(LOOKED_UP, lambda: elsewhere(alice.delete)):
        assert claim.begin(waiting, entry_id="1-1", attempt=2) is None
    assert Delivery.objects.count() == 0


# Accounts that are deleted -------------------------------------------------------------------------------------------


def test_deleting_a_user_during_a_large_notify_does_not_fail_it(redis_client: redis.Redis, keys: Keys) -> None:
    """The others are notified, and the caller's own writes are committed."""
    users = [user.pk for user in make_users(30_000)]
    gone = User.objects.get(pk=users[-1])
    # PostgreSQL lets another connection in; on SQLite only who writes can be the one.
    delete = (lambda: elsewhere(gone.delete)) if connection.vendor == "postgresql" else gone.delete
    begun_parts: list[int] = []

    def intrude(step: str, count: int) -> None:
        if step == "saved" and not begun_parts:
            delete()
        begun_parts.append(count)

    with transaction.atomic():
        User.objects.create_user("the caller's own")
        event = services.notify(users, "Maintenance tonight", progress=intrude)
    assert User.objects.filter(username="the caller's own").exists()
    assert Notification.objects.filter(event=event).count() == len(users) - 1
    assert sorted(recipients_on_stream(redis_client, keys)) == users[:-1]
    event.refresh_from_db()
    assert event.published_at is not None


@pytest.mark.parametrize("later", [None, datetime.timedelta(hours=1)])
def test_the_only_recipient_is_deleted_after_being_looked_up(alice: User, later: datetime.timedelta | None) -> None:
    """The event is stored, nobody is notified, and nothing waits in the outbox."""
    looked_up = 'SELECT "id" FROM "auth_user"'
    delete = (lambda: elsewhere(alice.delete)) if connection.vendor == "postgresql" else alice.delete
    with meanwhile(looked_up, delete):
        event = services.notify([alice.pk], "Hello", deliver_after=later)
    assert event.notifications.count() == event.scheduled.count() == 0
    assert later or Event.objects.get().published_at is not None


@pytest.mark.postgres
def test_the_actor_is_locked_until_the_event_is_committed(alice: User, bob: User) -> None:
    """Otherwise the foreign key would fail at the caller's commit."""
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        with transaction.atomic():
            event = services.notify(alice, "Hello", actor=bob)
            # Logging in writes the same row, and does not wait.
            elsewhere(lambda: User.objects.filter(pk=bob.pk).update(last_name="B"))
            deleting = thread.submit(elsewhere, User.objects.get(pk=bob.pk).delete)
            wait_until_sync(lambda: lock_waiters() == 1 or deleting.done())
        # Who deletes did not see the event: it is theirs to try again.
        with pytest.raises(IntegrityError):
            deleting.result()
    bob.delete()
    event.refresh_from_db()
    assert (event.actor_id, event.notifications.count()) == (None, 1)


@pytest.mark.postgres
def test_the_owner_of_an_address_is_locked_until_it_is_committed(signalbox: Any, alice: User) -> None:
    """A user who was deleted meanwhile gets a clear error."""
    webhook = {"BACKEND": "notifications.transports.webhook.WebhookTransport"}
    signalbox.NOTIFICATIONS = {**signalbox.NOTIFICATIONS, "TRANSPORTS": {"webhook": webhook}}
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        with transaction.atomic():
            preferences.add_destination(alice.pk, "webhook", "https://shop.example/hook")
            deleting = thread.submit(elsewhere, User.objects.get(pk=alice.pk).delete)
            wait_until_sync(lambda: lock_waiters() == 1 or deleting.done())
        with pytest.raises(IntegrityError):
            deleting.result()
    user_id = alice.pk
    alice.delete()
    with pytest.raises(InvalidPreference, match="no user"):
        preferences.add_destination(user_id, "webhook", "https://shop.example/hook")
    assert Destination.objects.count() == 0
