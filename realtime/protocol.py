"""
The frames of `signalbox.v1`: what the server says and what it understands.

A frame is one or more JSON objects, one a line. Owns their form and the limits of what comes in. Payloads are JSON
already and are spliced in as they are, never decoded. Does not own sockets (consumers) nor close codes (close_codes).
"""

from typing import Final, Literal

import msgspec

from realtime.exceptions import FrameRefused

__all__ = ["FRAME_LIMIT_BYTES", "PING_SECONDS", "PONG", "SUBPROTOCOL", "Ping", "decode", "error", "hello", "message"]

SUBPROTOCOL: Final = "signalbox.v1"
# The longest frame taken from a client; the web server's own limit is set to the same.
FRAME_LIMIT_BYTES: Final = 65_536
# How often a client that hears nothing asks whether the connection is alive.
PING_SECONDS: Final = 25
PONG: Final = '{"type":"pong"}'

_DETAIL_CHARACTERS = 200


class Ping(msgspec.Struct, frozen=True, kw_only=True):
    """A client asks whether the connection is alive; the answer is `PONG`."""

    # A field and no msgspec tag: where only one kind of object is known, a missing tag would be let through.
    type: Literal["ping"]


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Ping)


def decode(line: bytes) -> Ping:
    """
    Read one JSON object that a client sent.

    Raises:
        FrameRefused: `code` is "bad_json" for what is not JSON, "bad_frame" for JSON that is no frame of the protocol.
    """
    try:
        return _decoder.decode(line)
    except msgspec.ValidationError as problem:
        raise FrameRefused(code="bad_frame", detail=str(problem)[:_DETAIL_CHARACTERS]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise FrameRefused(code="bad_json", detail=str(problem)[:_DETAIL_CHARACTERS]) from None


def hello(user_id: object) -> str:
    """The first frame: who the server takes the client for, and how often to ping. Topics are joined by then."""
    return _text({"type": "hello", "user_id": user_id, "ping_seconds": PING_SECONDS})


def error(*, code: str, detail: str) -> str:
    """Something that the client sent was refused; the connection stays."""
    return _text({"type": "error", "code": code, "detail": detail})


def message(topic: str, data: str) -> str:
    """
    One publication on `topic`.

    Args:
        data: JSON text. A line break in it can only stand between two JSON tokens, and becomes a space: it would end
            the object's line in the frame.
    """
    if "\n" in data:
        data = data.replace("\n", " ")
    return f'{{"type":"message","topic":{_text(topic)},"data":{data}}}'


def _text(value: object) -> str:
    return _encode(value).decode()
