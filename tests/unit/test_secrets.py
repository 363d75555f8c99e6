"""Values that hold a secret do not show it: a log line or a traceback would, and people paste these elsewhere."""

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest

import notifications
import realtime
from notifications.conf import NotificationsSettings, TransportEntry
from notifications.transports import Address
from realtime.conf import RealtimeSettings
from realtime.websocket.authentication import _Claim

SECRET = "c2VjcmV0"
ENTRY = TransportEntry(backend="notifications.transports.webhook.WebhookTransport", options={"secret": SECRET})


@pytest.mark.parametrize(
    "value",
    [
        Address(key="project", value=("https://hooks.example/", SECRET)),
        Address(key="project 0", value=f"tgram://{SECRET}/42"),
        ENTRY,
        NotificationsSettings(transports={"webhook": ENTRY}),
        RealtimeSettings(redis_url=f"redis://:{SECRET}@redis.example/0"),
        _Claim(user_id=42, backend_path="django.contrib.auth.backends.ModelBackend", auth_hash=SECRET),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_secret_is_not_shown(value: object) -> None:
    """By repr(), and where the value is a part of another one."""
    assert SECRET not in repr(value)
    assert SECRET not in f"{[value]} { ({'value': value}) }"


def dataclasses_of_both_apps() -> Iterator[type]:
    for app in (notifications, realtime):
        for module in pkgutil.walk_packages(app.__path__, f"{app.__name__}."):
            # The conformance suite holds no secrets, and pytest must see its modules before they are imported.
            if ".migrations" in module.name or ".conformance." in module.name:
                continue
            for value in vars(importlib.import_module(module.name)).values():
                if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__ == module.name:
                    yield value


def test_a_field_named_like_a_secret_is_left_out_of_repr() -> None:
    """Of every dataclass, also of those to come."""
    secret = re.compile(r"secret|password|passwd|token|auth_|_hash|private_key|cookie|redis_url|session_key")
    fields = [(each, field) for each in dataclasses_of_both_apps() for field in dataclasses.fields(each)]
    named = [(each.__name__, field.name, field.repr) for each, field in fields if secret.search(field.name)]
    assert ("RealtimeSettings", "redis_url", False) in named
    assert [each for each in named if each[2]] == []
