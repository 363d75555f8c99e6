"""The table of names against a model of Redis: whatever the interleaving, who was promised a message gets it."""

import asyncio
import random
from collections import deque

import pytest

from realtime.pubsub.subscription_table import NameTable
from realtime.pubsub.subscriptions import Listener, ListenerCounters

CHANNELS = ("a", "b", "c")


class Recorder(Listener):
    """Remembers what it was given and told."""

    def __init__(self) -> None:
        super().__init__(ListenerCounters())
        self.received: list[str] = []
        self.expected: list[str] = []
        self.gap_count = 0

    @property
    def is_ready(self) -> bool:
        return self._ready.done()

    def _push(self, channel: str, data: bytes, pattern: str | None) -> bool:
        self.received.append(data.decode())
        return False

    def _flush(self) -> None: ...

    def _notify_gap(self) -> None:
        self.gap_count += 1


class ModelRedis:
    """Takes commands late and answers in order, as a server behind a network does."""

    def __init__(self, table: NameTable) -> None:
        self.table = table
        self.inbound: deque[tuple[bytes, bytes]] = deque()
        self.outbound: deque[tuple[str, bytes, str]] = deque()
        self.subscribed: set[bytes] = set()

    def send_changes(self) -> None:
        for command, names in self.table.take_commands().items():
            self.inbound.extend((command, raw) for raw in names)

    def process_one(self) -> None:
        if self.inbound:
            command, raw = self.inbound.popleft()
            (self.subscribed.add if command == b"SUBSCRIBE" else self.subscribed.discard)(raw)
            self.outbound.append(("answer", raw, ""))

    def publish(self, channel: str, text: str) -> None:
        if channel.encode() in self.subscribed:
            self.outbound.append(("message", channel.encode(), text))

    def deliver_one(self) -> None:
        if not self.outbound:
            return
        kind, raw, text = self.outbound.popleft()
        if kind == "answer":
            self.table.take_answer(raw, is_pattern=False)
        elif (name := self.table.channels.get(raw)) is not None and name.is_live:
            for listener in name.listeners:
                listener._push(name.text, text.encode(), None)

    def settle(self) -> None:
        self.send_changes()
        while self.inbound or self.outbound:
            self.process_one()
            self.deliver_one()

    def lose_connection(self) -> None:
        self.inbound.clear()
        self.outbound.clear()
        self.subscribed.clear()
        self.table.connection_lost()


@pytest.mark.parametrize("seed", range(200))
async def test_every_interleaving_keeps_the_promise(seed: int) -> None:
    """A listener that is ready gets all that is published until it leaves, and each listener is ready in the end."""
    chance = random.Random(seed)  # noqa: S311 - a schedule that can be repeated
    table = NameTable()
    server = ModelRedis(table)
    present: dict[Recorder, list[str]] = {}
    for number in range(300):
        action = chance.choice(["join", "leave", "send", "process", "process", "deliver", "deliver", "publish"])
        if action == "join" and len(present) < 6:
            recorder, channels = Recorder(), chance.sample(CHANNELS, chance.randint(1, 3))
            table.join(recorder, channels, [])
            present[recorder] = channels
        elif action == "leave" and present:
            recorder = chance.choice(list(present))
            del present[recorder]
            table.leave(recorder)
        elif action == "publish":
            channel = chance.choice(CHANNELS)
            for recorder, channels in present.items():
                if recorder.is_ready and channel in channels:
                    recorder.expected.append(f"{channel}{number}")
            server.publish(channel, f"{channel}{number}")
        else:
            {"send": server.send_changes, "process": server.process_one, "deliver": server.deliver_one}.get(
                action, lambda: None
            )()
    server.settle()
    for recorder in present:
        assert recorder.is_ready
        # What came before it was ready (one of its names was live already) is a bonus; nothing promised is missing.
        assert [text for text in recorder.received if text in recorder.expected] == recorder.expected
        assert len(set(recorder.received)) == len(recorder.received)
    for recorder in tuple(present):
        table.leave(recorder)
    server.settle()
    table.take_commands()
    assert len(table) == 0
    assert not server.subscribed


async def test_a_lost_connection_is_told_once_to_those_who_were_ready() -> None:
    """However often the connection is lost before all names are back, the gap is told once; joiners are not told."""
    table = NameTable()
    server = ModelRedis(table)
    ready, late = Recorder(), Recorder()
    table.join(ready, ["a", "b"], [])
    server.settle()
    server.lose_connection()
    table.join(late, ["b", "c"], [])
    server.send_changes()
    server.process_one()
    server.deliver_one()
    server.lose_connection()
    server.settle()
    await asyncio.sleep(0)
    assert (ready.gap_count, late.gap_count) == (1, 0)
    assert late.is_ready


async def test_a_used_listener_is_refused() -> None:
    """A subscription that was live once is not entered again."""
    table = NameTable()
    server = ModelRedis(table)
    recorder = Recorder()
    table.join(recorder, ["a"], [])
    server.settle()
    table.leave(recorder)
    with pytest.raises(ValueError, match="used before"):
        table.join(recorder, ["a"], [])
