"""
Parses WebSocket frames from clients after the handshake, and makes control frames. Source: RFC 6455.

Owns the parser: strict, without extensions, with a limit on everything that it holds, and holding nothing between
messages. Does not own sockets (connection) nor message frames to clients (sinks).
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "INTERNAL_ERROR",
    "INVALID_DATA",
    "PING",
    "PONG",
    "PROTOCOL_ERROR",
    "TEXT",
    "TOO_BIG",
    "FrameReader",
    "FramingError",
    "Incoming",
    "close_frame",
    "close_payload",
    "pong_frame",
]

# Opcodes. Source: RFC 6455, section 5.2.
CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

# Status codes. Source: RFC 6455, section 7.4.1.
PROTOCOL_ERROR: Final = 1002
NO_STATUS: Final = 1005
INVALID_DATA: Final = 1007
TOO_BIG: Final = 1009
INTERNAL_ERROR: Final = 1011

_FIN, _RESERVED, _OPCODE = 0x80, 0x70, 0x0F
_MASKED, _LENGTH = 0x80, 0x7F
_CONTROL_LIMIT_BYTES = 125
_MASK_BYTES = 4


class FramingError(Exception):
    """
    The client sent something that is not a WebSocket frame, or a frame that is not accepted.

    Attributes:
        code: The status code to close with.
        reason: A few words for the close frame.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code, self.reason = code, reason


class Incoming(NamedTuple):
    """
    One complete message or control frame.

    Attributes:
        opcode: TEXT, BINARY, CLOSE, PING or PONG; CONTINUATION for a fragment of a message that is not complete yet.
        data: Its payload, unmasked; empty for CONTINUATION.
    """

    opcode: int
    data: bytes


class FrameReader:
    """
    Splits the bytes from one client into messages.

    Args:
        limit_bytes: The largest message, over all its fragments.

    Guarantees:
        Holds at most one incomplete message and one incomplete frame, together no more than twice the limit and one
        read. A frame that is too long is refused as soon as its length is known.
    """

    __slots__ = ("_buffer", "_message", "_opcode", "limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        # An incomplete frame, and an incomplete message with its opcode; None if there is none.
        self._buffer: bytearray | None = None
        self._message: bytearray | None = None
        self._opcode = CONTINUATION

    @property
    def is_idle(self) -> bool:
        """Whether nothing is held."""
        return self._buffer is None and self._message is None

    def feed(self, data: bytes) -> Iterator[Incoming]:
        """
        Parse what was read from the socket, and yield what is complete, in order.

        Raises:
            FramingError: While iterating, after everything before the fault. The reader cannot be used any more.
        """
        if self._buffer is None:
            held: bytes | bytearray = data
        else:
            held = self._buffer
            held += data
            self._buffer = None
        at = 0
        while (frame := self._cut(held, at)) is not None:
            opcode, is_final, payload, at = frame
            yield self._take(opcode, is_final, payload)
        if at < len(held):
            self._buffer = bytearray(memoryview(held)[at:])

    def _cut(self, held: bytes | bytearray, at: int) -> tuple[int, bool, bytes, int] | None:
        """The frame at `at`: opcode, FIN, payload, and where the next one begins; None if it is incomplete."""
        if len(held) < at + 2:
            return None
        first, second = held[at], held[at + 1]
        opcode, length = first & _OPCODE, second & _LENGTH
        self._check_head(first, second, opcode, length)
        start = at + 2
        if length > _CONTROL_LIMIT_BYTES:
            size_bytes = 2 if length == 126 else 8
            if len(held) < start + size_bytes:
                return None
            length = int.from_bytes(held[start : start + size_bytes])
            start += size_bytes
        if length > self.limit_bytes - (len(self._message) if self._message is not None and opcode < CLOSE else 0):
            raise FramingError(TOO_BIG, f"a message is at most {self.limit_bytes} bytes")
        end = start + _MASK_BYTES + length
        if len(held) < end:
            return None
        mask = bytes(held[start : start + _MASK_BYTES])
        return opcode, bool(first & _FIN), apply_mask(bytes(held[start + _MASK_BYTES : end]), mask), end

    def _check_head(self, first: int, second: int, opcode: int, length: int) -> None:
        if first & _RESERVED:
            raise FramingError(PROTOCOL_ERROR, "the reserved bits must be zero: no extension was negotiated")
        if not second & _MASKED:
            raise FramingError(PROTOCOL_ERROR, "frames from clients must be masked")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise FramingError(PROTOCOL_ERROR, f"unknown opcode {opcode}")
            if not first & _FIN or length > _CONTROL_LIMIT_BYTES:
                raise FramingError(PROTOCOL_ERROR, "a control frame must be a single frame of at most 125 bytes")
        elif opcode > BINARY:
            raise FramingError(PROTOCOL_ERROR, f"unknown opcode {opcode}")
        elif (opcode == CONTINUATION) != (self._message is not None):
            raise FramingError(PROTOCOL_ERROR, "the fragments of a message must follow each other")

    def _take(self, opcode: int, is_final: bool, payload: bytes) -> Incoming:
        if opcode >= CLOSE or (is_final and opcode != CONTINUATION):
            return Incoming(opcode, payload)
        if self._message is None:
            self._message, self._opcode = bytearray(), opcode
        self._message += payload
        if not is_final:
            return Incoming(CONTINUATION, b"")
        message, self._message = bytes(self._message), None
        return Incoming(self._opcode, message)


def close_payload(data: bytes) -> tuple[int, str]:
    """
    Read the payload of a close frame: status code and reason. Source: RFC 6455, sections 5.5.1 and 7.4.

    Raises:
        FramingError: It is too short, its code is not allowed, or its reason is not UTF-8.
    """
    if not data:
        return NO_STATUS, ""
    code = int.from_bytes(data[:2])
    if len(data) < 2 or not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise FramingError(PROTOCOL_ERROR, "this is not a valid status code for a close frame")
    try:
        return code, data[2:].decode()
    except UnicodeDecodeError:
        raise FramingError(INVALID_DATA, "the reason of a close frame must be UTF-8") from None


def close_frame(code: int, reason: str = "") -> bytes:
    """A close frame from the server; a reason that is too long is cut. NO_STATUS makes an empty one."""
    payload = b"" if code == NO_STATUS else code.to_bytes(2) + reason.encode()[: _CONTROL_LIMIT_BYTES - 2]
    if len(payload) > 2:
        # Not within a character.
        payload = payload[:2] + payload[2:].decode(errors="ignore").encode()
    return bytes((_FIN | CLOSE, len(payload))) + payload


def pong_frame(data: bytes) -> bytes:
    """The answer to a ping with `data`, which is at most 125 bytes."""
    return bytes((_FIN | PONG, len(data))) + data
