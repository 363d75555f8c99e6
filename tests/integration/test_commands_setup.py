"""What commands say where a project is not set up yet: one line that helps, no traceback."""

import io
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from notifications.models import Event
from tests.domain import make_users

NOTIFY = ("notify", "user1", "Hello")
WITH_DATABASE = [NOTIFY, ("drain_outbox",), ("prune_notifications", "--older-than", "90d")]
WITH_REDIS = [("publish", "user.1", "{}"), ("redis_url",), ("stream_status",), ("replay_dead_letters",)]


def refusal(*command: str) -> str:
    """What a command that ends with 1 says; nothing else is printed."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command(*command, stdout=out, stderr=err)
    assert out.getvalue() == err.getvalue() == ""
    return str(caught.value)


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
