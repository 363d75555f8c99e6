"""
Clients of filtered subscriptions, without a network: sinks that check the protocol as it comes.

Nothing may be there twice, go back in time, leave that never was there, or be kept that the client does not have.
"""

import json
from typing import Any

from realtime.broker.publication import Position
from realtime.hub.sinks import Frame, Sink

__all__ = ["Viewer"]


class Viewer(Sink):
    """A client that keeps what the protocol tells it to, and checks that nothing in it contradicts."""

    def __init__(self) -> None:
        self.limit_bytes = 1_000
        self.unsent = 0
        # Whether nothing of what is written is sent.
        self.is_stuck = False
        self.items: dict[tuple[str, str], int] = {}
        # Topic → its epoch, and the highest offset that it was sent.
        self.epochs: dict[str, str] = {}
        self.offsets: dict[str, int] = {}
        # Topics of the positions that it was sent, in order, and those whose offsets have begun again.
        self.named: list[str] = []
        self.restarted: set[str] = set()
        # Keys that it was told to keep.
        self.same: set[str] = set()
        self.message_count = 0
        self.numbers: list[int] = []
        self.batches: list[str] = []
        self.closed = ""
        self.is_started = False
        # Keys that the current reset has named; None outside of one.
        self._named: set[tuple[str, str]] | None = None
        self.is_complete = True

    @property
    def is_closed(self) -> bool:
        return bool(self.closed)

    @property
    def unsent_bytes(self) -> int:
        return self.unsent

    def close(self, code: int, reason: str) -> None:
        self.closed = reason

    def write(self, frame: Frame) -> None:
        if self.is_stuck:
            self.unsent += len(frame.payload)
        self.take([json.loads(line) for line in frame.payload.split(b"\n")])

    @property
    def keys(self) -> set[str]:
        """The keys that it has, of all topics."""
        return {key for _, key in self.items}

    @property
    def positions(self) -> dict[str, Position]:
        """Where it resumes, if no batch was cut."""
        return {topic: Position(self.offsets[topic], epoch) for topic, epoch in self.epochs.items()}

    def _advance(self, line: dict[str, Any]) -> None:
        self.offsets[line["topic"]] = max(line["offset"], self.offsets.get(line["topic"], 0))

    def take(self, lines: list[dict[str, Any]]) -> None:
        """Take the objects of one frame."""
        assert len(lines) == len({str(line) for line in lines}), "something is there twice"
        head, *rest = lines
        if head["type"] == "subscribed":
            assert not self.is_started
            self.is_started = True
            return
        assert head["type"] == "view"
        if head["batch"] == "reset" and (self.is_complete or self._named is None or head["number"] != self.numbers[-1]):
            # Also if the batch before was not completed: only what this one names stays.
            self._named = set()
        self.batches.append(head["batch"])
        for line in rest:
            self._take(line, head["batch"])
        self.is_complete = head["complete"]
        self.numbers.append(head["number"])
        if self.is_complete and self._named is not None:
            self.items = {name: offset for name, offset in self.items.items() if name in self._named}
            self._named = None

    def _take(self, line: dict[str, Any], batch: str) -> None:
        topic = line["topic"]
        if line["type"] == "position":
            if self.epochs.get(topic, line["epoch"]) != line["epoch"]:
                # Offsets begin again.
                self.restarted.add(topic)
                self.offsets[topic] = 0
            self.named.append(topic)
            self._advance(line)
            self.epochs[topic] = line["epoch"]
            return
        names = [(topic, key) for key in line.get("keys", [line.get("key")])]
        if line["type"] == "message":
            is_older = line["offset"] < self.items.get(names[0], -1)
            assert not is_older or batch == "reset" or topic in self.restarted, "a key went back in time"
            self.items[names[0]] = line["offset"]
            self.message_count += 1
            self._advance(line)
        elif line["type"] == "left":
            for name in names:
                assert name in self.items, "it never had that key"
                del self.items[name]
        else:
            assert line["type"] == "same"
            assert batch == "reset"
            assert all(name in self.items for name in names), "it is told to keep what it never had"
            self.same.update(key for _, key in names)
        if self._named is not None and line["type"] != "left":
            self._named.update(names)
