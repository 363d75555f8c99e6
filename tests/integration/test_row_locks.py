"""Transactions that lock the same rows do so in the same order, so that PostgreSQL finds no deadlock."""

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.db import connection, connections, transaction
from django.db.models import QuerySet

from notifications import services
from notifications.content.stream_entry import StreamedNotification
from notifications.database.row_locks import update_in_order
from notifications.delivery import claim, records
from notifications.delivery.claim import StreamTask
from notifications.delivery.records import Result
from notifications.events import prune
from notifications.models import Delivery, Digest, Notification
from realtime.redis.keys import Keys
from tests.support.domain import lock_waiters, make_users
from tests.support.timing import begun, declare, own_registry, pass_time, streamed
from tests.support.waiting import wait_until_sync

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("signalbox", "own_registry"),
    # SQLite has one lock for all writers.
    pytest.mark.postgres,
]
__all__ = ["own_registry"]
SENT = Result(state=Delivery.State.SENT, answer="", outcomes={})


def meet(held: QuerySet[Any], *calls: Callable[[], Any]) -> list[Any]:
    """
    Let calls run at the same time, each in a thread, and give their answers; raises what one of them raises.

    A row that several of them lock is held until all wait: each has by then what it locks before that row.
    """

    def run(call: Callable[[], Any]) -> Any:
        try:
            with connection.cursor() as cursor:
                # The planner reads a few rows in the order of the table, which of many it does not.
                cursor.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
            return call()
        finally:
            connections.close_all()

    with concurrent.futures.ThreadPoolExecutor(len(calls)) as threads:
        with transaction.atomic():
            assert list(held.select_for_update(no_key=True).values_list("pk", flat=True))
            futures = []
            for call in calls:
                futures.append(threads.submit(run, call))
                wait_until_sync(lambda: lock_waiters() == len(futures))
        return [future.result() for future in futures]


def begin(notifications: Sequence[StreamedNotification]) -> list[Any]:
    handed = [StreamTask(notification=each, entry_id="1-1", attempt=2) for each in notifications]
    return claim.begin_many(handed)


def test_recording_and_claiming_do_not_deadlock(redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """Claims have lapsed. Their late holders record while others claim the same deliveries."""
    for text in "123":
        services.notify(alice, text)
    handed = streamed(redis_client, keys)
    claims = [claim for each in handed for claim in begun(each)]
    pass_time(minutes=2)
    middle = Delivery.objects.filter(pk=claims[1].delivery_id)
    recorded, answers = meet(
        middle, lambda: records.record_many([(claim, SENT) for claim in claims]), lambda: begin(handed)
    )
    # Whoever comes first has them all.
    assert (recorded, sum(len(each.granted) for each in answers)) in (([True] * 3, 0), ([False] * 3, 3))


def test_recording_and_claiming_digests_do_not_deadlock(redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """A digest has many rows, next to single deliveries."""
    declare(transports=("console",), digest={"console": "hourly"})
    for text in "123":
        services.notify(alice, text, kind="build")
        services.notify(alice, text)
    handed = streamed(redis_client, keys)
    begin(handed)
    pass_time(hours=2)
    claims = [claim for each in begin(handed) for claim in each.granted]
    assert sum(claim.digest_id is not None for claim in claims) == 1
    pass_time(minutes=2)
    middle = Delivery.objects.filter(notification_id=handed[3].notification_id)
    recorded, answers = meet(
        middle, lambda: records.record_many([(claim, SENT) for claim in claims]), lambda: begin(handed[::-1])
    )
    assert (recorded, sum(len(each.granted) for each in answers)) in (([True] * 4, 0), ([False] * 4, 4))


def test_planning_digests_of_the_same_users_does_not_deadlock(redis_client: redis.Redis, keys: Keys) -> None:
    """In any order of the entries."""
    declare(transports=("console",), digest={"console": "daily"})
    users = make_users(3)
    for user in users:
        services.notify(user, "first", kind="build")
    begin(streamed(redis_client, keys))
    for user in users + users[::-1]:
        services.notify(user, "then", kind="build")
    handed = streamed(redis_client, keys)[3:]
    middle = Digest.objects.filter(recipient_id=users[1].pk)
    meet(middle, lambda: begin(handed[:3]), lambda: begin(handed[3:]))
    assert Delivery.objects.exclude(digest=None).count() == 9


def test_marking_as_read_and_as_relayed_do_not_deadlock(alice: User) -> None:
    """One finds rows by user, the other by id: their order in the table may differ."""
    for text in "123":
        services.notify(alice, text)
    ids = list(Notification.objects.order_by("id").values_list("id", flat=True))
    # Its new version lies behind the others.
    Notification.objects.filter(pk=ids[0]).update(collapse_key="moved")
    last = Notification.objects.filter(pk=ids[2])
    counts = meet(last, lambda: services.mark_read(alice.pk), lambda: len(services.mark_relayed(ids)))
    assert counts == [3, 3]


def test_deleting_a_users_notifications_and_claiming_do_not_deadlock(
    redis_client: redis.Redis, keys: Keys, alice: User
) -> None:
    """Django deletes the deliveries first, but a bot locks the notification first."""
    services.notify(alice, "Hello")
    handed = streamed(redis_client, keys)
    begin(handed)
    pass_time(minutes=2)
    count, _ = meet(Delivery.objects.all(), lambda: prune.forget([alice.pk]), lambda: begin(handed))
    assert count == 1
    assert not Notification.objects.exists()


def test_notifications_of_several_users_are_deleted_in_one_order(alice: User, bob: User) -> None:
    """One transaction deletes the notifications of two users, in any order. Another one locks the same rows."""
    for user in (alice, bob, alice, bob):
        services.notify(user, "Hello")
    ids = list(Notification.objects.order_by("id").values_list("id", flat=True))

    def forget() -> int:
        with transaction.atomic():
            return prune.forget([bob.pk, alice.pk])

    count, _ = meet(Notification.objects.filter(pk=ids[1]), forget, lambda: services.mark_relayed(ids))
    assert count == 4


def test_two_events_that_replace_the_same_notifications_do_not_deadlock() -> None:
    """For the same users, in different orders and in several parts."""
    users = [user.pk for user in make_users(2100)]
    services.notify(users, "running", kind="build", collapse_key="7")
    # The last one of the first part of the first call.
    held = Notification.objects.filter(recipient_id=users[100])
    meet(
        held,
        lambda: services.notify(users[::-1], "passed", kind="build", collapse_key="7"),
        lambda: services.notify(users, "passed again", kind="build", collapse_key="7"),
    )
    assert Notification.objects.exclude(replaced_at=None).count() >= 2100


def test_conditions_that_match_nothing_update_nothing() -> None:
    """As with `update()`. Django makes no SQL for an empty list of ids."""
    assert update_in_order(Delivery.objects.filter(pk__in=[]), attempts=7) == 0
