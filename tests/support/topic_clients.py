"""
Clients of one topic, without a network: sinks for the hub, which check `signalbox.v1` as it comes.

Whatever a test does, nothing may be missed or doubled without being told.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from realtime.broker.publication import Position
from realtime.hub.hub import Membership
from realtime.hub.sinks import Frame, FrameWriter, Sink

__all__ = ["PREFACE", "Client", "ClientSink", "ClientWriter"]

PREFACE = b'{"type":"hello"}'


class Client:
    """What a browser sees on one topic; each line is checked against the protocol as it comes."""

    def __init__(self, since: Position | None) -> None:
        self.since = since
        # Where it is; None before its first "subscribed".
        self.position: Position | None = None
        self.recovered: list[bool] = []
        self.lost_counts: list[int | None] = []
        self.received: list[tuple[str, int]] = []
        self.membership: Membership | None = None
        self.has_left = False

    def take(self, payload: bytes) -> None:
        assert not self.has_left, "written to after it has left"
        for line in payload.split(b"\n"):
            body = msgspec.json.decode(line)
            if body["type"] == "hello":
                assert self.position is None
            elif body["type"] == "subscribed":
                self._take_subscribed(Position(body["offset"], body["epoch"]), body["recovered"], body.get("lost"))
            else:
                assert self.position is not None, "a message before subscribed"
                expected = Position(self.position.offset + 1, self.position.epoch)
                assert body["offset"] == expected.offset, "missed or doubled without being told"
                self.check(body["data"], expected)
                self.position = expected
                self.received.append((expected.epoch, expected.offset))

    def check(self, data: Any, position: Position) -> None:
        """A message has come; in the model, its data say where it stands."""
        assert data == [position.epoch, position.offset], "another publication than it says"

    def _take_subscribed(self, position: Position, recovered: bool, lost_count: int | None) -> None:
        before = self.since if self.position is None else self.position
        if before is not None and before.epoch == position.epoch and before.offset < position.offset:
            assert not recovered
            assert lost_count == position.offset - before.offset
        else:
            assert lost_count is None
        self.lost_counts.append(lost_count)
        if self.position is not None:
            assert not recovered or (self.position.offset, position.offset) == (0, 0), "told twice that all is well"
        elif recovered:
            assert position == self.since
        self.position = position
        self.recovered.append(recovered)


class ClientSink(Sink):
    """Plain: gets frames."""

    limit_bytes = 1_048_576
    unsent_bytes = 0

    def __init__(self, client: Client) -> None:
        self.client = client
        self.is_shut = False

    @property
    def is_closed(self) -> bool:
        return self.is_shut

    def write(self, frame: Frame) -> None:
        self.client.take(frame.payload)

    def close(self, code: int, reason: str) -> None:
        self.is_shut = True


class ClientWriter(FrameWriter):
    """Raw: gets the bytes of whole frames, several at once perhaps."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def write(self, wire: bytes) -> None:  # type: ignore[override]
        while wire:
            assert wire[0] == 0x81
            size, start = wire[1], 2
            if size == 126:
                size, start = int.from_bytes(wire[2:4]), 4
            elif size == 127:
                size, start = int.from_bytes(wire[2:10]), 10
            self.client.take(wire[start : start + size])
            wire = wire[start + size :]

    unsent_bytes = 0

    def bound(self, limit_bytes: int, on_overflow: Callable[[], None]) -> None: ...

    def close(self, code: int, reason: str) -> None: ...
