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
    def test_what_was_left_goes_first(self, redis_client: redis.Redis, keys: Keys) -> None:
        """The caller of the newer one publishes it; the sweep finds that done."""
        (alice,) = make_users()
        _left_in_outbox(alice)
        assert services.notify(alice, "newer").published_at is not None
        assert _messages(redis_client, keys) == ["earlier", "newer"]
        assert outbox.sweep(include_recent=True) == 1
        assert _messages(redis_client, keys) == ["earlier", "newer"]

    def test_what_was_left_for_many_goes_first_too(self, redis_client: redis.Redis, keys: Keys) -> None:
        """Also where their ids are not named in the query."""
        users = make_users(outbox.FEW_RECIPIENTS + 1)
        _left_in_outbox(users[-1])
        services.notify(users, "newer")
        assert _messages(redis_client, keys) == ["earlier", *["newer"] * len(users)]

    def test_what_goes_first_overtakes_nothing(self, redis_client: redis.Redis, keys: Keys) -> None:
        """Another recipient of what was left has something that is earlier still, and so on."""
        alice, bob, carol = make_users(3)
        _left_in_outbox(carol, message="first")
        _left_in_outbox(bob, carol, message="second")
        _left_in_outbox(alice, bob, message="third")
        services.notify(alice, "newer")
        assert _messages(redis_client, keys) == ["first", "second", "second", "third", "third", "newer"]

    async def test_async_callers_do_likewise(self, redis_client: redis.Redis, keys: Keys) -> None:
        """Also without a thread of their own."""
        (alice,) = await sync_to_async(make_users)()
        await sync_to_async(_left_in_outbox)(alice)
        assert (await services.anotify(alice, "newer")).published_at is not None
        assert _messages(redis_client, keys) == ["earlier", "newer"]

    def test_what_concerns_others_is_left_to_the_sweep(self, redis_client: redis.Redis, keys: Keys) -> None:
        """Events for other recipients are left alone."""
        alice, bob = make_users(2)
        _left_in_outbox(alice)
        services.notify(bob, "newer")
        assert recipients_on_stream(redis_client, keys) == [bob.pk]

    def test_of_a_large_event_only_the_parts_concerned_go_first(self, redis_client: redis.Redis, keys: Keys) -> None:
        """One of 1,200 recipients: at most 500 entries more, and the rest goes out once."""
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

    def test_who_has_too_much_before_waits_for_the_sweep(
        self, redis_client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A caller's work is bounded, and the order holds all the same."""
        monkeypatch.setattr(outbox, "EARLIER_PARTS_LIMIT", 2)
        (alice,) = make_users()
        texts = [f"earlier {number}" for number in range(3)]
        for text in texts:
            _left_in_outbox(alice, message=text)
        assert services.notify(alice, "newer").published_at is None
        assert outbox.sweep(include_recent=True) == 4
        assert _messages(redis_client, keys) == [*texts, "newer"]

    def test_however_much_waits_a_bounded_part_of_it_is_read(self) -> None:
        """A cursor of PostgreSQL would gather all of it before the first row."""
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
    def test_what_cannot_be_published_holds_up_nothing(self, redis_client: redis.Redis, keys: Keys) -> None:
        """As in the sweep, which logs it."""
        (alice,) = make_users()
        broken = _left_in_outbox(alice)
        Event.objects.filter(pk=broken.pk).update(data="\ud800")
        services.notify(alice, "newer")
        assert _messages(redis_client, keys) == ["newer"]

    def test_an_empty_outbox_costs_one_query(self) -> None:
        """On the way of each notify()."""
        (alice,) = make_users()
        services.notify(alice, "first")
        with CaptureQueriesContext(connection) as queries:
            services.notify(alice, "second")
        asked = [query["sql"] for query in queries if "published_at IS NULL AND deliver_at IS NULL" in query["sql"]]
        assert len(asked) == 1
        assert not [query["sql"] for query in queries if '"deliver_at" IS NULL' in query["sql"]]
