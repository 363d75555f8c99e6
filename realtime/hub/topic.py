"""
One topic with subscribers in this process: its position, and what its members get next.

Owns the order and completeness of what members get. Does not read Redis: the hub passes in publications, gaps and
histories, and is notified of a gap. Does not own members nor writing (members).

How nothing is missed or doubled: the topic is subscribed to first, and its history is read afterwards. Publications
that arrive in between are held, and sent only if they follow what the history had. All members are at the same
position. A new member whose history was read at another position is brought there: either it gets what was sent since
it began to join, or it is skipped until the others have reached its position.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence

from realtime.broker.publication import (
    BATCH_MARK,
    RELEVANCE_MARK,
    Crypter,
    History,
    Position,
    decode_time,
    head_of,
    parse,
    split_batch,
    split_relevance,
)
from realtime.hub.members import Counters, Member, Members
from realtime.hub.sinks import Frame, Sink, payloads_of
from realtime.protocol import messages
from realtime.pubsub.subscriptions import Attachment
from realtime.statistics import observe

__all__ = ["LiveTopic", "Membership"]

# The limit of what waits for a history, and of what is kept for joining members: about a second of the fastest topic.
HELD_LIMIT_BYTES = 4_194_304


class Membership(Member):
    """A member of a topic, and its topic. Created by `Hub.join`, ended by `Hub.leave`."""

    __slots__ = ("topic",)

    def __init__(self, topic: "LiveTopic", sink: Sink) -> None:
        super().__init__(sink)
        self.topic = topic


class LiveTopic:
    """
    A topic with at least one member, or one that is joining.

    Args:
        name: The name of the topic.
        counters: The counters of the hub.
        crypter: Decrypts publications; None if they are not encrypted.
        on_gap: Called when publications may be missing. The history must then be read and passed to `catch_up`.
    """

    __slots__ = (
        "_counters",
        "_crypter",
        "_head",
        "_held",
        "_held_bytes",
        "_on_gap",
        "_recent",
        "_recent_bytes",
        "attachment",
        "epoch",
        "gap_count",
        "joining_count",
        "members",
        "name",
        "offset",
    )

    def __init__(
        self, name: str, *, counters: Counters, crypter: Crypter | None, on_gap: Callable[["LiveTopic"], None]
    ) -> None:
        self.name = name
        self.members = Members(counters)
        # Its subscription to Redis; set by the hub.
        self.attachment: Attachment
        # The position of the last publication sent to the members; the epoch is "" until the first history was read.
        self.offset, self.epoch = 0, ""
        # The beginning of the next publication's payload, before its offset.
        self._head = b""
        # Possible gaps since the members were last known to have everything.
        self.gap_count = 0
        # Payloads that wait until history has been read; None while nothing has to wait.
        self._held: list[bytes] | None = []
        self._held_bytes = 0
        # How many sockets are joining, and the newest frames sent since the first of them began to join.
        self.joining_count = 0
        self._recent: deque[bytes] | None = None
        self._recent_bytes = 0
        self._counters, self._crypter, self._on_gap = counters, crypter, on_gap

    @property
    def position(self) -> Position | None:
        """The position of its members; None until the first history was read."""
        return Position(self.offset, self.epoch) if self.epoch else None

    # Called by the hub ------------------------------------------------------------------------------------------------

    def take(self, payloads: list[bytes]) -> None:
        """Take messages from Redis."""
        if self._held is None:
            self._follow(payloads)
            return
        self._held += payloads
        self._held_bytes += sum(map(len, payloads))
        if self._held_bytes > HELD_LIMIT_BYTES:
            # Not a silent loss: the dropped payloads are read from history, or the members are notified.
            self.mark_gap()

    def mark_gap(self) -> None:
        """Publications may be missing: hold new ones until `catch_up`. Those held now are in the history read then."""
        self.gap_count += 1
        self._counters.gap_count += 1
        self._held, self._held_bytes = [], 0
        self._on_gap(self)

    def catch_up(self, history: History) -> None:
        """
        Bring the members to the position at which `history` was read.

        If the history does not reach back to their position, they are notified of the loss and get what is kept.
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
        """Whether a new member at position `since` needs a history that is read after it began to join."""
        return not self.epoch or (since is not None and since != self.position)

    def admit(
        self, sink: Sink, *, since: Position | None, history: History | None, preface: bytes | None
    ) -> Membership:
        """
        Admit a new member: write its "subscribed" frame and the publications that it missed, as far as they are kept.

        Args:
            since, preface: As for `Hub.join`.
            history: Read after the member began to join, if `needs_history`.
        """
        if not self.epoch:
            assert history is not None  # noqa: S101 - needs_history
            self._begin(history.position)
        start, missed = self._missed(since, history)
        if since is not None:
            self._counters.resumed_count += 1
            self._counters.unresumed_count += start != since
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

    def begin_join(self) -> None:
        """A socket begins to join: from now on, frames that are sent are kept for it."""
        self.joining_count += 1

    def end_join(self) -> None:
        """It was admitted, or has given up."""
        self.joining_count -= 1
        if not self.joining_count:
            self._forget_recent()

    # The members' position --------------------------------------------------------------------------------------------

    def _begin(self, position: Position) -> None:
        self.offset, self.epoch = position
        self._head = head_of(position.epoch)
        self._forget_recent()

    def _restart(self, position: Position, *, recovered: bool = False) -> None:
        """The topic has a new epoch: notify the members that they continue from `position` in it."""
        if not recovered:
            self._counters.unrecovered_count += len(self.members)
        self._begin(position)
        self.members.notify(messages.subscribed(self.name, position, recovered=recovered))

    def _skip_to(self, position: Position) -> None:
        """The publications up to `position` are lost: notify the members that they continue from there."""
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
        """The gap is closed: send what was held."""
        held, self._held, self._held_bytes = self._held, None, 0
        if held:
            self._follow(held)

    def _missed(self, since: Position | None, history: History | None) -> tuple[Position, Sequence[bytes]]:
        """
        The position from which a new member continues, and the publications that it gets first.

        These bring it to the position of the other members, or beyond. It continues from `since` if nothing after that
        is lost. Otherwise it continues from where the kept publications begin, or, if `since` is ahead of everything
        known, from the members' position.
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
        """The newest known publications, at least up to the members' position, and the offset before the first one."""
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

    # What members get -------------------------------------------------------------------------------------------------

    def _follow(self, payloads: Sequence[bytes]) -> None:
        """Send the publications that follow the topic's position; at a gap, stop and have the history read."""
        frames: list[bytes] = []
        head, offset, mark = self._head, self.offset, RELEVANCE_MARK[0]
        is_plain = self._crypter is None
        published_at: float | None = None
        for payload in payloads:
            # Nearly every payload is the next one, which is seen without parsing it.
            next_head = b"%b%d\n" % (head, offset + 1)
            if is_plain and payload.startswith(next_head):
                frame = payload[len(next_head) :]
                if frame and frame[0] == mark:
                    # With a key, what decides who is sent it comes before the frame; in samples, their time.
                    relevance, frame = split_relevance(frame)
                    published_at = decode_time(relevance) or published_at
                frames.append(frame)
                offset += 1
                continue
            if payload.startswith(BATCH_MARK):
                self._send(frames, offset)
                self._follow(split_batch(payload))
                if self._held is not None:
                    # It has a gap: the remaining payloads are in the history that is read now.
                    return
                frames, head, offset = [], self._head, self.offset
                continue
            publication = parse(payload, self._crypter)
            if publication is None:
                # A message for stock consumers in the group of the same name, or unreadable, which leaves a gap.
                continue
            (its_offset, its_epoch), frame, relevance = publication
            published_at = decode_time(relevance) or published_at
            if its_epoch == self.epoch and its_offset <= offset:
                continue
            if its_epoch != self.epoch and its_offset == 1:
                # The counter was reset. The last publications of the old one may be missing, unless it had none: a
                # counter without publications expires soon.
                self._send(frames, offset)
                self._restart(Position(0, its_epoch), recovered=offset == 0)
                frames, head, offset = [], self._head, 0
            if its_epoch != self.epoch or its_offset != offset + 1:
                self._send(frames, offset)
                # The remaining payloads are in the history that is read now.
                self.mark_gap()
                return
            frames.append(frame)
            offset += 1
        self._send(frames, offset)
        if published_at is not None:
            observe("publications.socket_seconds", time.time() - published_at)

    def _send(self, frames: Sequence[bytes], offset: int) -> None:
        """Send the frames that bring all members to `offset`."""
        if not frames:
            return
        self.offset = offset
        self._counters.publication_count += len(frames)
        if self.joining_count:
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
