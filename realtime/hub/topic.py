"""
One topic that somebody in this process hears: where it stands, and what its members are sent next.

Owns the order and completeness of what they get. Does not read Redis: publications, gaps and histories are handed in by
the hub, and a hole is told to it. Does not own members nor writing (members).

How nothing is missed or doubled: the topic is subscribed to first and its history read afterwards; what comes in
between is held, and sent only where it follows on what the history gave. All members are at one position. A newcomer
whose history was read earlier or later than that is brought to it: by what was sent since it came, or by being left out
until the others have come to where it is.
"""

import itertools
from collections import deque
from collections.abc import Callable, Sequence

from realtime.broker.publication import Crypter, History, Position, head_of, parse
from realtime.hub.members import Counters, Member, Members
from realtime.hub.sinks import Frame, Sink, payloads_of
from realtime.protocol import messages
from realtime.pubsub.subscriptions import Attachment

__all__ = ["LiveTopic", "Membership"]

# What may wait for a history, and what is remembered for newcomers: about a second of the fastest topic.
HELD_LIMIT_BYTES = 4_194_304


class Membership(Member):
    """A member of a topic, as the hub hands it out. Made by `Hub.join`, ended by `Hub.leave`."""

    __slots__ = ("topic",)

    def __init__(self, topic: "LiveTopic", sink: Sink) -> None:
        super().__init__(sink)
        self.topic = topic


class LiveTopic:
    """
    A topic with at least one member, or one on its way in.

    Args:
        name: Its name.
        counters: Of the hub.
        crypter: Opens publications, where they are encrypted.
        on_gap: Called when something is missing: history is to be read, and given to `catch_up`.
    """

    __slots__ = (
        "_counters",
        "_crypter",
        "_head",
        "_held",
        "_held_bytes",
        "_on_hole",
        "_recent",
        "_recent_bytes",
        "attachment",
        "epoch",
        "gap_count",
        "members",
        "name",
        "newcomer_count",
        "offset",
    )

    def __init__(
        self, name: str, *, counters: Counters, crypter: Crypter | None, on_gap: Callable[["LiveTopic"], None]
    ) -> None:
        self.name = name
        self.members = Members(counters)
        # Its subscription to Redis; set by the hub.
        self.attachment: Attachment
        # The last publication that the members have been sent; the epoch is "" until history was read once.
        self.offset, self.epoch = 0, ""
        # What the payload of the next publication begins with, before its offset.
        self._head = b""
        # How many times something has got missing, perhaps, since the members were last known to have everything.
        self.gap_count = 0
        # Payloads that came and cannot be sent before history has been read; None while nothing has to wait.
        self._held: list[bytes] | None = []
        self._held_bytes = 0
        # How many sockets are on their way in, and what was sent since the first of them came, the newest part of it.
        self.newcomer_count = 0
        self._recent: deque[bytes] | None = None
        self._recent_bytes = 0
        self._counters, self._crypter, self._on_hole = counters, crypter, on_gap

    @property
    def position(self) -> Position | None:
        """Where its members are; None until history was read once."""
        return Position(self.offset, self.epoch) if self.epoch else None

    # What the hub hands in --------------------------------------------------------------------------------------------

    def take(self, payloads: list[bytes]) -> None:
        """Messages came from Redis."""
        if self._held is None:
            self._follow(payloads)
            return
        self._held += payloads
        self._held_bytes += sum(map(len, payloads))
        if self._held_bytes > HELD_LIMIT_BYTES:
            # Not lost in silence: what is dropped here is read from history, or told.
            self.mark_gap()

    def mark_gap(self) -> None:
        """Something may be missing: what comes is held until `catch_up`; what came is in the history read for that."""
        self.gap_count += 1
        self._held, self._held_bytes = [], 0
        self._on_hole(self)

    def catch_up(self, history: History) -> None:
        """
        Bring the members to where the topic was when `history` was read.

        If the history does not reach back to their position, they are told how much is lost, and get what it has.
        """
        position = Position(self.offset, self.epoch)
        if not self.epoch:
            self._begin(history.position)
        elif position.epoch != history.position.epoch or position.offset < history.position.offset:
            missed = history.since(position)
            if missed is None:
                self._skip_to(history.start)
            self._send(history.frames if missed is None else missed, history.position.offset)
        self.gap_count = 0
        self._release()

    def needs_history(self, since: Position | None) -> bool:
        """Whether a newcomer that was at `since` can only be let in with a history that is read after it came."""
        return not self.epoch or (since is not None and since != self.position)

    def admit(
        self, sink: Sink, *, since: Position | None, history: History | None, preface: bytes | None
    ) -> Membership:
        """
        Admit a new member: write its "subscribed" frame and the publications that it missed, as far as they are kept.

        Args:
            since, preface: As for `Hub.join`.
            history: Read since it came, if `needs_history`.
        """
        if not self.epoch:
            assert history is not None  # noqa: S101 - needs_history
            self._begin(history.position)
        start, missed = self._missed(since, history)
        lost_count = None
        if since is not None and since.epoch == start.epoch and since.offset < start.offset:
            lost_count = start.offset - since.offset
        lines = [] if preface is None else [preface]
        lines.append(messages.subscribed(self.name, start, recovered=start == since, lost_count=lost_count))
        for payload in payloads_of([*lines, *missed]):
            sink.write(Frame(payload))
        membership = Membership(self, sink)
        sent_to = start.offset + len(missed)
        self.members.add(membership, ahead_to=sent_to if sent_to > self.offset else None)
        if not self.gap_count:
            self._release()
        return membership

    def newcomer_came(self) -> None:
        """From now on, what is sent is remembered."""
        self.newcomer_count += 1

    def newcomer_went(self) -> None:
        """It was let in, or has given up."""
        self.newcomer_count -= 1
        if not self.newcomer_count:
            self._forget_recent()

    # Where the members are --------------------------------------------------------------------------------------------

    def _begin(self, position: Position) -> None:
        self.offset, self.epoch = position
        self._head = head_of(position.epoch)
        self._forget_recent()

    def _restart(self, position: Position, *, recovered: bool = False) -> None:
        """The topic has a new epoch: the members continue from `position` in it, and are told so."""
        if not recovered:
            self._counters.unrecovered_count += len(self.members)
        self._begin(position)
        self.members.tell(messages.subscribed(self.name, position, recovered=recovered))

    def _skip_to(self, position: Position) -> None:
        """The publications up to `position` are lost: the members continue from there, and are told so."""
        offset, epoch = self.offset, self.epoch
        if epoch != position.epoch:
            self._restart(position)
            return

        def line_after(offset: int) -> bytes:
            lost_count = position.offset - offset
            return messages.subscribed(self.name, position, recovered=False, lost_count=lost_count)

        self._begin(position)
        self._counters.unrecovered_count += self.members.skip(position.offset, line_after, offset=offset)

    def _release(self) -> None:
        """The position is known and whole: send what was held."""
        held, self._held, self._held_bytes = self._held, None, 0
        if held:
            self._follow(held)

    def _missed(self, since: Position | None, history: History | None) -> tuple[Position, Sequence[bytes]]:
        """
        The position from which a new member continues, and the publications that bring it to the others or beyond them.

        The position is `since` if nothing after it is lost. Otherwise it is where the kept publications begin, or the
        members' own position if `since` is ahead of all that is known.
        """
        here = Position(self.offset, self.epoch)
        if since is None or (history is None and since == here):
            return here, ()
        start, kept = self._kept(history)
        if since.epoch != here.epoch or since.offset < start:
            return Position(start, here.epoch), kept
        if since.offset > start + len(kept):
            return here, ()
        return since, kept[since.offset - start :]

    def _kept(self, history: History | None) -> tuple[int, Sequence[bytes]]:
        """The newest publications that are known, at least up to the members, and the offset after which they begin."""
        recent = self._recent or ()
        if history is not None and history.position.epoch == self.epoch:
            newer_count = self.offset - history.position.offset
            if newer_count <= 0:
                return history.start.offset, history.frames
            if newer_count <= len(recent):
                # Iterate from the end: indexing a deque costs time in proportion to the distance from its nearer end.
                newer = list(itertools.islice(reversed(recent), newer_count))
                return history.start.offset, [*history.frames, *reversed(newer)]
        return self.offset - len(recent), list(recent)

    # What the members get ---------------------------------------------------------------------------------------------

    def _follow(self, payloads: Sequence[bytes]) -> None:
        """Send what follows on the topic's position; stop at a hole, and have it filled."""
        frames: list[bytes] = []
        head, offset = self._head, self.offset
        is_plain = self._crypter is None
        for payload in payloads:
            # All but the rarest payloads are the next one, and are not taken apart to see it.
            next_head = b"%b%d\n" % (head, offset + 1)
            if is_plain and payload.startswith(next_head):
                frames.append(payload[len(next_head) :])
                offset += 1
                continue
            publication = parse(payload, self._crypter)
            if publication is None:
                # A message for stock consumers in the group of the same name; or unreadable, and then a hole.
                continue
            (its_offset, its_epoch), frame = publication
            if its_epoch == self.epoch and its_offset <= offset:
                continue
            if its_epoch != self.epoch and its_offset == 1:
                # A counter that has begun anew. What the old one had at its end may be missing, unless it had nothing:
                # one that nobody publishes on does not live long.
                self._send(frames, offset)
                self._restart(Position(0, its_epoch), recovered=offset == 0)
                frames, head, offset = [], self._head, 0
            if its_epoch != self.epoch or its_offset != offset + 1:
                self._send(frames, offset)
                # The rest of this is in the history that is read now.
                self.mark_gap()
                return
            frames.append(frame)
            offset += 1
        self._send(frames, offset)

    def _send(self, frames: Sequence[bytes], offset: int) -> None:
        """Send everybody what brings it to `offset`."""
        if not frames:
            return
        self.offset = offset
        self._counters.publication_count += len(frames)
        if self.newcomer_count:
            self._remember(frames)
        self.members.send(frames, offset)

    def _remember(self, frames: Sequence[bytes]) -> None:
        if self._recent is None:
            self._recent = deque()
        self._recent.extend(frames)
        self._recent_bytes += sum(map(len, frames))
        while self._recent_bytes > HELD_LIMIT_BYTES:
            self._recent_bytes -= len(self._recent.popleft())

    def _forget_recent(self) -> None:
        self._recent, self._recent_bytes = None, 0
