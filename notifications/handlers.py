"""
What the relay and the bot have in common: reading an entry of the stream, and telling an outage from a failure.

Owns the checks of what comes from the stream, which any program can write to. Does not own what is done with it (relay,
bot) nor writing entries (outbox).
"""

import contextlib
import re
from collections.abc import Iterator

import msgspec
import redis
from django.db import InterfaceError, OperationalError

from notifications.envelope import ENVELOPE_LIMIT_BYTES, Envelope, decode_envelope
from realtime.exceptions import EntryRejected, Unavailable
from realtime.streams import Entry

__all__ = ["DATABASE_AWAY", "REDIS_AWAY", "StreamedNotification", "outages", "read_entry"]

# What Django raises when the database cannot be reached, is locked, or has closed the connection.
DATABASE_AWAY = (OperationalError, InterfaceError)
REDIS_AWAY = (redis.RedisError,)

_ID = re.compile(rb"[1-9][0-9]{0,18}")
# More than a database accepts as a key.
_USER_LIMIT_BYTES = 4_096


class StreamedNotification(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the stream, checked."""

    notification_id: int
    # The recipient's primary key as text.
    user_id: str
    envelope: Envelope
    # The envelope as it was written: JSON on one line.
    json: str
    # The one consumer group that it is meant for; "" for all.
    only: str = ""


def read_entry(entry: Entry) -> StreamedNotification:
    """
    Check an entry of the stream.

    Raises:
        EntryRejected: A field is missing, or is not what it must be; says which.
    """
    try:
        raw_id, raw_user, raw_envelope = entry.fields[b"n"], entry.fields[b"u"], entry.fields[b"e"]
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
    # It is spliced into frames, where a line break ends an object.
    if b"\n" in raw_envelope:
        raise EntryRejected("e is not on one line")
    try:
        envelope, text = decode_envelope(raw_envelope), raw_envelope.decode()
    except ValueError as error:
        raise EntryRejected(f"e is not an envelope: {error}") from None
    if envelope.id != int(raw_id):
        raise EntryRejected("n and the id in e differ")
    only = entry.fields.get(b"g", b"").decode(errors="replace")
    return StreamedNotification(notification_id=envelope.id, user_id=user_id, envelope=envelope, json=text, only=only)


@contextlib.contextmanager
def outages(*kinds: type[Exception]) -> Iterator[None]:
    """Within it, errors of these kinds are `Unavailable`: the stream worker calls again until it works."""
    try:
        yield
    except kinds as error:
        raise Unavailable(f"{type(error).__name__}: {error}") from error
