"""`notify()`: one transaction, published after commit, the same in sync and async code."""

from typing import Any

import pytest
import redis
from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction
from django.utils import translation
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext_lazy

from notifications import services
from notifications.database.clock import moment_of
from notifications.exceptions import InvalidField, InvalidNotification, TooManyRecipients, UnknownRecipients
from notifications.models import Event, Notification
from realtime.redis.keys import Keys
from tests.support.domain import entries_on_stream, make_users, recipients_on_stream

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]


def test_notify_writes_rows_and_entries(redis_client: redis.Redis, keys: Keys) -> None:
    """One event, one notification for each recipient, and one entry for each notification, ordered by id."""
    alice, bob, clerk = make_users(3)
    event = services.notify(
        [alice, bob],
        "Your order is on its way!",
        kind="order.shipped",
        title="Order 7",
        url="/orders/7",
        data={"order": 7},
        actor=clerk,
    )

    stored = Event.objects.get()
    assert (stored.pk, stored.kind, stored.title, stored.message, stored.url, stored.data, stored.actor) == (
        event.pk,
        "order.shipped",
        "Order 7",
        "Your order is on its way!",
        "/orders/7",
        {"order": 7},
        clerk,
    )
    assert stored.published_at is not None
    assert event.published_at is not None
    notifications = list(stored.notifications.order_by("id"))
    assert [notification.recipient_id for notification in notifications] == [alice.pk, bob.pk]
    assert all(n.relayed_at is n.seen_at is n.read_at is n.archived_at is None for n in notifications)
    created_at = moment_of(stored.created_at).isoformat().replace("+00:00", "Z")
    assert entries_on_stream(redis_client, keys) == [
        {
            "n": str(notification.pk),
            "u": str(notification.recipient_id),
            "e": {
                "id": notification.pk,
                "event_id": event.pk,
                "kind": "order.shipped",
                "title": "Order 7",
                "message": "Your order is on its way!",
                "url": "/orders/7",
                "data": {"order": 7},
                "created_at": created_at,
            },
        }
        for notification in notifications
    ]


def test_send_notification_is_the_two_argument_form(redis_client: redis.Redis, keys: Keys) -> None:
    """A user id and a message."""
    (alice,) = make_users()
    event = services.send_notification(alice.pk, "Hello")
    assert (event.kind, event.title, event.message) == ("info", "", "Hello")
    assert recipients_on_stream(redis_client, keys) == [alice.pk]


def test_nothing_is_published_before_the_outermost_commit(redis_client: redis.Redis, keys: Keys) -> None:
    """Two nested transactions: the stream is empty until both are committed. Then it has everything in order."""
    alice, bob = make_users(2)
    with transaction.atomic():
        with transaction.atomic():
            first = services.notify(alice, "one")
        services.notify(bob, "two")
        assert redis_client.xlen(keys.stream("notifications")) == 0
        assert first.published_at is None
    assert recipients_on_stream(redis_client, keys) == [alice.pk, bob.pk]
    assert first.published_at is not None


def test_a_rollback_leaves_nothing(redis_client: redis.Redis, keys: Keys) -> None:
    """Neither rows nor entries."""
    (alice,) = make_users()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        services.notify(alice, "never said")
        raise ZeroDivisionError
    assert not Event.objects.exists()
    assert not Notification.objects.exists()
    assert redis_client.xlen(keys.stream("notifications")) == 0


def test_a_rolled_back_savepoint_takes_only_its_own_along(redis_client: redis.Redis, keys: Keys) -> None:
    """The surrounding transaction's notification is published."""
    alice, bob = make_users(2)
    with transaction.atomic():
        services.notify(alice, "stays")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            services.notify(bob, "goes")
            raise ZeroDivisionError
    assert recipients_on_stream(redis_client, keys) == [alice.pk]
    assert Event.objects.get().message == "stays"


def test_a_refused_call_leaves_the_surrounding_transaction_usable(redis_client: redis.Redis, keys: Keys) -> None:
    """An unknown recipient undoes notify() alone."""
    (alice,) = make_users()
    with transaction.atomic():
        with pytest.raises(UnknownRecipients):
            services.notify([alice.pk, 10**9], "nobody")
        services.notify(alice, "somebody")
    assert recipients_on_stream(redis_client, keys) == [alice.pk]
    assert Event.objects.count() == 1


def test_callbacks_of_a_transaction_run_in_their_order(redis_client: redis.Redis, keys: Keys) -> None:
    """Publishing is one of them: earlier callbacks see an empty stream, later ones see the entries."""
    (alice,) = make_users()
    lengths = []
    with transaction.atomic():
        transaction.on_commit(lambda: lengths.append(redis_client.xlen(keys.stream("notifications"))))
        services.notify(alice, "Hello")
        transaction.on_commit(lambda: lengths.append(redis_client.xlen(keys.stream("notifications"))))
    assert lengths == [0, 1]


def test_an_event_without_recipients_notifies_nobody(redis_client: redis.Redis, keys: Keys) -> None:
    """It is stored, and not in the outbox."""
    for nobody in ([], User.objects.none()):
        event = services.notify(nobody, "A tree falls in the forest")
        assert event.published_at is not None
        assert event.notifications.count() == 0
    assert redis_client.xlen(keys.stream("notifications")) == 0
    assert not Event.objects.filter(published_at=None).exists()


def test_more_recipients_than_allowed_are_refused(signalbox: Any) -> None:
    """Also if they come from an endless iterator. Duplicates count once."""
    users = make_users(4)
    signalbox.NOTIFICATIONS = {"MAX_RECIPIENTS": 3}
    for too_many in (users, User.objects.all(), iter(range(1, 10**12))):
        with pytest.raises(TooManyRecipients) as caught:
            services.notify(too_many, "spam")
        assert str(caught.value) == (
            'more than 3 recipients in one call: call notify() in parts, or raise NOTIFICATIONS["MAX_RECIPIENTS"]'
        )
    assert not Event.objects.exists()
    assert services.notify(users[:3] * 2, "each once").notifications.count() == 3


def test_lazy_translations_are_translated_in_the_call() -> None:
    """In the language of the caller."""
    (alice,) = make_users()
    with translation.override("de"):
        event = services.notify(alice, gettext_lazy("Yes"), title=gettext_lazy("No"))
    assert (event.message, event.title) == ("Ja", "Nein")


def test_the_actor_is_a_user_an_id_or_nobody() -> None:
    """An anonymous visitor counts as None. An unknown actor is refused before anything is written."""
    alice, bob = make_users(2)
    visitor = SimpleLazyObject(AnonymousUser)
    for actor, expected in [(None, None), (visitor, None), (bob, bob.pk), (bob.pk, bob.pk)]:
        assert services.notify(alice, "Hello", actor=actor).actor_id == expected
    count = Event.objects.count()
    for actor in (10**9, True, bob.username, User(username="unsaved")):
        with pytest.raises(InvalidField) as caught:
            services.notify(alice, "Hello", actor=actor)
        assert caught.value.field == "actor"
    assert Event.objects.count() == count


def test_a_wrong_call_writes_nothing(redis_client: redis.Redis, keys: Keys) -> None:
    """With any kind of error."""
    (alice,) = make_users()
    for fields in ({"message": ""}, {"data": object()}, {"url": "javascript:"}, {"idempotency_key": ""}):
        with pytest.raises(InvalidNotification):
            services.notify(alice, **{"message": "Hello", **fields})
    assert not Event.objects.exists()
    assert redis_client.xlen(keys.stream("notifications")) == 0


def test_five_thousand_recipients_take_a_bounded_number_of_queries(
    django_assert_max_num_queries: Any, redis_client: redis.Redis, keys: Keys
) -> None:
    """Inserts of many rows each, keys instead of user objects, one update."""
    make_users(5000)
    with django_assert_max_num_queries(10):
        services.notify(User.objects.all(), "Hello")
    ids = list(User.objects.order_by("id").values_list("id", flat=True))
    assert sorted(recipients_on_stream(redis_client, keys)) == ids
    with django_assert_max_num_queries(10):
        services.notify(ids, "Hello")
    assert redis_client.xlen(keys.stream("notifications")) == 10_000


def test_progress_counts_what_was_saved_and_published() -> None:
    """Each notification twice: when it is saved and when it is on the stream."""
    make_users(2500)
    counts = {"saved": 0, "published": 0}

    def progress(step: str, count: int) -> None:
        counts[step] += count

    services.notify(User.objects.all(), "Hello", progress=progress)
    assert counts == {"saved": 2500, "published": 2500}
