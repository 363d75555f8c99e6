"""
An entry of the stream "notifications": one notification for one recipient, on its way to the relay and the bot.

Owns the fields of an entry: writing them, and checking them when they are read, because any program can write to the
stream. Does not own appending (realtime.streams.append) or handling entries (relay, bot).
"""

import re
from typing import Any

import msgspec

from notifications.content.envelope import ENVELOPE_LIMIT_BYTES, Envelope, decode_envelope, encode_envelope
from realtime.exceptions import EntryRejected
from realtime.streams import Entry

__all__ = ["GROUP_FIELD", "ID_FIELD", "USER_FIELD", "StreamedNotification", "decode", "encode", "notification_id_of"]

# The field with the recipient's primary key. Workers handle the entries of one user in order.
USER_FIELD = "u"
# The notification's id, and the only group that handles the entry, if it is not for all.
ID_FIELD, GROUP_FIELD = "n", "g"
_ENVELOPE_FIELD = "e"

_ID = re.compile(rb"[1-9][0-9]{0,18}")
# More than any key has.
_USER_LIMIT_BYTES = 4_096


class StreamedNotification(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the stream, checked."""

    notification_id: int
    # The recipient's primary key as text.
    user_id: str
    envelope: Envelope
    # The envelope as it was written: JSON on one line.
    json: str
    # The only consumer group that handles it; "" for all groups.
    only: str = ""


def encode(
    common: bytes,
    *,
    notification_id: int,
    event_id: int,
    recipient_id: Any,
    replaces: int | None = None,
    only: str = "",
) -> dict[str, bytes]:
    """
    The fields of an entry.

    Args:
        common: The part of the envelope that all recipients share, from `encode_common`.
        only: The only consumer group that handles the entry; "" for all groups.
    """
    envelope = encode_envelope(common, event_id=event_id, notification_id=notification_id, replaces=replaces)
    fields = {ID_FIELD: b"%d" % notification_id, USER_FIELD: str(recipient_id).encode(), _ENVELOPE_FIELD: envelope}
    if only:
        fields[GROUP_FIELD] = only.encode()
    return fields


def notification_id_of(fields: dict[str, bytes]) -> int:
    """The notification's id in fields that `encode` made."""
    return int(fields[ID_FIELD])


def decode(entry: Entry) -> StreamedNotification:
    """
    Check an entry of the stream.

    Raises:
        EntryRejected: A field is missing or malformed; the text says which.
    """
    try:
        raw_id, raw_user, raw_envelope = (
            entry.fields[name.encode()] for name in (ID_FIELD, USER_FIELD, _ENVELOPE_FIELD)
        )
    except KeyError as error:
        raise EntryRejected(f"the field {error.args[0].decode()} is missing") from None
    if not _ID.fullmatch(raw_id):
        raise EntryRejected("n is not the id of a notification")
    try:
        user_id = raw_user.decode()
    except UnicodeDecodeError:
        user_id = ""
    if not user_id or len(raw_user) > _USER_LIMIT_BYTES:
        raise EntryRejected("u is not the id of a user")
    if len(raw_envelope) > ENVELOPE_LIMIT_BYTES:
        raise EntryRejected(f"e has {len(raw_envelope)} bytes, the limit is {ENVELOPE_LIMIT_BYTES}")
    # The envelope is inserted into frames, where a line break ends an object.
    if b"\n" in raw_envelope:
        raise EntryRejected("e is not on one line")
    try:
        envelope, text = decode_envelope(raw_envelope), raw_envelope.decode()
    except ValueError as error:
        raise EntryRejected(f"e is not an envelope: {error}") from None
    if envelope.id != int(raw_id):
        raise EntryRejected("n and the id in e differ")
    only = entry.fields.get(GROUP_FIELD.encode(), b"").decode(errors="replace")
    return StreamedNotification(notification_id=envelope.id, user_id=user_id, envelope=envelope, json=text, only=only)
