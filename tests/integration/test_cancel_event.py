"""Cancelling what waits, from a shell and in the admin."""

import datetime
import io
import json

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from notifications import services
from notifications.admin import events as events_admin
from notifications.database.clock import moment_of
from notifications.events import schedule
from notifications.models import Event, Notification, Scheduled
from tests.support.staff import make_staff, page

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("signalbox")]
LIST = "/admin/notifications/event/"


@pytest.fixture
def waiting(alice: User, bob: User) -> Event:
    """A scheduled event for alice and bob."""
    return services.notify([alice, bob], "The shop opens", deliver_after=datetime.timedelta(days=1))


def run(*arguments: object) -> str:
    out = io.StringIO()
    call_command("cancel_event", *map(str, arguments), stdout=out)
    return out.getvalue().strip()


def tell_all_that_is_due() -> int:
    """Make all scheduled events due."""
    Event.objects.filter(deliver_at__isnull=False).update(deliver_at=timezone.now())
    return schedule.release(publish=False)


def test_an_event_cancelled_by_the_command_notifies_nobody(waiting: Event) -> None:
    """It prints the number of recipients. A second call succeeds too."""
    assert run(waiting.pk) == f"event {waiting.pk}: cancelled, 2 people are not notified"
    assert run(waiting.pk) == f"event {waiting.pk}: was cancelled before"
    assert tell_all_that_is_due() == 0
    assert not Notification.objects.exists()
    assert not Scheduled.objects.exists()


def test_json_has_each_event(waiting: Event, alice: User) -> None:
    """In the order given, each once."""
    other = services.notify(alice, "Late", deliver_after=datetime.timedelta(days=2))
    services.cancel(other)
    assert json.loads(run(waiting.pk, other.pk, waiting.pk, "--json")) == {
        "events": [
            {"event_id": waiting.pk, "is_cancelled": True, "cancelled_count": 2},
            {"event_id": other.pk, "is_cancelled": True, "cancelled_count": 0},
        ]
    }


def test_an_event_that_cannot_be_cancelled_fails_and_the_others_are_cancelled(waiting: Event, alice: User) -> None:
    """With the reason for each."""
    told = services.notify(alice, "Now")
    out = io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command("cancel_event", str(told.pk), str(2**63 - 1), str(waiting.pk), stdout=out)
    assert (
        f"event {told.pk} is not scheduled: it was created at {moment_of(told.created_at):%Y-%m-%d %H:%M:%S} UTC"
        in str(caught.value)
    )
    assert f"there is no event {2**63 - 1}" in str(caught.value)
    assert out.getvalue() == f"event {waiting.pk}: cancelled, 2 people are not notified\n"


@pytest.mark.parametrize("text", ["x", "0", "1.5", str(2**63), "9" * 5000])
def test_an_invalid_id_is_refused(text: str) -> None:
    """The error says where to find an id."""
    with pytest.raises(CommandError, match="is not the id of an event"):
        run(text)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """With examples, line by line."""
    with pytest.raises(SystemExit):
        call_command("cancel_event", "--help")
    assert "examples:\n  manage.py cancel_event 7\n" in capsys.readouterr().out


# In the admin ---------------------------------------------------------------------------------------------------------


def choose(client: Client, *events: Event) -> str:
    """What the list says after "Cancel scheduled events" for these."""
    form = {"action": "cancel", "_selected_action": [each.pk for each in events]}
    return client.post(LIST, form, follow=True).content.decode()


def test_an_event_cancelled_in_the_admin_notifies_nobody_and_is_logged(
    admin_client: Client, waiting: Event, alice: User
) -> None:
    """In the history of the event. Events that were already published do not change."""
    told = services.notify(alice, "Now")
    assert "1 event is cancelled: nobody is notified of it." in choose(admin_client, waiting, told)
    waiting.refresh_from_db()
    assert waiting.cancelled_at is not None
    assert Event.objects.get(pk=told.pk).cancelled_at is None
    record = LogEntry.objects.get()
    assert (record.object_id, record.action_flag, record.user.username) == (str(waiting.pk), CHANGE, "admin")
    assert record.change_message == "Cancelled before its time."
    assert tell_all_that_is_due() == 0
    assert "None of the selected events is scheduled." in choose(admin_client, waiting, told)
    assert LogEntry.objects.count() == 1


def test_cancelling_needs_a_permission(waiting: Event) -> None:
    """Staff who may only view, send or delete do not have the action, and cannot run it."""
    looker = make_staff("view_event", "add_event", "delete_event")
    assert "_selected_action" not in page(looker, LIST)
    choose(looker, waiting)
    assert Event.objects.get().cancelled_at is None
    allowed = make_staff("view_event", "change_event", "delete_event")
    html = page(allowed, LIST)
    assert "Cancel scheduled events" in html
    assert "delete_selected" not in html
    choose(allowed, waiting)
    assert Event.objects.get().cancelled_at is not None


def test_very_many_events_are_cancelled_in_several_steps(
    admin_client: Client, waiting: Event, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first due ones come first, and the message says that there are more."""
    monkeypatch.setattr(events_admin, "CANCEL_LIMIT", 1)
    sooner = services.notify(alice, "Soon", deliver_after=datetime.timedelta(hours=1))
    assert "do it again for the rest" in choose(admin_client, waiting, sooner)
    assert list(Event.objects.filter(cancelled_at__isnull=False)) == [sooner]
