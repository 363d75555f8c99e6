"""The setting NOTIFICATIONS: optional, and checked."""

from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from notifications.conf import NotificationsSettings, get_settings
from notifications.transports.console import send_message


def test_a_project_without_it_has_the_defaults(settings: Any) -> None:
    """As one with an empty one."""
    settings.NOTIFICATIONS = {}
    assert get_settings() == NotificationsSettings()
    del settings.NOTIFICATIONS
    assert get_settings() == NotificationsSettings()


def test_what_is_set_replaces_the_default(settings: Any) -> None:
    """At once, also in a test."""
    assert get_settings().max_recipients == 100_000
    settings.NOTIFICATIONS = {"MAX_RECIPIENTS": 5, "OUTBOX_GRACE_SECONDS": 1}
    assert get_settings() == NotificationsSettings(max_recipients=5, outbox_grace_seconds=1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], "the setting NOTIFICATIONS must be a dict"),
        ({"MAX_RECIPIENT": 5}, "NOTIFICATIONS has unknown keys MAX_RECIPIENT: known are "),
        ({"MAX_RECIPIENTS": "5"}, 'NOTIFICATIONS["MAX_RECIPIENTS"]: Expected `int`, got `str`'),
        ({"MAX_RECIPIENTS": 0}, 'NOTIFICATIONS["MAX_RECIPIENTS"]: Expected `int` >= 1'),
        ({"OUTBOX_PAUSE_SECONDS": -1}, 'NOTIFICATIONS["OUTBOX_PAUSE_SECONDS"]: Expected `float` >= 0.0'),
        (
            {"TRANSPORTS": {"x": {"BACKEND": 7}}},
            'NOTIFICATIONS["TRANSPORTS"][...].BACKEND: Expected `str`, got `int`',
        ),
        ({"DEFAULT_TRANSPORTS": ["email", 7]}, 'NOTIFICATIONS["DEFAULT_TRANSPORTS"][1]: Expected `str`, got `int`'),
    ],
)
def test_a_wrong_value_is_said_when_the_process_starts(settings: Any, value: Any, text: str) -> None:
    """By a system check, and by whoever uses it."""
    assert run_checks(tags=["notifications"]) == []
    settings.NOTIFICATIONS = value
    with pytest.raises(ImproperlyConfigured) as caught:
        get_settings()
    assert str(caught.value).startswith(text)
    (message,) = run_checks(tags=["notifications"])
    assert message.id == "notifications.E001"
    assert message.msg == str(caught.value)
    assert "docs/reference/settings.md" in str(message.hint)


def test_the_former_path_of_the_printing_function_is_known(settings: Any) -> None:
    """A project's settings may have it from before it moved."""
    settings.NOTIFICATIONS = {"SEND_MESSAGE": "notifications.bot.send_message"}
    assert import_string(get_settings().send_message) is send_message
