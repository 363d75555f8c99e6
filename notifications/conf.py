"""
Settings at the edge: reads Django's `NOTIFICATIONS` once and checks it.

Owns the defaults of `notifications` (each lives in one dataclass field) and the name of its stream. Does not own where
Redis is: that is `REALTIME`, read by `realtime.conf`.
"""

import functools
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver

from realtime.conf import load

__all__ = ["STREAM", "NotificationsSettings", "get_settings", "load_settings"]

# The Redis Stream that carries one entry a notification, before the key prefix.
STREAM = "notifications"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationsSettings:
    """Django's `NOTIFICATIONS = {…}`; the keys are these names in capitals. All are optional, as is the whole."""

    # The most recipients of one notify(): they are written in one transaction.
    max_recipients: Annotated[int, msgspec.Meta(ge=1)] = 100_000
    # How long Redis remembers which parts of an event are on the stream, so that publishing again adds nothing.
    stream_guard_seconds: Annotated[int, msgspec.Meta(ge=1)] = 900
    # The sweep leaves events younger than this to the process that made them.
    outbox_grace_seconds: Annotated[float, msgspec.Meta(ge=0)] = 2.0
    # After Redis failed, notify() leaves publishing to the sweep for this long, so that nobody waits for timeouts.
    outbox_pause_seconds: Annotated[float, msgspec.Meta(ge=0)] = 2.0
    # How often one of the relays publishes what was left in the outbox.
    sweep_interval_seconds: Annotated[float, msgspec.Meta(gt=0)] = 2.0
    # How soon another relay takes over ingress and the sweep from one that died. Renewed at every quarter.
    ingress_lease_seconds: Annotated[float, msgspec.Meta(ge=0.4)] = 10.0
    # How long a relay or bot may be silent before others claim what it holds. Renewed at every quarter.
    stream_lease_seconds: Annotated[float, msgspec.Meta(ge=0.4)] = 30.0
    # How often the relay or the bot tries an entry before it is a dead letter. Outages do not count.
    max_attempts: Annotated[int, msgspec.Meta(ge=1)] = 5
    # The most entries that the relay takes at a time.
    relay_batch_size: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    # The most messages that one bot process sends at a time.
    bot_concurrency: Annotated[int, msgspec.Meta(ge=1)] = 20
    # What the bot calls with (user id, message): the dotted path of an async function. The default prints.
    send_message: str = "notifications.bot.send_message"


@functools.cache
def get_settings() -> NotificationsSettings:
    """The checked settings of this process."""
    return load_settings()


def load_settings() -> NotificationsSettings:
    """Read and check the settings anew. Raises ImproperlyConfigured."""
    if not hasattr(settings, "NOTIFICATIONS"):
        return NotificationsSettings()
    return load(NotificationsSettings, "NOTIFICATIONS")


@receiver(setting_changed)
def _forget_settings(*, setting: str, **kwargs: Any) -> None:
    if setting == "NOTIFICATIONS":
        get_settings.cache_clear()
