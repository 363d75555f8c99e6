"""
One message on a topic as it is sent through Redis: its position (epoch and offset), and its frame, ready for a socket.

Owns this format. Only `publish.lua` and `publish_keyed.lua` write it. The frame is built once, where the offset is
assigned: no process between the publisher and the browser decodes or encodes it again.
"""

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from realtime.untrusted.text import LimitedLog

__all__ = [
    "BATCH_MARK",
    "MARK",
    "RELEVANCE_MARK",
    "Crypter",
    "History",
    "Position",
    "Publication",
    "decode_time",
    "encode_time",
    "head_of",
    "new_epoch",
    "parse",
    "payload_bounds",
    "seal",
    "seal_line",
    "split_batch",
    "split_relevance",
]

logger = logging.getLogger(__name__)
_log = LimitedLog(logger)

# The first byte of every publication. MessagePack never uses it and Fernet tokens are text, so a publication cannot be
# confused with a message from a stock sender in the same group.
MARK: Final = b"\xc1"
# The first bytes of a message with several publications: for each its length, a line break, and its payload.
BATCH_MARK: Final = MARK + MARK
# The first byte of a line before the frame, with the relevance or the time. JSON never begins with it, and neither does
# a token.
RELEVANCE_MARK: Final = b"\x1e"
_RELEVANCE: Final = RELEVANCE_MARK[0]
# The first byte of a time, in the place of the relevance. Relevance never begins with it.
_TIME: Final = b"@"
# The most digits of a time. It has 16 for the next 250 years; any program may send another one.
_TIME_DIGITS: Final = 20


class Position(NamedTuple):
    """
    A place in a topic: after the publication `offset` of the counter `epoch`; offset 0 is before the first one.

    A counter that starts again, because Redis was wiped or the topic was unused for a day, has a new epoch. Offsets of
    different epochs cannot be compared.
    """

    offset: int
    epoch: str


class Publication(NamedTuple):
    """
    One message on a topic.

    Attributes:
        position: Its position in the topic.
        frame: The JSON object that a client gets, as bytes without a line break.
        relevance: From `encode_relevance` if the topic's family has a snapshot; otherwise from `encode_time`, or empty.
    """

    position: Position
    frame: bytes
    relevance: bytes = b""

    def as_event(self) -> dict[str, Any]:
        """The message that stock consumers in the group get; with "key" and "removed" if it has a key."""
        message = _decode(self.frame)
        event = {
            "type": "realtime.message",
            "topic": message.topic,
            "offset": message.offset,
            "data": bytes(message.data).decode(),
        }
        if message.key is not None:
            event |= {"key": message.key, "removed": message.removed}
        return event


class _Message(msgspec.Struct):
    topic: str
    offset: int
    data: msgspec.Raw
    key: str | None = None
    removed: bool = False


_decode = msgspec.json.Decoder(_Message).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """
    The history of a topic, or its newest part.

    Attributes:
        position: The position of the newest publication.
        frames: The newest publications up to `position`, oldest first, without gaps.
    """

    position: Position
    frames: Sequence[bytes]

    @property
    def start(self) -> Position:
        """The position of the publication just before the first frame."""
        return Position(self.position.offset - len(self.frames), self.position.epoch)

    def since(self, position: Position) -> Sequence[bytes] | None:
        """The frames after `position`; None if unknown: too old, of another epoch, or in the future."""
        missed_count = self.position.offset - position.offset
        if position.epoch != self.position.epoch or not 0 <= missed_count <= len(self.frames):
            return None
        return self.frames[len(self.frames) - missed_count :]


class Crypter(Protocol):
    """The interface of the MultiFernet that channels_redis creates from symmetric encryption keys."""

    def encrypt(self, msg: bytes) -> bytes: ...

    def decrypt(self, msg: bytes) -> bytes: ...


def new_epoch() -> str:
    """A random epoch, different from all earlier ones."""
    return secrets.token_hex(5)


def head_of(epoch: str) -> bytes:
    """The beginning of all payloads of one epoch; the offset, a line break and the frame follow."""
    return b"%b%b:" % (MARK, epoch.encode())


def seal(before: bytes, after: bytes, crypter: Crypter | None) -> tuple[bytes, bytes]:
    """
    The two parts of a frame for `publish.lua`: the bytes before the offset and the bytes after it.

    If they are encrypted, the first part is empty and the second is a token of both. The offset is not secret.
    """
    return (before, after) if crypter is None else (b"", b"\n" + crypter.encrypt(before + b"\n" + after))


def seal_line(relevance: bytes, crypter: Crypter | None) -> bytes:
    """The line with the relevance or the time, which stands before the frame; its line break included."""
    return b"%b%b\n" % (RELEVANCE_MARK, relevance if crypter is None else crypter.encrypt(relevance))


def encode_time(seconds: float) -> bytes:
    """The time of publishing (seconds since the epoch) as it takes the place of the relevance in some publications."""
    return b"%b%d" % (_TIME, seconds * 1_000_000)


def decode_time(relevance: bytes) -> float | None:
    """The time that `encode_time` encoded; None if this is something else."""
    number = relevance[1:]
    is_time = relevance[:1] == _TIME and len(number) <= _TIME_DIGITS and number.isdigit()
    return int(number) / 1_000_000 if is_time else None


def split_relevance(rest: bytes) -> tuple[bytes, bytes]:
    """Split the part of a payload after its offset into the relevance, which may be empty, and the frame."""
    if not rest or rest[0] != _RELEVANCE:
        return b"", rest
    line, _, frame = rest[1:].partition(b"\n")
    return line, frame


def split_batch(message: bytes) -> list[bytes]:
    """The payloads of a message that begins with BATCH_MARK."""
    return [message[start:end] for start, end in payload_bounds(message)]


def payload_bounds(message: bytes) -> list[tuple[int, int]]:
    """
    Where each payload of a message begins and ends. Most messages have one payload.

    After a payload whose length is wrong, nothing more is read.
    """
    if not message.startswith(BATCH_MARK):
        return [(0, len(message))]
    bounds: list[tuple[int, int]] = []
    at = len(BATCH_MARK)
    try:
        while (line_end := message.find(b"\n", at)) > 0:
            start = line_end + 1
            at = start + int(message[at:line_end])
            if at < start:
                raise ValueError("a length is negative")
            bounds.append((start, at))
        if at != len(message):
            if at > len(message):
                bounds.pop()
            raise ValueError("it is truncated")
    except ValueError as error:
        # Not ours, or truncated. The missing offsets are then noticed as a gap.
        _log.warning("batch", "a batch of publications cannot be read: %r", message[:100], error=error)
    return bounds


def parse(payload: bytes, crypter: Crypter | None = None) -> Publication | None:
    """
    Split a payload: MARK, epoch, ":", offset, line break, frame. None if it is not a publication.

    A line with the relevance or the time may stand before the frame.
    """
    if not payload.startswith(MARK):
        return None
    head, _, frame = payload.partition(b"\n")
    epoch, _, offset = head[1:].rpartition(b":")
    relevance, frame = split_relevance(frame)
    try:
        if crypter is not None:
            relevance = crypter.decrypt(relevance) if relevance else b""
            number, _, token = frame.partition(b"\n")
            before, _, after = crypter.decrypt(token).partition(b"\n")
            frame = before + number + after
        if not frame:
            raise ValueError("it is truncated")
        return Publication(Position(int(offset), epoch.decode()), frame, relevance)
    except Exception as error:
        # Not ours, truncated, or encrypted with another key. The missing offset is then noticed as a gap.
        _log.warning("publication", "a publication cannot be read: %r", payload[:100], error=error)
        return None
