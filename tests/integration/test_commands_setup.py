"""What commands say where a project is not set up yet: one line that helps, no traceback."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.db.utils import ConnectionHandler

from notifications.management.errors import check_migrations
from notifications.models import Event
from realtime.management import migrations
from tests.support.domain import make_users

NOTIFY = ("notify", "user1", "Hello")
WITH_DATABASE = [NOTIFY, ("cancel_event", "7"), ("drain_outbox",), ("prune_notifications", "--older-than", "90d")]
WITH_REDIS = [("publish", "user.1", "{}"), ("redis_url",), ("stream_status",), ("replay_dead_letters",)]


def refusal(*command: str) -> str:
    """What a command that ends with 1 says; nothing else is printed."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command(*command, stdout=out, stderr=err)
    assert out.getvalue() == err.getvalue() == ""
    return str(caught.value)


@pytest.fixture
def no_tables(transactional_db: None) -> Iterator[None]:
    """A database in which nobody has run migrate."""
    call_command("migrate", "notifications", "zero", verbosity=0)
    yield
    call_command("migrate", "notifications", verbosity=0)


@pytest.mark.django_db
@pytest.mark.parametrize("command", [*WITH_DATABASE, *WITH_REDIS], ids=lambda command: command[0])
def test_a_wrong_url_of_redis_is_not_redis_being_away(
    settings: Any, caplog: pytest.LogCaptureFixture, command: tuple[str, ...]
) -> None:
    """Each command says what to write; nobody is told that the sweep will publish, and nothing is written."""
    make_users(1)
    settings.REALTIME = {"REDIS_URL": "localhost:6379"}
    assert "write redis://localhost:6379" in refusal(*command)
    assert not Event.objects.exists()
    assert caplog.text == ""


@pytest.mark.usefixtures("signalbox", "no_tables")
def test_a_forgotten_migrate_is_named() -> None:
    """Also by what would wait for ever for a database that has no tables."""
    make_users(1)
    for command in (*WITH_DATABASE, ("run_bot_subscriber",)):
        said = refusal(*command)
        assert "notifications.0001_initial, notifications.0002_deliveries" in said
        assert "run `manage.py migrate`" in said


@pytest.mark.django_db
def test_of_a_database_that_is_away_nothing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """run_bot_subscriber goes on then, and waits for it."""
    away = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "nowhere" / "db.sqlite3")}}
    handler = ConnectionHandler(away)
    monkeypatch.setattr(migrations, "connections", handler)
    with pytest.raises(OperationalError):
        handler["default"].ensure_connection()
    check_migrations()


@pytest.mark.usefixtures("signalbox")
@pytest.mark.django_db(transaction=True)
def test_a_database_that_fails_otherwise_is_not_said_to_lack_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says itself is left as it is."""
    make_users(1)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OperationalError("the disk is full")

    monkeypatch.setattr("notifications.events.create.insert_notifications", fail)
    with pytest.raises(OperationalError, match="the disk is full"):
        call_command(*NOTIFY)


@pytest.mark.parametrize("text", ["x", "0", "-1", "1.5", "²"])
@pytest.mark.parametrize("command", [("run_bot_subscriber", "--concurrency"), ("replay_dead_letters", "--limit")])
def test_a_number_that_is_none_is_refused_in_words(command: tuple[str, str], text: str) -> None:
    """With what was written."""
    with pytest.raises(CommandError, match=f"'{text}' is not a whole number of at least 1"):
        call_command(command[0], f"{command[1]}={text}")
