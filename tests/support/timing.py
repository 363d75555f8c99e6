"""What tests of timing share: kinds that wait, the bot's hand-out of a notification, and time that passes in rows."""

import datetime
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.db.models import F

from notifications import kinds
from notifications.content import stream_entry
from notifications.content.stream_entry import StreamedNotification
from notifications.delivery import claim
from notifications.delivery.records import Claim
from notifications.kinds import Kind
from notifications.models import Delivery, Digest, Event, Notification
from realtime.redis.keys import Keys
from realtime.streams import Entry

__all__ = ["begun", "declare", "ends", "own_registry", "pass_time", "streamed"]


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kinds that are declared in the test are gone after it."""
    monkeypatch.setattr(kinds, "_kinds", {})
    yield


def declare(**attributes: Any) -> None:
    """Declare the kind "build"; `transports` are none unless given."""
    type("Build", (Kind,), {"key": "build", "label": "Builds", "transports": (), **attributes})


def pass_time(**how_long: float) -> None:
    """As if so much time had passed: every time that is waited for comes nearer."""
    passed = datetime.timedelta(**how_long)
    Event.objects.exclude(deliver_at=None).update(deliver_at=F("deliver_at") - passed)
    Notification.objects.update(created_at=F("created_at") - passed)
    Delivery.objects.exclude(due_at=None).update(due_at=F("due_at") - passed, queued_at=None)
    Digest.objects.update(ends_at=F("ends_at") - passed)


def streamed(client: redis.Redis, keys: Keys) -> list[StreamedNotification]:
    """What is on the stream, as the bot is handed it, in order."""
    return [stream_entry.decode(Entry(id, fields, 1)) for id, fields in client.xrange(keys.stream("notifications"))]


def begun(notification: StreamedNotification) -> tuple[Claim, ...]:
    """What the bot is to do for it now."""
    claims = claim.begin(notification, entry_id="1-1", attempt=2)
    assert claims is not None
    return claims.granted


def ends() -> list[tuple[str, str]]:
    """State and answer of each delivery, in order."""
    return list(Delivery.objects.order_by("id").values_list("state", "answer"))
