"""
The objects of the protocol `signalbox.v1`, in both directions. docs/reference/protocol.md describes it for clients.

A frame is one or more JSON objects, one per line. Owns their form and the limits of incoming ones. Payloads are JSON
text that is inserted unchanged, never decoded. Does not own sockets (websocket, hub.sinks) nor close codes
(close_codes).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from realtime.broker.publication import Position
from realtime.exceptions import FrameRefused

__all__ = [
    "FRAME_LIMIT_BYTES",
    "PING_SECONDS",
    "PONG",
    "SUBPROTOCOL",
    "Ack",
    "AnyFrame",
    "ClientFrame",
    "Ping",
    "Read",
    "SetFilter",
    "Subscribe",
    "Unsubscribe",
    "accept",
    "decode",
    "error",
    "hello",
    "left",
    "position",
    "same",
    "sees_only_close_codes",
    "subscribed",
    "subscribed_view",
    "unsubscribed",
    "view_header",
]

SUBPROTOCOL: Final = "signalbox.v1"
# The largest frame accepted from a client; the web server's own limit is set to the same value.
FRAME_LIMIT_BYTES: Final = 65_536
# How long a client waits without receiving anything before it sends a ping.
PING_SECONDS: Final = 25
PONG: Final = b'{"type":"pong"}'

_DETAIL_CHARACTERS = 200
# JavaScript's numbers are exact up to this one.
_NUMBER_LIMIT = 2**53 - 1
# Longer than any epoch or topic of the server.
_TOPIC_CHARACTERS = 255
_EPOCH_CHARACTERS = 32
_IDS_LIMIT = 1_000
_POSITIONS_LIMIT = 512

type _TopicName = Annotated[str, Meta(min_length=1, max_length=_TOPIC_CHARACTERS)]
type _Offset = Annotated[int, Meta(ge=0, le=_NUMBER_LIMIT)]
type _Epoch = Annotated[str, Meta(max_length=_EPOCH_CHARACTERS)]
# The client's name of a filtered subscription, unique on its connection.
type _View = Annotated[str, Meta(min_length=1, max_length=32, pattern=r"^[A-Za-z0-9_-]+\Z")]
type _Number = Annotated[int, Meta(ge=0, le=_NUMBER_LIMIT)]
type _Positions = Annotated[dict[_TopicName, tuple[_Offset, _Epoch]], Meta(max_length=_POSITIONS_LIMIT)]
type _Ids = Annotated[list[Annotated[int, Meta(ge=1, le=_NUMBER_LIMIT)]], Meta(max_length=_IDS_LIMIT)]


class ClientFrame(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", rename="lower"):
    """One JSON object from a client; `type` tells them apart."""


class Ping(ClientFrame, frozen=True, kw_only=True, tag="ping"):
    """Asks whether the connection is alive. The answer is `PONG`."""


class Subscribe(ClientFrame, frozen=True, kw_only=True, tag="subscribe"):
    """
    Subscribe to a topic: from now on, or after the publication with the given `offset` and `epoch`.

    With `view` and `filter`, it opens a view: a filtered subscription to the topic, or to a family. `number` is the
    client's number of the filter. With `positions`, the client resumes: it has the state of each topic at its position.
    """

    topic: _TopicName
    offset: _Offset | None = None
    epoch: _Epoch = ""
    view: _View | None = None
    number: _Number = 0
    # JSON that is decoded later, so that its errors can name the view; empty if there is none.
    filter: msgspec.Raw = msgspec.Raw()
    positions: _Positions | None = None

    def __post_init__(self) -> None:
        if (self.view is not None) != bool(self.filter):
            raise ValueError("`view` and `filter` come together; a filter that lets everything through is {}")
        if self.view is None and self.positions is not None:
            raise ValueError("`positions` are for a view; without one, resume with `offset` and `epoch`")
        if self.view is not None and self.offset is not None:
            raise ValueError("`offset` is for a subscription without a view; resume a view with `positions`")

    def since(self) -> Position | None:
        """The position to resume from; None if the client gave none."""
        return None if self.offset is None else Position(self.offset, self.epoch)

    def positions_by_topic(self) -> dict[str, Position] | None:
        """The positions to resume a view from; None if the client gave none."""
        if self.positions is None:
            return None
        return {topic: Position(*position) for topic, position in self.positions.items()}


class Unsubscribe(ClientFrame, frozen=True, kw_only=True, tag="unsubscribe"):
    """Unsubscribe from a topic, or close a view."""

    topic: _TopicName
    view: _View | None = None


class SetFilter(ClientFrame, frozen=True, kw_only=True, tag="filter"):
    """Replace the filter of a view. `number` grows with each filter of the view; the answer has it."""

    view: _View
    number: _Number
    filter: msgspec.Raw


class Ack(ClientFrame, frozen=True, kw_only=True, tag="ack"):
    """The client has processed everything on a topic up to `offset`."""

    topic: _TopicName
    offset: _Offset


class Read(ClientFrame, frozen=True, kw_only=True, tag="read"):
    """The user has read these notifications."""

    ids: _Ids


type AnyFrame = Ping | Subscribe | SetFilter | Unsubscribe | Ack | Read

_encode = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[AnyFrame] = msgspec.json.Decoder(Ping | Subscribe | SetFilter | Unsubscribe | Ack | Read)


def accept(scope: Mapping[str, Any]) -> dict[str, Any]:
    """
    The ASGI event that accepts a connection.

    It names the subprotocol if the client has offered it: otherwise a browser would fail the connection.
    """
    # ASGI servers may leave it out if the client offered none.
    subprotocol = SUBPROTOCOL if SUBPROTOCOL in (scope.get("subprotocols") or ()) else None
    return {"type": "websocket.accept", "subprotocol": subprotocol}


def sees_only_close_codes(scope: Mapping[str, Any]) -> bool:
    """
    Whether a refused client must be accepted first, so that it can read the close code.

    A browser shows its page the close code, but not the HTTP status of a failed handshake. A page that does not know
    why it was refused would retry for ever. Browsers are recognised by their Origin header. A client that offers the
    subprotocol knows its close codes.
    """
    if SUBPROTOCOL in (scope.get("subprotocols") or ()):
        return True
    return any(name == b"origin" for name, _ in scope.get("headers") or ())


def decode(line: bytes | str) -> AnyFrame:
    """
    Read one JSON object that a client sent.

    Raises:
        FrameRefused: `code` is "bad_json" if it is not JSON, "bad_frame" if it is not an object of the protocol.
    """
    try:
        return _decoder.decode(line)
    except msgspec.ValidationError as problem:
        raise FrameRefused(code="bad_frame", detail=str(problem)[:_DETAIL_CHARACTERS]) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as problem:
        raise FrameRefused(code="bad_json", detail=str(problem)[:_DETAIL_CHARACTERS]) from None


def hello(user_id: object, topic: str) -> bytes:
    """
    The first frame: the user of the connection, the user's own topic, and how often to ping.

    Args:
        user_id: The primary key. It is sent as text if JavaScript cannot represent the number exactly, or if it is not
            an integer.
        topic: The user's own topic.
    """
    if not isinstance(user_id, int) or abs(user_id) > _NUMBER_LIMIT:
        user_id = str(user_id)
    return _encode({"type": "hello", "user_id": user_id, "topic": topic, "ping_seconds": PING_SECONDS})


def subscribed(topic: str, position: Position, *, recovered: bool, lost_count: int | None = None) -> bytes:
    """
    The client is subscribed to `topic`; publications after `position` follow.

    Args:
        recovered: Whether the client has missed nothing since the position that it gave, or, if it was subscribed
            already, since its last publication. If it has missed something, it must reload its state.
        lost_count: How many publications the client cannot get any more; None if unknown.
    """
    body = {
        "type": "subscribed",
        "topic": topic,
        "offset": position.offset,
        "epoch": position.epoch,
        "recovered": recovered,
    }
    return _encode(body if lost_count is None else {**body, "lost": lost_count})


def subscribed_view(topic: str, view: str) -> bytes:
    """The view is open; its first batch follows."""
    return _encode({"type": "subscribed", "topic": topic, "view": view})


def view_header(view: str, number: int, batch: str, is_complete: bool) -> bytes:
    """
    The first object of a frame that belongs to a view; all later ones in the frame belong to the view too.

    Args:
        number: The newest filter that was applied.
        batch: "reset": what is named neither in a message nor in `same` has left. "entered": the answer to a filter.
            "changes": what has changed since.
        is_complete: Whether no more frames of this batch follow.
    """
    return _encode({"type": "view", "view": view, "number": number, "batch": batch, "complete": is_complete})


def left(topic: str, keys: Sequence[str]) -> bytes:
    """The view does not let these keys through any more, or they were removed."""
    return _encode({"type": "left", "topic": topic, "keys": keys})


def same(topic: str, keys: Sequence[str]) -> bytes:
    """What the client has of these keys is still right."""
    return _encode({"type": "same", "topic": topic, "keys": keys})


def position(topic: str, position: Position) -> bytes:
    """The epoch of a topic of the view; offsets of another epoch cannot be compared with those that follow."""
    return _encode({"type": "position", "topic": topic, "offset": position.offset, "epoch": position.epoch})


def unsubscribed(topic: str, *, view: str | None = None, code: str | None = None, detail: str = "") -> bytes:
    """
    The client is not subscribed to `topic` any more.

    Args:
        view: The view that was closed; None for a subscription without a filter.
        code: Why the server ended the subscription, one of the codes of `error`; None if the client asked for it.
        detail: The same for people.
    """
    body = {"type": "unsubscribed", "topic": topic}
    if view is not None:
        body["view"] = view
    return _encode(body if code is None else {**body, "code": code, "detail": detail})


def error(
    *, code: str, detail: str, topic: str | None = None, view: str | None = None, number: int | None = None
) -> bytes:
    """
    An object from the client was refused; the connection stays open.

    Args:
        code: Why, for programs.
        detail: Why, for people.
        topic, view: Which subscription it is about, if it is about one.
        number: Which filter was refused.
    """
    body: dict[str, object] = {"type": "error", "code": code, "detail": detail}
    if topic is not None:
        body["topic"] = topic[:_TOPIC_CHARACTERS]
    if view is not None:
        body["view"] = view
    if number is not None:
        body["number"] = number
    return _encode(body)
