"""
The members of a topic in this process, and the loop that writes to them.

Owns writing to members: each frame is made once, a socket costs one write however many publications there are, and
nothing is decoded or awaited in the loop. Does not own what members get and when (topic).
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence

from realtime.hub.sinks import Frame, RawSink, Sink, payloads_of, wire_of
from realtime.protocol.close_codes import CloseCode

__all__ = ["Counters", "Member", "Members"]

logger = logging.getLogger(__name__)


class Counters:
    """What a hub counts; see `HubStatistics`."""

    __slots__ = (
        "delivery_count",
        "failed_count",
        "frame_count",
        "gap_count",
        "healed_count",
        "membership_count",
        "publication_count",
        "reread_count",
        "resumed_count",
        "slow_count",
        "unrecovered_count",
        "unresumed_count",
    )

    def __init__(self) -> None:
        self.publication_count = self.delivery_count = self.frame_count = 0
        self.slow_count = self.failed_count = self.healed_count = self.unrecovered_count = self.membership_count = 0
        self.reread_count = self.gap_count = self.resumed_count = self.unresumed_count = 0

    def count_reread(self) -> None:
        """A history is read again."""
        self.reread_count += 1


class Member:
    """One socket on one topic."""

    __slots__ = ("sink", "write")

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        # Called by the loop over sockets: with bytes for a raw sink, with a Frame for any other.
        self.write: Callable[..., None] = sink.write_bytes if isinstance(sink, RawSink) else sink.write


class Members:
    """The members of a topic."""

    __slots__ = ("_ahead", "_counters", "_members", "_plain", "_raw")

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        # In order of joining.
        self._members: dict[Member, None] = {}
        # Members that have been sent more than the others → up to which offset; None while there are none.
        self._ahead: dict[Member, int] | None = None
        # The other members by kind of sink, for the loops; None after a change.
        self._raw: tuple[Member, ...] | None = None
        self._plain: tuple[Member, ...] = ()

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(tuple(self._members))

    def add(self, member: Member, *, ahead_to: int | None = None) -> None:
        """Add a member. One that was already sent everything up to `ahead_to` is skipped until the others are there."""
        self._members[member] = None
        self._counters.membership_count += 1
        self._raw = None
        if ahead_to is not None:
            self._ahead = self._ahead or {}
            self._ahead[member] = ahead_to

    def drop(self, member: Member) -> None:
        """Remove a member: nothing more is written to it. Idempotent."""
        if member in self._members:
            del self._members[member]
            self._counters.membership_count -= 1
            self._raw = None
            if self._ahead is not None:
                self._ahead.pop(member, None)

    def send(self, frames: Sequence[bytes], offset: int) -> None:
        """Write the frames that bring all members to `offset`; members that are ahead get only what they lack."""
        self._broadcast(frames)
        if self._ahead is None:
            return
        for member, ahead_to in tuple(self._ahead.items()):
            if ahead_to <= offset:
                del self._ahead[member]
                self._raw = None
                for payload in payloads_of(frames[len(frames) - (offset - ahead_to) :]):
                    member.sink.write(Frame(payload))
        self._ahead = self._ahead or None

    def skip(self, to: int, line_after: Callable[[int], bytes], *, offset: int) -> int:
        """
        Notify all members that have not been sent everything up to `to` that they continue from there.

        Members that have been sent more than that are not notified, and are then ahead of the others.

        Args:
            to: The offset from which the members continue.
            line_after: Makes the object for a member that has been sent everything up to the given offset.
            offset: The offset up to which all members that are not ahead have been sent everything.

        Returns:
            How many members were notified.
        """
        self._broadcast([line_after(offset)])
        notified_count = len(self._members) - len(self._ahead or ())
        for member, ahead_to in tuple((self._ahead or {}).items()):
            if ahead_to < to:
                del self._ahead[member]  # type: ignore[union-attr]
                member.sink.write(Frame(line_after(ahead_to)))
                notified_count += 1
        self._ahead, self._raw = self._ahead or None, None
        return notified_count

    def notify(self, line: bytes) -> None:
        """Write one object to all members; after that no member is ahead of the others."""
        self._ahead = self._raw = None
        self._broadcast([line])

    def _broadcast(self, lines: Sequence[bytes]) -> None:
        raw, plain = self._raw, self._plain
        if raw is None:
            present = [each for each in self._members if self._ahead is None or each not in self._ahead]
            raw = self._raw = tuple(each for each in present if isinstance(each.sink, RawSink))
            plain = self._plain = tuple(each for each in present if not isinstance(each.sink, RawSink))
        payloads = payloads_of(lines)
        self._counters.frame_count += len(payloads)
        self._counters.delivery_count += len(lines) * (len(raw) + len(plain))
        if raw:
            self._write(raw, wire_of(payloads[0]) if len(payloads) == 1 else b"".join(map(wire_of, payloads)))
        if plain:
            for payload in payloads:
                self._write(plain, Frame(payload))

    def _write(self, members: Sequence[Member], what: bytes | Frame) -> None:
        remaining = iter(members)
        while True:
            try:
                for member in remaining:
                    member.write(what)
                return
            except Exception:
                # Only this socket failed. It has missed a frame, so it is closed, and the loop continues with the next.
                self._counters.failed_count += 1
                logger.debug("a socket accepts no more data", exc_info=True)
                self.drop(member)
                asyncio.get_running_loop().call_soon(
                    member.sink.close, CloseCode.WRITE_FAILED, "a write failed: come back with the last offset"
                )
