"""`drain_outbox` and `prune_notifications`."""

import datetime
import io
import json
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db.models import F

from notifications import services
from notifications.events import prune
from notifications.models import Delivery, Digest, Event, Notification
from realtime.redis.keys import Keys
from tests.support.domain import make_users, recipients_on_stream
from tests.support.timing import pass_time

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]
HOUR = datetime.timedelta(hours=1)


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue().strip()


def age(events: Any, days: int) -> None:
    """Move the times of notifications back."""
    passed = datetime.timedelta(days=days)
    events.update(created_at=F("created_at") - passed)
    Notification.objects.filter(event__in=events).update(created_at=F("created_at") - passed)


def test_the_outbox_is_drained(signalbox: Any, redis_client: redis.Redis, keys: Keys) -> None:
    """Events of any age and scheduled events that are due, but not later ones. A second run finds nothing."""
    alice, bob, carol = make_users(3)
    here = signalbox.REALTIME
    signalbox.REALTIME = {**here, "REDIS_URL": "unix:///nowhere.sock"}
    services.notify(alice, "missed")
    services.notify(bob, "due", deliver_after=HOUR)
    with pytest.raises(CommandError, match="0 events published"):
        run("drain_outbox")
    signalbox.REALTIME = here
    pass_time(hours=2)
    services.notify(carol, "later", deliver_after=HOUR)
    assert json.loads(run("drain_outbox", "--json")) == {"published_count": 2, "released_count": 1, "left_count": 0}
    assert sorted(recipients_on_stream(redis_client, keys)) == sorted([alice.pk, bob.pk])
    assert run("drain_outbox") == "0 published, 0 of them scheduled; 0 left"


def test_old_notifications_are_deleted(alice: User) -> None:
    """With their deliveries and events. Younger ones are kept."""
    services.notify(alice, "old")
    age(Event.objects.all(), 91)
    Delivery.objects.create(notification=Notification.objects.get(), transport="console", due_at=None, state="sent")
    services.notify(alice, "young")
    assert run("prune_notifications", "--older-than", "90d", "--dry-run") == "1 notifications would be deleted"
    answer = json.loads(run("prune_notifications", "--older-than", "90d", "--json"))
    assert answer == {"notification_count": 1, "event_count": 1, "is_dry_run": False}
    assert Event.objects.get().message == "young"
    assert not Delivery.objects.exists()
    assert run("prune_notifications", "--older-than", "90d") == "0 notifications and 0 events deleted"


def test_unfinished_work_is_kept(alice: User) -> None:
    """
    A delivery that will be tried again, an event in the outbox, one that waits for its time.

    For a week, also what no bot has looked at.
    """
    services.notify(alice, "no bot has looked")
    age(Event.objects.all(), 2)
    run("prune_notifications", "--older-than", "1d")
    assert Event.objects.exists()
    age(Event.objects.all(), 6)
    run("prune_notifications", "--older-than", "1d")
    assert not Event.objects.exists()
    services.notify(alice, "still being sent")
    Delivery.objects.create(notification=Notification.objects.get(), transport="console")
    services.notify(alice, "in the outbox")
    Event.objects.filter(message="in the outbox").update(published_at=None)
    services.notify(alice, "waits", deliver_after=HOUR)
    age(Event.objects.all(), 91)
    run("prune_notifications", "--older-than", "90d")
    assert Event.objects.count() == 3


def test_the_unread_may_be_kept(alice: User, bob: User) -> None:
    """An event is kept as long as one of its notifications is."""
    services.notify([alice, bob], "x")
    services.mark_read(alice.pk)
    age(Event.objects.all(), 91)
    run("prune_notifications", "--older-than", "90d", "--only-read")
    assert Notification.objects.get().recipient_id == bob.pk
    assert Event.objects.count() == 1


def test_many_are_deleted_in_batches(monkeypatch: pytest.MonkeyPatch, alice: User) -> None:
    """Each batch has its own transaction. Events without notifications are deleted too."""
    monkeypatch.setattr(prune, "BATCH_SIZE", 2)
    for number in range(5):
        services.notify(alice, str(number))
    age(Event.objects.all(), 91)
    before = Event.objects.latest("id").created_at + datetime.timedelta(seconds=1)
    Digest.objects.create(recipient=alice, kind="k", transport="email", ends_at=before - HOUR)
    portions = list(prune.prune(before))
    assert [each.notifications for each in portions if each.notifications] == [2, 2, 1]
    assert sum(each.events for each in portions) == 5
    assert not Digest.objects.exists()


def test_an_age_is_required() -> None:
    """Nothing is deleted without one, with an age without a unit, or with one beyond the calendar."""
    for arguments in ((), ("--older-than", "90"), ("--older-than", "9999999d")):
        with pytest.raises(CommandError, match="older-than"):
            run("prune_notifications", *arguments)


@pytest.mark.parametrize("command", ["drain_outbox", "prune_notifications"])
def test_help_teaches(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With examples, line by line."""
    with pytest.raises(SystemExit):
        call_command(command, "--help")
    text = capsys.readouterr().out
    assert f"examples:\n  manage.py {command}" in text
