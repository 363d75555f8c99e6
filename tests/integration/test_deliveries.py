"""Delivery rows: planned once, claimed by one, recorded by who holds the claim."""

import concurrent.futures
import datetime
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.utils import timezone

from notifications import services
from notifications.content import stream_entry
from notifications.content.stream_entry import StreamedNotification
from notifications.delivery import changes, claim, records
from notifications.delivery.records import Claim, Result
from notifications.models import Delivery, Notification
from realtime.exceptions import EntryRejected
from realtime.streams import Entry

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]
State = Delivery.State


@pytest.fixture
def two_transports(signalbox: Any) -> None:
    backend = {"BACKEND": "notifications.transports.console.ConsoleTransport"}
    signalbox.NOTIFICATIONS = {
        "TRANSPORTS": {"first": backend, "second": backend, "third": backend},
        "DEFAULT_TRANSPORTS": ["first", "second"],
    }


@pytest.fixture
def streamed(two_transports: None, alice: User, redis_client: Any, keys: Any) -> StreamedNotification:
    """A notification to alice, as the bot gets it from the stream."""
    services.notify(alice, "Hello")
    ((id, fields),) = redis_client.xrange(keys.stream("notifications"))
    return stream_entry.decode(Entry(id, fields, 1))


def begun(streamed: StreamedNotification, *, entry_id: str = "1-1", attempt: int = 1) -> tuple[Claim, ...]:
    claims = claim.begin(streamed, entry_id=entry_id, attempt=attempt)
    assert claims is not None
    return claims.granted


def pass_time(seconds: float) -> None:
    """Move the times of unfinished deliveries back, as if this time had passed."""
    for row in Delivery.objects.exclude(due_at=None):
        row.due_at -= datetime.timedelta(seconds=seconds)
        if row.queued_at:
            row.queued_at -= datetime.timedelta(seconds=seconds)
        row.save()


def test_what_is_due_is_claimed_once(streamed: StreamedNotification, alice: User) -> None:
    """A second entry of the same notification has no effect until the claim lapses. The key stays the same."""
    first, second = begun(streamed)
    assert {first.transport, second.transport} == {"first", "second"}
    assert (first.attempt, len(first.key)) == (1, 32)
    assert begun(streamed) == ()
    assert Notification.objects.get().dispatched_at is not None
    pass_time(61)
    again = {claim.transport: claim for claim in begun(streamed)}
    assert again["first"].attempt == 2
    assert {claim.key for claim in again.values()} == {first.key, second.key}
    assert not records.record(first, Result(state=State.SENT, answer="late", outcomes={}))
    assert not records.extend(first, {})
    assert Delivery.objects.filter(state=State.SENDING).count() == 2


def test_many_bots_at_once_share_the_claims(streamed: StreamedNotification) -> None:
    """Each delivery is claimed by one of them."""

    def begin() -> list[int]:
        try:
            return [claim.delivery_id for claim in begun(streamed)]
        finally:
            connections.close_all()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(begin) for _ in range(16)]
        claimed = [id for future in futures for id in future.result()]
    assert sorted(claimed) == sorted(Delivery.objects.values_list("pk", flat=True))
    assert len(claimed) == 2


def test_a_finished_delivery_is_never_claimed_again(streamed: StreamedNotification) -> None:
    """Whether sent, failed or skipped. The row has the time, and the answer on one line."""
    first, second = begun(streamed)
    assert records.record(first, Result(state=State.SENT, answer="a\nb\0" + "x" * 999, outcomes={"a": "sent"}))
    assert records.record(second, Result(state=State.FAILED, answer="no", outcomes={}, latency_seconds=0.5))
    pass_time(3600)
    assert begun(streamed, entry_id="2-1", attempt=2) == ()
    row = Delivery.objects.get(pk=first.delivery_id)
    assert (row.state, row.due_at, row.holder, row.outcomes) == ("sent", None, "", {"a": "sent"})
    assert row.answer.startswith(r"a b\x00xxx")
    assert len(row.answer) == 500
    assert row.finished_at is not None
    assert records.find_overdue(10, read_until=timezone.now()) == []


def test_the_next_attempt_is_claimed_when_it_is_due(streamed: StreamedNotification) -> None:
    """The sweep finds it then, but not again while it is on the stream. An outage does not count as an attempt."""
    first, second = begun(streamed)
    records.record(first, Result(state=State.PENDING, answer="later", outcomes={}, retry_seconds=30))
    records.record(second, Result(state=State.PENDING, answer="away", outcomes={}, is_counted=False))
    (claim,) = begun(streamed)
    assert (claim.transport, claim.attempt) == (second.transport, 1)
    records.record(claim, Result(state=State.SENT, answer="", outcomes={}))
    assert records.find_overdue(10, read_until=timezone.now()) == []
    pass_time(30)
    assert records.find_overdue(10, read_until=timezone.now()) == [streamed.notification_id]
    assert records.mark_queued([streamed.notification_id]) == 1
    assert records.find_overdue(10, read_until=timezone.now()) == []
    pass_time(records.QUEUED_SECONDS + 1)
    assert records.find_overdue(10, read_until=timezone.now()) == [streamed.notification_id]
    (claim,) = begun(streamed)
    assert claim.attempt == 2


def test_a_failed_delivery_is_reopened(streamed: StreamedNotification) -> None:
    """It keeps its key, and addresses that have the message are left out. Sent deliveries are not reopened."""
    first, second = begun(streamed)
    records.record(first, Result(state=State.SENT, answer="", outcomes={"a": "sent"}))
    records.record(second, Result(state=State.FAILED, answer="", outcomes={"a": "sent", "b": "failed"}))
    assert changes.reopen(Delivery.objects.all()) == 1
    assert records.find_overdue(10, read_until=timezone.now()) == [streamed.notification_id]
    (claim,) = begun(streamed)
    assert (claim.key, claim.attempt, claim.outcomes) == (second.key, 1, {"a": "sent"})


def test_a_replayed_dead_letter_of_an_earlier_release_reopens_its_delivery(streamed: StreamedNotification) -> None:
    """Another entry of the notification does not, nor does the same one in a later attempt."""
    first, second = begun(streamed, entry_id="7-1")
    records.record(first, Result(state=State.SENT, answer="", outcomes={"a": "sent"}))
    records.record(second, Result(state=State.FAILED, answer="550 no such user", outcomes={}))
    assert begun(streamed, entry_id="7-1") == ()
    Delivery.objects.filter(state=State.FAILED).update(dead_letter="7-1")
    assert begun(streamed, entry_id="8-1") == ()
    assert begun(streamed, entry_id="7-1", attempt=2) == ()
    (claim,) = begun(streamed, entry_id="7-1")
    assert (claim.transport, claim.key, claim.attempt) == (second.transport, second.key, 1)


def test_a_notification_from_before_delivery_rows_is_planned(streamed: StreamedNotification) -> None:
    """The migration marked it as dispatched, but it was on the stream and no bot had read it."""
    Notification.objects.update(dispatched_at=timezone.now())
    assert [claim.transport for claim in begun(streamed)] == ["first", "second"]


def test_a_user_who_wants_nothing_is_sent_nothing(streamed: StreamedNotification, alice: User) -> None:
    """The sweep does not treat the notification as lost."""
    for name in ("first", "second"):
        services.set_preference(alice.pk, "info", name, False)
    assert begun(streamed) == ()
    assert Notification.objects.get().dispatched_at is not None


def test_a_deleted_notification_is_not_delivered(streamed: StreamedNotification, alice: User) -> None:
    """Nor is an entry that names another user."""
    forged = StreamedNotification(
        notification_id=streamed.notification_id, user_id="999", envelope=streamed.envelope, json=streamed.json
    )
    with pytest.raises(EntryRejected, match="u is not the recipient"):
        claim.begin(forged, entry_id="1-1", attempt=1)
    alice.delete()
    assert claim.begin(streamed, entry_id="1-1", attempt=1) is None
