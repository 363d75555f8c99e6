"""
One message on a topic, as it goes over Redis: its place (epoch and offset) and its frame, ready for a socket.

Owns that form, which `lua/publish.lua` writes and everything else only cuts apart. The frame is made once, where the
offset is given; no process between the publisher and the browser decodes or encodes it again.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import msgspec

__all__ = ["MARK", "Crypter", "History", "Position", "Publication", "head_of", "parse", "seal"]

logger = logging.getLogger(__name__)

# The first byte of every publication. MessagePack never uses it and Fernet tokens are text, so that a publication is
# never taken for a message of a stock sender in the same group, nor the other way round.
MARK: Final = b"\xc1"


class Position(NamedTuple):
    """
    A place in a topic: after the publication `offset` of the counter `epoch`; 0 is before the first.

    A counter that starts again (Redis wiped, or the topic unused for long) has another epoch; offsets of two epochs
    cannot be compared.
    """

    offset: int
    epoch: str


class Publication(NamedTuple):
    """
    One message on a topic.

    Attributes:
        position: Where it stands.
        frame: The JSON object that a client gets, as bytes without a line break.
    """

    position: Position
    frame: bytes

    def as_event(self) -> dict[str, Any]:
        """What a stock consumer of the group gets."""
        message = _decode(self.frame)
        return {
            "type": "realtime.message",
            "topic": message.topic,
            "offset": message.offset,
            "data": bytes(message.data).decode(),
        }


class _Message(msgspec.Struct):
    topic: str
    offset: int
    data: msgspec.Raw


_decode = msgspec.json.Decoder(_Message).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """
    What Redis keeps of a topic, or the newest part of that.

    Attributes:
        position: Of the newest publication.
        frames: Of the newest publications, oldest first, without holes, ending at `position`.
    """

    position: Position
    frames: Sequence[bytes]

    @property
    def start(self) -> Position:
        """The position of the publication just before the first frame."""
        return Position(self.position.offset - len(self.frames), self.position.epoch)

    def since(self, position: Position) -> Sequence[bytes] | None:
        """What came after `position`; None if that is not known: too old, of another epoch, or in the future."""
        missed_count = self.position.offset - position.offset
        if position.epoch != self.position.epoch or not 0 <= missed_count <= len(self.frames):
            return None
        return self.frames[len(self.frames) - missed_count :]


class Crypter(Protocol):
    """What channels_redis makes of symmetric encryption keys: a MultiFernet."""

    def encrypt(self, msg: bytes) -> bytes: ...

    def decrypt(self, msg: bytes) -> bytes: ...


def head_of(epoch: str) -> bytes:
    """What the payloads of one epoch begin with; the offset, a line break and the frame follow."""
    return b"%b%b:" % (MARK, epoch.encode())


def seal(before: bytes, after: bytes, crypter: Crypter | None) -> tuple[bytes, bytes]:
    """
    What `lua/publish.lua` is given of a frame: the part before the offset and the part after it.

    Encrypted, the first is empty and the second a token of both: the offset itself is no secret.
    """
    return (before, after) if crypter is None else (b"", b"\n" + crypter.encrypt(before + b"\n" + after))


def parse(payload: bytes, crypter: Crypter | None = None) -> Publication | None:
    """Cut a payload apart: MARK, epoch, ":", offset, line break, frame. None if it is no publication."""
    if not payload.startswith(MARK):
        return None
    head, _, frame = payload.partition(b"\n")
    epoch, _, offset = head[1:].rpartition(b":")
    try:
        if crypter is not None:
            number, _, token = frame.partition(b"\n")
            before, _, after = crypter.decrypt(token).partition(b"\n")
            frame = before + number + after
        if not frame:
            raise ValueError("it is cut short")
        return Publication(Position(int(offset), epoch.decode()), frame)
    except Exception:
        # Not ours, cut short, or of another key: the place that it leaves is seen as a hole.
        logger.warning("a publication cannot be read: %.100r", payload, exc_info=True)
        return None
