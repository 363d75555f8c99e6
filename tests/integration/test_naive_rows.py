"""Times as they are stored and shown, with USE_TZ on and off; see test_naive_times.py."""

import datetime
import json

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from notifications import services
from notifications.database import clock
from notifications.database.clock import database_time, moment_of, stored
from notifications.models import Event, Notification

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]
# What two clocks of one machine differ by, and a machine that stands still.
SLACK = datetime.timedelta(seconds=60)


def test_columns_hold_what_django_keeps_in_them(alice: User) -> None:
    """Beside times of the project's own, which it compares them with."""
    event = services.notify(alice, "Hello", deliver_after=datetime.timedelta(hours=1))
    event.refresh_from_db()
    assert event.deliver_at is not None
    assert timezone.is_aware(event.created_at) == timezone.is_aware(event.deliver_at) == settings.USE_TZ
    assert abs(event.created_at - timezone.now()) < SLACK
    assert Event.objects.filter(created_at__lte=timezone.now(), deliver_at__gt=timezone.now()).exists()


def test_the_databases_time_is_the_same_as_the_columns(alice: User) -> None:
    """In UTC or in the project's zone: else everything would be due hours too early, or too late."""
    services.notify(alice, "Hello")
    event = Event.objects.annotate(present=database_time()).get()
    assert abs(moment_of(event.present) - clock.now()) < SLACK
    assert not Event.objects.filter(created_at__gt=database_time()).exists()
    assert not Event.objects.filter(created_at__lt=database_time(-SLACK.total_seconds())).exists()


def test_a_moment_comes_back_from_a_column_as_it_was(alice: User) -> None:
    """To the microsecond, in summer and in winter."""
    event = services.notify(alice, "Hello")
    for month in (1, 7):
        moment = datetime.datetime(2026, month, 15, 3, 30, 0, 123456, tzinfo=datetime.UTC)
        Event.objects.filter(pk=event.pk).update(created_at=stored(moment))
        event.refresh_from_db()
        assert moment_of(event.created_at) == moment


def test_a_browser_is_told_times_with_their_zone(client: Client, alice: User) -> None:
    """It would take others for times of its own zone, and show them hours off."""
    services.notify(alice, "Hello")
    client.force_login(alice)
    for address in ("/notifications/", "/notifications/bell/"):
        page = client.get(address).content.decode()
        (text, *_) = [part.split('"')[0] for part in page.split('datetime="')[1:] if part[0] != '"']
        assert abs(datetime.datetime.fromisoformat(text) - clock.now()) < SLACK


def test_statistics_for_programs_have_hours_in_utc(admin_client: Client, alice: User) -> None:
    """The present one counts what was just told."""
    services.notify(alice, "Hello")
    found = json.loads(admin_client.get("/admin/notifications/event/statistics/?format=json").content)
    assert abs(datetime.datetime.fromisoformat(found["at"]) - clock.now()) < SLACK
    assert sum(point["funnel"]["created"] for point in found["rows"]["points"][-2:]) == 1


def test_what_is_read_and_seen_is_so_now(alice: User) -> None:
    """By the clock of the column."""
    services.notify(alice, "Hello")
    assert services.mark_read(alice.pk) == 1
    notification = Notification.objects.get()
    assert notification.read_at is not None
    assert abs(notification.read_at - timezone.now()) < SLACK
