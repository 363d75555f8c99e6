"""
One filtered subscription: what its client has, and writing to it.

Owns writing the batches of a view, no faster than its client reads. Does not own the content of a batch (batches,
parts) nor when it is sent (scene).

A batch that may be large is written in parts, as the socket sends them. What changes meanwhile is not written; the
client gets it in a "reset" batch as soon as it has read the rest. The state of a key is taken when it is written, so a
slow client costs no memory and gets nothing outdated.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate, chain
from typing import Final, NamedTuple

from realtime.broker.publication import Position
from realtime.hub.sinks import FRAME_BYTES, Frame, LinesFrame, Sink
from realtime.live.filters import Selector
from realtime.live.parts import Lines
from realtime.live.places import Area
from realtime.live.watchers import NO_TILES
from realtime.protocol import messages
from realtime.protocol.close_codes import CloseCode

__all__ = ["KEYS_PER_LINE", "Lens", "View", "left_lines", "same_lines"]

# The most keys of one "left" or "same" object. With the longest keys, of 200 characters with 4 bytes each, the object
# is not larger than FRAME_BYTES.
KEYS_PER_LINE: Final = 80


class Lens(NamedTuple):
    """
    What a view lets through: the filters of its client and of the site, as an area and other conditions.

    Attributes:
        area: The part of the world.
        selector: The other conditions.
        number: The number that the client gave to its filter.
    """

    area: Area
    selector: Selector
    number: int

    def among(self, topics: frozenset[str]) -> frozenset[str]:
        """Those of these topics that it lets through."""
        return topics if self.selector.topics is None else topics & self.selector.topics


class View:
    """
    A filtered subscription of one client. Created by `Views.join`, ended by `Views.leave`.

    Args:
        view_id: The client's name of it.
        name: The topic, or the family, for which it was opened.
        sink: The socket.
        lens: Its filter.
        positions: The client's position in each topic that it resumes; None if it resumes nothing.
        end: Closes its connection, with a close code and a reason; None closes only the socket.

    Attributes:
        wanted: The newest lens, which the scene soon applies.
        has: The lens of the last complete batch; None before the first.
        watched, tiling: The area whose changes it is sent now, and its tiles; None and no tiles while its client reads
            slowly. Set by the scene.
        topics: The topics whose feeds it needs. Set by `Views`.
        untold: Topics whose positions its client may not know. Topics that are not loaded may be missing here.
        tick: If the client reads slowly, the last tick of the scene of which it has everything.
        is_behind: Whether there were changes that were not written, because the client reads slowly.
    """

    __slots__ = (
        "_batch",
        "_headers",
        "_lens",
        "_lines",
        "_next_line",
        "_tick",
        "end",
        "has",
        "is_behind",
        "is_over",
        "name",
        "positions",
        "sink",
        "tick",
        "tiling",
        "topics",
        "untold",
        "view_id",
        "wanted",
        "watched",
    )

    def __init__(
        self,
        *,
        view_id: str,
        name: str,
        sink: Sink,
        lens: Lens,
        positions: Mapping[str, Position] | None,
        end: Callable[[CloseCode, str], None] | None = None,
    ) -> None:
        self.view_id, self.name, self.sink = view_id, name, sink
        self.wanted = lens
        self.positions = positions
        self.end: Callable[[CloseCode, str], None] = end or sink.close
        self.topics: frozenset[str] = frozenset()
        self.untold: frozenset[str] = frozenset()
        self.has: Lens | None = None
        self.watched: Area | None = None
        self.tiling = NO_TILES
        self.tick = 0
        self.is_behind = self.is_over = False
        # The rest of the batch that is being written; None if there is none.
        self._lines: Iterator[bytes] | None = None
        # An object taken from it that did not fit into the last frame, or nothing.
        self._next_line: tuple[bytes, ...] = ()
        # The kind, the lens and the tick of the last batch, which may still be being written.
        self._batch, self._lens, self._tick = "", lens, 0
        # The headers of its frames, by batch and completeness, for one filter number.
        self._headers: dict[tuple[str, bool], bytes] = {}

    @property
    def is_writing(self) -> bool:
        """Whether a part of the current batch is not written yet."""
        return self._lines is not None

    @property
    def lens(self) -> Lens:
        """The lens of the last batch, which may be written only in part."""
        return self._lens

    @property
    def has_room(self) -> bool:
        """Whether the unsent data of the socket is at most a quarter of its limit."""
        return self.sink.unsent_bytes <= self.sink.limit_bytes // 4

    def tell(self, lens: Lens) -> frozenset[str]:
        """Take the untold topics that a lens lets through, to tell their positions to the client in the next batch."""
        told = lens.among(self.untold)
        self.untold -= told
        return told

    def begin(self, batch: str, lens: Lens, lines: Iterable[bytes], *, tick: int, preface: bytes | None = None) -> int:
        """
        Write a batch, in parts. The rest of an earlier batch is dropped.

        Args:
            batch: "reset" or "entered".
            lens: The lens of the view once the batch is complete.
            lines: The objects. Each is taken from it only when it is written.
            tick: The last tick of the scene of which the client then has everything.
            preface: An object to write first, in a frame of its own.

        Returns:
            How many bytes were written.
        """
        if lens.number != self._lens.number:
            self._headers.clear()
        self._batch, self._lens, self._tick = batch, lens, tick
        if preface is not None:
            self.sink.write(Frame(preface))
        if isinstance(lines, list) and self.has_room:
            size_bytes = sum(map(len, lines)) + len(lines)
            if size_bytes <= FRAME_BYTES - _HEADER_BYTES:
                # Nearly every batch: one frame, made at once.
                self._write(batch, lines, size_bytes, is_complete=True)
                self._complete()
                return size_bytes
        self._lines, self._next_line = iter(lines), ()
        return self.go_on()

    def _complete(self) -> None:
        """The batch was written."""
        self._lines = None
        self.has, self.tick = self._lens, self._tick
        self.positions = None

    def go_on(self) -> int:
        """Write more of the batch, as far as the socket has room. Returns how many bytes were written."""
        written_bytes = 0
        while self._lines is not None and self.has_room:
            part: list[bytes] = [b""]
            part_bytes = 0
            lines, self._next_line = chain(self._next_line, self._lines), ()
            for line in lines:
                part_bytes += len(line) + 1
                if part_bytes > FRAME_BYTES - _HEADER_BYTES and len(part) > 1:
                    self._next_line = (line,)
                    break
                part.append(line)
            is_complete = not self._next_line
            part[0] = self._header(self._batch, is_complete)
            payload = b"\n".join(part)
            self.sink.write(Frame(payload))
            written_bytes += len(payload)
            if is_complete:
                self._complete()
        return written_bytes

    def write_changes(self, lines: Lines, position_lines: Iterable[bytes] = ()) -> int:
        """
        Write what changed in one tick.

        Returns:
            How many bytes were written. 0 if the changes are too large to be written at once, as they may be after an
            outage: a socket with more unsent data than its limit is closed, however fast its client reads.
        """
        head = list(position_lines)
        head += [line for topic, keys in lines.left.items() for line in left_lines(topic, keys)]
        frames = [*head, *lines.frames] if head else lines.frames
        size_bytes = sum(map(len, frames)) + len(frames)
        if size_bytes > self.sink.limit_bytes // 2:
            return 0
        if size_bytes <= FRAME_BYTES - _HEADER_BYTES:
            self._write("changes", frames, size_bytes, is_complete=True)
        else:
            self._write_large(frames)
        return size_bytes

    def _write_large(self, frames: list[bytes]) -> None:
        """Write changes that need several frames."""
        # Leaves room for the line breaks, less than 1/32 of a frame: each object has more than 32 bytes.
        limit_bytes = FRAME_BYTES - _HEADER_BYTES - FRAME_BYTES // 32
        # The joined changes of a tile are taken apart only if they are larger than a frame may be.
        if max(map(len, frames)) > limit_bytes:
            frames = [
                each for frame in frames for each in (frame.split(b"\n") if len(frame) > limit_bytes else (frame,))
            ]
        ends = list(accumulate(map(len, frames)))
        start = written_bytes = 0
        while start < len(frames):
            end = max(bisect_right(ends, written_bytes + limit_bytes), start + 1)
            size_bytes, written_bytes = ends[end - 1] - written_bytes + end - start, ends[end - 1]
            self._write("changes", frames[start:end], size_bytes, is_complete=end == len(frames))
            start = end

    def _write(self, batch: str, lines: list[bytes], size_bytes: int, *, is_complete: bool) -> None:
        """Write one frame. `size_bytes` is the size of the lines and of a line break before each."""
        header = self._header(batch, is_complete)
        self.sink.write(LinesFrame(header, lines, len(header) + size_bytes))

    def _header(self, batch: str, is_complete: bool) -> bytes:
        header = self._headers.get((batch, is_complete))
        if header is None:
            header = messages.view_header(self.view_id, self._lens.number, batch, is_complete)
            self._headers[batch, is_complete] = header
        return header


# Greater than the length of any header.
_HEADER_BYTES = 200


def left_lines(topic: str, keys: list[str]) -> list[bytes]:
    """The objects that name the keys that left; each names a limited number of keys."""
    return [messages.left(topic, keys[at : at + KEYS_PER_LINE]) for at in range(0, len(keys), KEYS_PER_LINE)]


def same_lines(topic: str, keys: list[str]) -> list[bytes]:
    """The objects for keys of which the client has the newest state."""
    return [messages.same(topic, keys[at : at + KEYS_PER_LINE]) for at in range(0, len(keys), KEYS_PER_LINE)]
