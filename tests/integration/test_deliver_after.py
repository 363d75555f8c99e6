"""Events that wait: told when their time has come, or never."""

import concurrent.futures
import datetime
import json
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.db import connections, transaction
from django.utils import timezone

from notifications import services
from notifications.database.clock import moment_of
from notifications.events import outbox
from notifications.events.schedule import release
from notifications.exceptions import InvalidField
from notifications.inbox.queries import read_bell
from notifications.models import Event, Notification, Scheduled
from notifications.statistics import read_dashboard
from realtime.redis.keys import Keys
from tests.support.domain import entries_on_stream, make_users, recipients_on_stream, rows_read
from tests.support.timing import pass_time

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]
HOUR = datetime.timedelta(hours=1)


def wait_for_it(recipients: Any, **fields: Any) -> Event:
    return services.notify(recipients, "Later", deliver_after=HOUR, **fields)


def test_nobody_is_notified_before_the_time(redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """Neither the stream nor the inbox has it, and it does not count as overdue in the outbox."""
    event = wait_for_it(alice)
    assert event.deliver_at == event.created_at + HOUR
    pass_time(minutes=59)
    assert (release(), outbox.sweep(), outbox.publish_event(event.pk)) == (0, 0, False)
    assert entries_on_stream(redis_client, keys) == []
    assert read_bell(alice.pk).unread == 0
    found = read_dashboard("hour")
    assert (found.outbox, found.scheduled, found.rows.funnel.created) == (0, 1, 0)


def test_everybody_is_notified_at_the_time(redis_client: redis.Redis, keys: Keys) -> None:
    """Once, with the time of the release, and as the newest in the inbox."""
    users = make_users(3)
    event = wait_for_it(users, title="Lunch", data={"table": 4})
    earlier = services.notify(users[0], "Meanwhile")
    pass_time(minutes=61)
    before = timezone.now()
    assert (release(), release()) == (1, 0)
    entries = entries_on_stream(redis_client, keys)[1:]
    assert [entry["u"] for entry in entries] == [str(user.pk) for user in users]
    assert (entries[0]["e"]["title"], entries[0]["e"]["data"]) == ("Lunch", {"table": 4})
    assert datetime.datetime.fromisoformat(entries[0]["e"]["created_at"]) >= moment_of(before)
    assert [each.event_id for each in read_bell(users[0].pk).notifications] == [event.pk, earlier.pk]
    event.refresh_from_db()
    assert event.published_at is not None
    assert not Scheduled.objects.exists()


def test_deliver_after_may_be_a_datetime(redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """A past time means now. An invalid time is refused, and nothing is written."""
    assert services.notify(alice, "x", deliver_after=timezone.now() - HOUR).published_at is not None
    assert services.notify(alice, "x", deliver_after=timezone.now() + HOUR).published_at is None
    with pytest.raises(InvalidField, match="neither"):
        services.notify(alice, "x", deliver_after="tomorrow")
    assert Event.objects.count() == 2


async def test_async_callers_may_schedule_too(alice: User) -> None:
    """With the same key, it is the same event."""
    event = await services.anotify(alice, "x", deliver_after=HOUR, idempotency_key="lunch")
    assert await services.anotify(alice, "x", deliver_after=HOUR, idempotency_key="lunch") == event
    assert await Scheduled.objects.acount() == 1
    assert not await Notification.objects.aexists()


def test_a_cancelled_event_notifies_nobody(redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """By the event or its id. It fails after the release, and for a cancelled event."""
    event, other, told = wait_for_it(alice), wait_for_it(alice), services.notify(alice, "Now")
    assert services.cancel(event)
    assert event.cancelled_at is not None
    assert services.cancel(other.pk)
    assert not services.cancel(event)
    assert not services.cancel(told)
    pass_time(hours=2)
    assert (release(), outbox.sweep()) == (0, 0)
    assert recipients_on_stream(redis_client, keys) == [alice.pk]
    assert not Scheduled.objects.exists()


def test_a_rolled_back_cancel_cancels_nothing(alice: User) -> None:
    """And a rolled back notify() leaves nothing."""
    event = wait_for_it(alice)
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        services.cancel(event.pk)
        wait_for_it(alice)
        raise ZeroDivisionError
    pass_time(hours=2)
    assert release() == 1
    assert Notification.objects.count() == 1


def test_an_outage_of_redis_loses_no_scheduled_event(
    signalbox: Any, redis_client: redis.Redis, keys: Keys, alice: User
) -> None:
    """It is released in the database. The sweep publishes it once when Redis is available again."""
    here = signalbox.REALTIME
    wait_for_it(alice)
    pass_time(hours=2)
    signalbox.REALTIME = {**here, "REDIS_URL": "unix:///nowhere.sock"}
    assert release() == 1
    assert read_bell(alice.pk).unread == 1
    signalbox.REALTIME = here
    signalbox.NOTIFICATIONS = {"OUTBOX_GRACE_SECONDS": 0}
    assert (outbox.sweep(), outbox.sweep()) == (1, 0)
    assert recipients_on_stream(redis_client, keys) == [alice.pk]


def test_a_recipient_deleted_meanwhile_is_not_notified(redis_client: redis.Redis, keys: Keys) -> None:
    """An event without remaining recipients leaves the outbox."""
    alice, bob = make_users(2)
    both, alone = wait_for_it([alice, bob]), wait_for_it(bob)
    bob.delete()
    pass_time(hours=2)
    assert release() == 2
    assert recipients_on_stream(redis_client, keys) == [alice.pk]
    assert all(Event.objects.get(pk=event.pk).published_at for event in (both, alone))


def test_several_processes_release_it_once(redis_client: redis.Redis, keys: Keys) -> None:
    """They run at the same time."""
    users = make_users(5)
    for user in users:
        wait_for_it(user)
    pass_time(hours=2)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        counts = list(threads.map(lambda _: _released(), range(4)))
    assert sum(counts) == 5
    assert sorted(recipients_on_stream(redis_client, keys)) == sorted(user.pk for user in users)


def _released() -> int:
    try:
        return release()
    finally:
        connections.close_all()


def test_a_newer_notification_replaces_the_older_unread_one(redis_client: redis.Redis, keys: Keys) -> None:
    """For each user, with the same kind and key. Browsers get the id of the older one."""
    alice, bob, carol = make_users(3)
    services.notify([alice, bob], "Building", kind="build", collapse_key="build-7")
    services.notify(alice, "Another", kind="build", collapse_key="build-8")
    services.notify(alice, "Other kind", kind="deploy", collapse_key="build-7")
    first, second = Notification.objects.filter(event__message="Building").order_by("id")
    services.mark_read(bob.pk)
    services.notify([alice, bob, carol], "Built", kind="build", collapse_key="build-7")
    assert [each.event.message for each in read_bell(alice.pk).notifications] == ["Built", "Other kind", "Another"]
    assert [each.event.message for each in read_bell(bob.pk).notifications] == ["Built", "Building"]
    assert [entry["e"].get("replaces") for entry in entries_on_stream(redis_client, keys)[-3:]] == [
        first.pk,
        None,
        None,
    ]
    first.refresh_from_db()
    second.refresh_from_db()
    assert first.replaced_at is not None
    assert second.replaced_at is None


def test_the_sweep_publishes_the_id_of_the_replaced_notification(
    signalbox: Any, redis_client: redis.Redis, keys: Keys, alice: User
) -> None:
    """The same bytes as the caller would have published. Also for a scheduled event."""
    signalbox.NOTIFICATIONS = {"OUTBOX_GRACE_SECONDS": 0}
    services.notify(alice, "1", collapse_key="k")
    services.notify(alice, "2", collapse_key="k")
    wait_for_it(alice, collapse_key="k")
    pass_time(hours=2)
    assert release() == 1
    said = redis_client.xrange(keys.stream("notifications"))
    redis_client.delete(keys.stream("notifications"))
    for name in redis_client.scan_iter(match=f"*{keys.prefix}*:appended:*"):
        redis_client.delete(name)
    Event.objects.update(published_at=None)
    assert outbox.sweep() == 3
    assert [fields for _, fields in redis_client.xrange(keys.stream("notifications"))] == [fields for _, fields in said]
    first, second, _ = Notification.objects.order_by("id").values_list("id", flat=True)
    replaces = [json.loads(fields[b"e"]).get("replaces") for _, fields in said]
    assert replaces == [None, first, second]


@pytest.mark.parametrize("key", ["", "  ", "x" * 101, 7, "a\nb"])
def test_what_is_no_key_is_refused(alice: User, key: Any) -> None:
    """Before anything is written."""
    with pytest.raises(ValueError, match="collapse_key"):
        services.notify(alice, "x", collapse_key=key)
    assert not Event.objects.exists()


def test_only_released_events_are_read(alice: User) -> None:
    """The most overdue first. Events beyond the limit are not read."""
    now = timezone.now()
    events = Event.objects.bulk_create(
        Event(message="due", deliver_at=now - datetime.timedelta(seconds=number)) for number in range(50)
    )
    Scheduled.objects.bulk_create(Scheduled(event=event, recipient=alice) for event in events)
    with rows_read("deliver_at") as counts:
        assert release(limit=10) == 10
    assert sum(counts) == 10
    told = Notification.objects.values_list("event_id", flat=True)
    assert sorted(told) == sorted(event.pk for event in events[-10:])
    assert (release(limit=100), release()) == (40, 0)
