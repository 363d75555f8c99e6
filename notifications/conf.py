"""
The setting `NOTIFICATIONS`: read and checked once per process.

Owns the keys and their defaults, the name of the stream and the names of its consumer groups. Does not own the address
of Redis (realtime.conf).
"""

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver

from realtime.conf import load

__all__ = [
    "LOST_SECONDS",
    "PARTS",
    "STATISTICS_TOPIC",
    "STREAM",
    "NotificationsSettings",
    "Part",
    "TransportEntry",
    "get_settings",
    "load_settings",
]

# The name of a part of run_bot_subscriber that reads the stream.
type Part = Literal["relay", "bot"]
# The Redis Stream that carries one entry a notification, before the key prefix.
STREAM = "notifications"
# The topic of the live numbers of the dashboard.
STATISTICS_TOPIC = "signalbox.statistics"
# The parts of run_bot_subscriber that read the stream. Each has a consumer group; every process creates all groups.
PARTS: tuple[Part, ...] = ("relay", "bot")
# Notifications that Redis lost are put back on the stream up to this age. Older ones are only in the inbox.
LOST_SECONDS = 7 * 86_400


class TransportEntry(msgspec.Struct, frozen=True, kw_only=True, rename="upper", forbid_unknown_fields=True):
    """One of NOTIFICATIONS["TRANSPORTS"]."""

    # The dotted path of a Transport.
    backend: str
    # The Transport's keyword arguments.
    options: dict[str, Any] = {}
    # The most messages that one bot process sends at a time; BOT_CONCURRENCY by default.
    concurrency: Annotated[int, msgspec.Meta(ge=1)] | None = None
    # The most messages that one bot process begins to send in a second; no limit by default.
    rate_per_second: Annotated[float, msgspec.Meta(gt=0)] | None = None
    # These replace DELIVERY_MAX_ATTEMPTS, DELIVERY_RETRY_SECONDS and DELIVERY_RETRY_LIMIT_SECONDS.
    max_attempts: Annotated[int, msgspec.Meta(ge=1)] | None = None
    retry_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None
    retry_limit_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None

    def __repr__(self) -> str:
        # Options may hold keys and passwords: only their names are shown.
        return f"{type(self).__name__}(backend={self.backend!r}, options={sorted(self.options)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationsSettings:
    """Django's `NOTIFICATIONS = {…}`; the keys are these names in capitals. All keys and the setting are optional."""

    # The most recipients of one notify() call; they are written in one transaction.
    max_recipients: Annotated[int, msgspec.Meta(ge=1)] = 100_000
    # How long Redis remembers which parts of an event are on the stream, so that publishing them again adds nothing.
    stream_guard_seconds: Annotated[int, msgspec.Meta(ge=1)] = 900
    # The sweep leaves events younger than this to the process that wrote them.
    outbox_grace_seconds: Annotated[float, msgspec.Meta(ge=0)] = 2.0
    # After Redis failed, notify() leaves publishing to the sweep for this long, so that callers do not wait for
    # timeouts.
    outbox_pause_seconds: Annotated[float, msgspec.Meta(ge=0)] = 2.0
    # How often one of the relays publishes what was left in the outbox.
    sweep_interval_seconds: Annotated[float, msgspec.Meta(gt=0)] = 2.0
    # After this time another relay takes over ingress and the sweep from one that died. The lease is renewed four times
    # as often.
    ingress_lease_seconds: Annotated[float, msgspec.Meta(ge=0.4)] = 10.0
    # After this time without a sign of life from a relay or bot, others claim its entries. The lease is renewed four
    # times as often.
    stream_lease_seconds: Annotated[float, msgspec.Meta(ge=0.4)] = 30.0
    # How often the relay or the bot tries an entry before it becomes a dead letter. Attempts during outages do not
    # count.
    max_attempts: Annotated[int, msgspec.Meta(ge=1)] = 5
    # The most entries in one batch of the relay.
    relay_batch_size: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    # The most messages that one bot process sends at a time, on each transport.
    bot_concurrency: Annotated[int, msgspec.Meta(ge=1)] = 20
    # The function that the console transport calls with (user id, message): the dotted path of an async function. The
    # default one prints.
    send_message: str = "notifications.transports.console.send_message"
    # The transports: name → {"BACKEND": dotted path of a Transport, "OPTIONS": {its keyword arguments}, …}. The keys
    # are the fields of TransportEntry in capitals.
    transports: dict[str, TransportEntry] = field(
        default_factory=lambda: {"console": TransportEntry(backend="notifications.transports.console.ConsoleTransport")}
    )
    # The transports of kinds that do not name any.
    default_transports: tuple[str, ...] = ("console",)
    # How often a delivery is tried before it fails for good. Attempts during outages of our own database or Redis do
    # not count.
    delivery_max_attempts: Annotated[int, msgspec.Meta(ge=1)] = 14
    # The longest wait before the second attempt. It doubles with each attempt, up to the limit. The actual wait is
    # random, between half of it and all of it. A provider's Retry-After replaces it, up to an hour.
    delivery_retry_seconds: Annotated[float, msgspec.Meta(gt=0)] = 15.0
    delivery_retry_limit_seconds: Annotated[float, msgspec.Meta(gt=0)] = 7200.0
    # How long a claim on a delivery lasts; after that, another bot may send it. A transport's timeout_seconds is at
    # most half of it.
    delivery_claim_seconds: Annotated[float, msgspec.Meta(ge=0.4)] = 60.0
    # "send" sends deliveries. "hold" holds them until they are released. "console" prints them instead of using any
    # transport. A list of email addresses, or domains such as "@example.com", sends to users with these addresses and
    # holds the deliveries to all others.
    delivery: Literal["send", "hold", "console"] | tuple[str, ...] = "send"
    # The address of the site, for links in emails, chats and pushes: "https://example.com". By default that of the
    # current site of django.contrib.sites, if that is installed.
    base_url: str = ""
    # A notification that was published longer ago than this, was not handled, and is no longer on the stream counts as
    # lost by Redis.
    refill_grace_seconds: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    # The dotted path of a function(user) that returns the user's language; it runs in a thread. LANGUAGE_CODE if it is
    # not set or returns nothing.
    language_of: str = ""
    # The same for the user's time zone, such as "Europe/Berlin". TIME_ZONE if it is not set or returns nothing.
    time_zone_of: str = ""
    # The hour of the day, in the user's time zone, at which daily digests go out.
    digest_hour: Annotated[int, msgspec.Meta(ge=0, le=23)] = 8

    def __post_init__(self) -> None:
        if wrong := [each for each in self.delivery if "@" not in each] if isinstance(self.delivery, tuple) else []:
            raise ValueError(
                f'NOTIFICATIONS["DELIVERY"] has {wrong[0]!r}: write "send", "hold", "console", or a list of addresses '
                'as in ["alice@example.com", "@example.com"]'
            )
        parts = urlsplit(self.base_url)
        has_more = bool(parts.path.strip("/") or parts.query or parts.fragment)
        if self.base_url and (parts.scheme not in ("http", "https") or not parts.hostname or has_more):
            raise ValueError(
                f'NOTIFICATIONS["BASE_URL"] is {self.base_url!r}: write only scheme and host, as in "https://example.com"'
            )


@functools.cache
def get_settings() -> NotificationsSettings:
    """The checked settings of this process."""
    return load_settings()


# Earlier dotted paths of our functions, which settings may still name → where they are now.
_MOVED = {"notifications.bot.send_message": "notifications.transports.console.send_message"}


def load_settings() -> NotificationsSettings:
    """Read and check the settings again. Raises ImproperlyConfigured."""
    if not hasattr(settings, "NOTIFICATIONS"):
        return NotificationsSettings()
    loaded = load(NotificationsSettings, "NOTIFICATIONS")
    return dataclasses.replace(loaded, send_message=_MOVED.get(loaded.send_message, loaded.send_message))


@receiver(setting_changed)
def _forget_settings(*, setting: str, **kwargs: Any) -> None:
    if setting == "NOTIFICATIONS":
        get_settings.cache_clear()
