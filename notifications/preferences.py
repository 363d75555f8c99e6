"""
What users want: on which transports they get each kind, when they have quiet hours, and their addresses.

Owns the rows of Preference, QuietHours, Destination and PushSubscription. Does not own kinds or transports. All
functions are sync: from async code, call them in a thread.
"""

import base64
import contextlib
import datetime
import secrets
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import router

from notifications import conf
from notifications.content.envelope import is_kind
from notifications.content.recipients import find_actor
from notifications.content.timing import find_zone
from notifications.database.transactions import write_transaction
from notifications.exceptions import InvalidNotification, InvalidPreference
from notifications.kinds import Kind, all_kinds, find_kind, is_default
from notifications.label import on_user
from notifications.models import Destination, Preference, PushSubscription, QuietHours
from notifications.transports.base import ADDRESS_LIMIT
from notifications.transports.registry import get_transports
from realtime.exceptions import PermanentError
from realtime.extras import extra

__all__ = [
    "Choice",
    "add_destination",
    "add_push_subscription",
    "choices_of",
    "get_preferences",
    "remove_push_subscription",
    "set_preference",
    "set_quiet_hours",
    "wanted_transports",
]

# The lengths of the columns, in characters: an address, and the keys of a push subscription.
ADDRESS_LENGTH = 1000
P256DH_LENGTH = 100
AUTH_LENGTH = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One line on a page of preferences: whether a user gets a kind of notification on a transport."""

    kind: str
    kind_label: str
    transport: str
    transport_label: str
    is_wanted: bool
    # Required or forbidden: the user has no choice.
    is_fixed: bool


def wanted_transports(
    user_id: Any, kind: Kind, *, also: Container[str] = (), choices: Mapping[str, bool] | None = None
) -> list[str]:
    """
    The transports on which a user gets a kind, in the order of the settings.

    Args:
        also: Additional transports of one notification; they are left out if the kind forbids them or the user has
            switched them off.
        choices: The user's choices for the kind, from `choices_of`. By default they are looked up.
    """
    if choices is None:
        choices = choices_of([user_id], [kind.key]).get((user_id, kind.key), {})
    return [name for name in conf.get_settings().transports if _is_wanted(kind, name, choices, name in also)]


def choices_of(user_ids: Iterable[Any], kinds: Iterable[str]) -> dict[tuple[Any, str], dict[str, bool]]:
    """The choices of these users for these kinds: (user, kind) → transport → whether it is wanted."""
    rows = Preference.objects.using(_database()).filter(user_id__in=set(user_ids), kind__in=set(kinds))
    choices: dict[tuple[Any, str], dict[str, bool]] = {}
    for user_id, kind, name, is_wanted in rows.values_list("user_id", "kind", "transport", "is_wanted"):
        choices.setdefault((user_id, kind), {})[name] = is_wanted
    return choices


def get_preferences(user_id: Any) -> list[Choice]:
    """Every declared kind × every transport, as a page of preferences shows them."""
    rows = Preference.objects.using(_database()).filter(user_id=user_id).values_list("kind", "transport", "is_wanted")
    choices: dict[str, dict[str, bool]] = {}
    for kind_key, name, is_wanted in rows:
        choices.setdefault(kind_key, {})[name] = is_wanted
    return [
        Choice(
            kind=kind.key,
            kind_label=str(kind.label),
            transport=name,
            transport_label=str(transport.label or name),
            is_wanted=_is_wanted(kind, name, choices.get(kind.key, {})),
            is_fixed=name in kind.required | kind.forbidden,
        )
        for kind in all_kinds()
        for name, transport in get_transports().items()
    ]


def set_preference(user_id: Any, kind: str, transport: str, is_wanted: bool | None) -> None:
    """
    Set whether a user gets a kind of notification on a transport.

    Args:
        kind: A key. As for `notify`, no app needs to declare it, so a misspelt key is stored and has no effect.
        is_wanted: None removes the choice, so that the kind's default applies again.

    Raises:
        InvalidPreference: The user or the transport does not exist, the kind requires or forbids the transport, or the
            key is not a valid one.
    """
    if not is_kind(kind):
        raise InvalidPreference(f"no kind can have the key {kind!r}: it has 1 to 64 of a-z, 0-9, '_', '.', '-'")
    found = find_kind(kind)
    if transport not in conf.get_settings().transports:
        raise InvalidPreference(f"there is no transport {transport!r}: {', '.join(conf.get_settings().transports)}")
    if is_wanted is False and transport in found.required:
        raise InvalidPreference(f"{kind} is always sent by {transport}: it cannot be switched off")
    if is_wanted is True and transport in found.forbidden:
        raise InvalidPreference(f"{kind} is never sent by {transport}: it cannot be switched on")
    rows = Preference.objects.using(_database())
    if is_wanted is None:
        rows.filter(user_id=user_id, kind=kind, transport=transport).delete()
    else:
        with write_transaction(_database()):
            rows.update_or_create(
                user_id=_known(user_id), kind=kind, transport=transport, defaults={"is_wanted": is_wanted}
            )


def set_quiet_hours(
    user_id: Any, starts: datetime.time | None, ends: datetime.time | None = None, time_zone: str = ""
) -> None:
    """
    Set a user's quiet hours: each day from `starts` until `ends`, transports send urgent kinds only.

    Args:
        starts: A time of day in `time_zone`. It may be later than `ends`: then the quiet hours include midnight. None
            removes the quiet hours.
        time_zone: A name such as "Europe/Berlin".

    Raises:
        InvalidPreference: The user or the time zone does not exist, a time is missing, or both times are equal.
    """
    rows = QuietHours.objects.using(_database())
    if starts is None:
        rows.filter(user_id=user_id).delete()
        return
    if ends is None or starts == ends:
        raise InvalidPreference("quiet hours need a start and an end that differ: give both")
    if find_zone(time_zone) is None:
        raise InvalidPreference(f"there is no time zone {time_zone!r}: give one such as Europe/Berlin")
    defaults = {"starts": starts, "ends": ends, "time_zone": time_zone}
    with write_transaction(_database()):
        rows.update_or_create(user_id=_known(user_id), defaults=defaults)


def add_destination(user_id: Any, transport: str, address: str) -> Destination:
    """
    Add an address of a user for a transport: the URL of a webhook, or of a service that Apprise supports.

    Returns:
        The row. The user's receiver verifies webhooks with its `secret`. Adding the same address again returns the same
        row, and enables it if it was disabled.

    Raises:
        InvalidPreference: The user or the transport does not exist, the transport does not accept the address, or the
            user already has ten addresses.
    """
    found = get_transports().get(transport)
    if found is None:
        raise InvalidPreference(f"there is no transport {transport!r}")
    if len(address) > ADDRESS_LENGTH:
        raise InvalidPreference(f"the address has {len(address)} characters, the limit is {ADDRESS_LENGTH}")
    try:
        found.check_address(address)
    except ValueError as error:
        raise InvalidPreference(f"the address is {error}") from error
    rows = Destination.objects.using(_database())
    with write_transaction(_database()):
        user_id = _known(user_id)
        mine = rows.filter(user_id=user_id, transport=transport)
        if not mine.filter(address=address).exists() and mine.count() >= ADDRESS_LIMIT:
            raise InvalidPreference(f"there are {ADDRESS_LIMIT} addresses for {transport} already: remove one")
        secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        # The defaults enable a destination that was disabled.
        destination, _ = rows.update_or_create(
            user_id=user_id,
            transport=transport,
            address=address,
            defaults={"disabled_at": None, "disabled_reason": ""},
            create_defaults={"secret": secret},
        )
    return destination


def add_push_subscription(user_id: Any, subscription: Mapping[str, Any]) -> PushSubscription:
    """
    Add the web push subscription of a user's browser.

    Args:
        subscription: The result of `PushSubscription.toJSON()` in the browser: `endpoint`, and `keys` with `p256dh` and
            `auth`. An endpoint identifies a browser: if another user had it, it is moved to this user.

    Raises:
        InvalidPreference: The subscription is malformed, the user does not exist, or the user already has ten browsers.
    """
    endpoint = _endpoint_of(subscription)
    keys = subscription.get("keys")
    keys = keys if isinstance(keys, Mapping) else {}
    p256dh, auth = _text_of(keys.get("p256dh"), P256DH_LENGTH), _text_of(keys.get("auth"), AUTH_LENGTH)
    with extra("webpush"):
        from notifications.transports.http import audience_of

    try:
        audience_of(endpoint)
    except PermanentError as error:
        raise InvalidPreference(f"the endpoint of the push subscription is {error.reason}") from error
    rows = PushSubscription.objects.using(_database())
    with write_transaction(_database()):
        user_id = _known(user_id)
        if rows.filter(user_id=user_id).exclude(endpoint=endpoint).count() >= ADDRESS_LIMIT:
            raise InvalidPreference(
                f"there are {ADDRESS_LIMIT} browsers already: remove one of user.{on_user('push_subscriptions')}"
            )
        row, _ = rows.update_or_create(endpoint=endpoint, defaults={"user_id": user_id, "p256dh": p256dh, "auth": auth})
    return row


def remove_push_subscription(user_id: Any, subscription: Mapping[str, Any]) -> None:
    """
    Remove the web push subscription of a user's browser. It stays if it belongs to another user now.

    Args:
        subscription: As for `add_push_subscription()`; only its `endpoint` is needed.

    Raises:
        InvalidPreference: The subscription is malformed, or the user does not exist.
    """
    endpoint = _endpoint_of(subscription)
    rows = PushSubscription.objects.using(_database())
    with write_transaction(_database()):
        rows.filter(user_id=_known(user_id), endpoint=endpoint).delete()


def _known(user_id: Any) -> Any:
    """The key of an existing user. It is checked here, because some databases check foreign keys only at the commit."""
    found = None
    with contextlib.suppress(InvalidNotification):
        found = find_actor(user_id, using=_database())
    if found is None:
        raise InvalidPreference(f"there is no user with the id {user_id!r}")
    return found


def _endpoint_of(subscription: Any) -> str:
    return _text_of(subscription.get("endpoint") if isinstance(subscription, Mapping) else None, ADDRESS_LENGTH)


def _text_of(value: Any, limit: int) -> str:
    # Browsers send ASCII only. PostgreSQL would refuse a NUL.
    if not isinstance(value, str) or not 0 < len(value) <= limit or not (value.isascii() and value.isprintable()):
        raise InvalidPreference("this is not a push subscription: give the result of PushSubscription.toJSON()")
    return value


def _is_wanted(kind: Kind, transport: str, choices: Mapping[str, bool], is_asked_for: bool = False) -> bool:
    if transport in kind.required:
        return True
    if transport in kind.forbidden:
        return False
    if transport in choices:
        return choices[transport]
    return is_asked_for or is_default(kind, transport)


def _database() -> str:
    return router.db_for_write(Preference)
