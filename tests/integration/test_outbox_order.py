"""Each recipient is told in the order of writing, even if Redis was unavailable for some of the time."""

import pytest
import redis
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from notifications import services
from notifications.events import outbox
from notifications.models import Event, Notification
from realtime.redis.keys import Keys
from tests.support.domain import entries_on_stream, make_users, recipients_on_stream

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]


def _left_in_outbox(*recipients: User, message: str = "earlier") -> Event:
    """An event that its caller left to the sweep."""
    event = Event.objects.create(message=message)
    Notification.objects.bulk_create(Notification(event=event, recipient=recipient) for recipient in recipients)
    return event


def _messages(redis_client: redis.Redis, keys: Keys) -> list[str]:
    return [entry["e"]["message"] for entry in entries_on_stream(redis_client, keys)]


class TestOrder:
    def test_an_earlier_event_in_the_outbox_is_published_first(self, redis_client: redis.Redis, keys: Keys) -> None:
        """The caller of the newer event publishes it. The sweep then finds nothing to do."""
        (alice,) = make_users()
        _left_in_outbox(alice)
        assert services.notify(alice, "newer").published_at is not None
        assert _messages(redis_client, keys) == ["earlier", "newer"]
        assert outbox.sweep(include_recent=True) == 1
        assert _messages(redis_client, keys) == ["earlier", "newer"]

    def test_an_earlier_event_with_many_recipients_is_published_first(
        self, redis_client: redis.Redis, keys: Keys
    ) -> None:
        """Also if the query does not list their ids."""
        users = make_users(outbox.FEW_RECIPIENTS + 1)
        _left_in_outbox(users[-1])
        services.notify(users, "newer")
        assert _messages(redis_client, keys) == ["earlier", *["newer"] * len(users)]

    def test_an_earlier_event_does_not_overtake_a_still_earlier_one(
        self, redis_client: redis.Redis, keys: Keys
    ) -> None:
        """Another recipient of the earlier event has a still earlier one, and so on."""
        alice, bob, carol = make_users(3)
        _left_in_outbox(carol, message="first")
        _left_in_outbox(bob, carol, message="second")
        _left_in_outbox(alice, bob, message="third")
        services.notify(alice, "newer")
        assert _messages(redis_client, keys) == ["first", "second", "second", "third", "third", "newer"]

    async def test_async_callers_do_likewise(self, redis_client: redis.Redis, keys: Keys) -> None:
        """Async callers publish in the same order."""
        (alice,) = await sync_to_async(make_users)()
        await sync_to_async(_left_in_outbox)(alice)
        assert (await services.anotify(alice, "newer")).published_at is not None
        assert _messages(redis_client, keys) == ["earlier", "newer"]

    def test_events_for_other_recipients_are_left_to_the_sweep(self, redis_client: redis.Redis, keys: Keys) -> None:
        """The caller does not publish them."""
        alice, bob = make_users(2)
        _left_in_outbox(alice)
        services.notify(bob, "newer")
        assert recipients_on_stream(redis_client, keys) == [bob.pk]

    def test_only_the_parts_with_the_same_recipients_are_published_first(
        self, redis_client: redis.Redis, keys: Keys
    ) -> None:
        """One of 1,200 recipients: at most 500 additional entries. The rest is published once."""
        users = make_users(1200)
        _left_in_outbox(*users)
        services.notify(users[600], "newer")
        recipients = recipients_on_stream(redis_client, keys)
        assert len(recipients) <= outbox.IDS_PER_PART + 1
        assert [pk for pk in recipients if pk == users[600].pk] == [users[600].pk] * 2
        assert _messages(redis_client, keys)[-1] == "newer"
        outbox.sweep(include_recent=True)
        everybody = sorted(recipients_on_stream(redis_client, keys))
        assert everybody == sorted([user.pk for user in users] + [users[600].pk])

    def test_an_event_with_too_many_earlier_parts_waits_for_the_sweep(
        self, redis_client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A caller's work is limited, and the order is kept all the same."""
        monkeypatch.setattr(outbox, "EARLIER_PARTS_LIMIT", 2)
        (alice,) = make_users()
        texts = [f"earlier {number}" for number in range(3)]
        for text in texts:
            _left_in_outbox(alice, message=text)
        assert services.notify(alice, "newer").published_at is None
        assert outbox.sweep(include_recent=True) == 4
        assert _messages(redis_client, keys) == [*texts, "newer"]

    def test_only_a_limited_part_of_the_outbox_is_read(self) -> None:
        """A query without a limit would collect all rows in PostgreSQL before it returns the first."""
        (alice,) = make_users()
        _left_in_outbox(alice)
        with CaptureQueriesContext(connection) as queries:
            services.notify(alice, "newer")
        (asked,) = [
            query["sql"] for query in queries if '"deliver_at" IS NULL' in query["sql"] and "JOIN" in query["sql"]
        ]
        # Itself, and the oldest that waits: her id is named, which keeps the planner from reading all of it.
        assert asked.count("SELECT") == 2
        assert asked.endswith(f"LIMIT {outbox.EARLIER_PARTS_LIMIT * outbox.IDS_PER_PART + 1}")

    # No other database stores half a character.
    @pytest.mark.database_independent
    def test_an_event_that_cannot_be_published_delays_no_other(self, redis_client: redis.Redis, keys: Keys) -> None:
        """The sweep logs it."""
        (alice,) = make_users()
        broken = _left_in_outbox(alice)
        Event.objects.filter(pk=broken.pk).update(data="\ud800")
        services.notify(alice, "newer")
        assert _messages(redis_client, keys) == ["newer"]

    def test_an_empty_outbox_costs_one_query(self) -> None:
        """Every notify() runs it."""
        (alice,) = make_users()
        services.notify(alice, "first")
        with CaptureQueriesContext(connection) as queries:
            services.notify(alice, "second")
        asked = [query["sql"] for query in queries if "published_at IS NULL AND deliver_at IS NULL" in query["sql"]]
        assert len(asked) == 1
        assert not [query["sql"] for query in queries if '"deliver_at" IS NULL' in query["sql"]]
