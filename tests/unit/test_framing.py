"""RFC 6455 on the server's side, after the handshake: against the rules, and against the `websockets` library."""

import random
import struct
from collections.abc import Iterable

import pytest
from websockets.exceptions import ProtocolError
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import Protocol, Side

from realtime.websocket.framing import (
    BINARY,
    CLOSE,
    CONTINUATION,
    INVALID_DATA,
    PING,
    PONG,
    PROTOCOL_ERROR,
    TEXT,
    TOO_BIG,
    FrameReader,
    FramingError,
    Incoming,
    close_frame,
    close_payload,
    pong_frame,
)

LIMIT = 65_536


def masked(opcode: int, data: bytes, *, fin: bool = True) -> bytes:
    """A client's frame, made by another library."""
    return Frame(Opcode(opcode), data, fin=fin).serialize(mask=True)


def read(data: bytes, *, limit_bytes: int = LIMIT) -> list[Incoming]:
    return list(FrameReader(limit_bytes).feed(data))


def refusal(data: bytes, *, limit_bytes: int = LIMIT) -> int:
    with pytest.raises(FramingError) as refused:
        read(data, limit_bytes=limit_bytes)
    assert 0 < len(refused.value.reason) < 124
    return refused.value.code


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536])
def test_a_message_of_any_length_is_read(size: int) -> None:
    """The three ways in which a length is written, at their borders."""
    data = random.Random(size).randbytes(size)  # noqa: S311 - a schedule that can be repeated
    assert read(masked(TEXT, data)) == [(TEXT, data)]


def test_where_the_bytes_are_cut_does_not_matter() -> None:
    """One byte at a time or all at once, the same messages come, and nothing is held afterwards."""
    stream = (
        masked(TEXT, b"one")
        + masked(PING, b"p")
        + masked(TEXT, b"tw", fin=False)
        + masked(PONG, b"")
        + masked(CONTINUATION, b"", fin=False)
        + masked(CONTINUATION, b"o")
        + masked(BINARY, b"x" * 300)
        + masked(CLOSE, struct.pack("!H", 1000))
    )
    expected = [
        (TEXT, b"one"),
        (PING, b"p"),
        (CONTINUATION, b""),
        (PONG, b""),
        (CONTINUATION, b""),
        (TEXT, b"two"),
        (BINARY, b"x" * 300),
        (CLOSE, b"\x03\xe8"),
    ]
    for step in (1, 2, 3, 7, 64, len(stream)):
        reader = FrameReader(LIMIT)
        parts = (stream[start : start + step] for start in range(0, len(stream), step))
        assert [each for part in parts for each in reader.feed(part)] == expected
        assert reader.is_idle


def test_a_reader_between_messages_holds_nothing() -> None:
    """What is held is the incomplete rest, and it goes when it is complete."""
    reader = FrameReader(LIMIT)
    frame = masked(TEXT, b"hello")
    assert list(reader.feed(frame + frame[:4])) == [(TEXT, b"hello")]
    assert not reader.is_idle
    assert list(reader.feed(frame[4:])) == [(TEXT, b"hello")]
    assert reader.is_idle


@pytest.mark.parametrize(
    "data",
    [
        Frame(Opcode.TEXT, b"hi").serialize(mask=False),
        bytes((0x81 | 0x40, 0x80)) + bytes(4),
        bytes((0x81 | 0x20, 0x80)) + bytes(4),
        bytes((0x81 | 0x10, 0x80)) + bytes(4),
        bytes((0x83, 0x80)) + bytes(4),
        bytes((0x87, 0x80)) + bytes(4),
        bytes((0x8B, 0x80)) + bytes(4),
        bytes((0x8F, 0x80)) + bytes(4),
        masked(CONTINUATION, b"of nothing"),
        masked(TEXT, b"one", fin=False) + masked(TEXT, b"two"),
        masked(TEXT, b"one", fin=False) + masked(BINARY, b"two"),
        bytes((PING, 0x80)) + bytes(4),
        bytes((0x80 | PING, 0x80 | 126)) + struct.pack("!H", 126) + bytes(130),
        bytes((0x80 | CLOSE, 0x80 | 127)) + struct.pack("!Q", 1) + bytes(5),
    ],
    ids=lambda data: data[:12].hex(),
)
def test_what_the_rules_forbid_is_a_protocol_error(data: bytes) -> None:
    """No mask, reserved bits, unknown opcodes, fragments out of order, control frames in pieces or too long."""
    assert refusal(data) == PROTOCOL_ERROR
    for cut in range(1, len(data)):
        reader = FrameReader(LIMIT)
        with pytest.raises(FramingError):
            for part in (data[:cut], data[cut:]):
                list(reader.feed(part))


def test_what_is_too_long_is_refused_before_it_is_read() -> None:
    """By the length that a frame announces, and by what its fragments come to, not by what was held of it."""
    assert refusal(bytes((0x81, 0xFF)) + struct.pack("!Q", 2**62)) == TOO_BIG
    assert refusal(bytes((0x81, 0xFF)) + struct.pack("!Q", 2**64 - 1)) == TOO_BIG
    assert refusal(bytes((0x81, 0xFE)) + struct.pack("!H", 101), limit_bytes=100) == TOO_BIG
    first = masked(TEXT, b"x" * 60, fin=False)
    assert refusal(first + bytes((0x80, 0x80 | 41)), limit_bytes=100) == TOO_BIG
    assert read(first + masked(PING, b"y" * 60) + masked(CONTINUATION, b"x" * 40), limit_bytes=100)[-1] == (
        TEXT,
        b"x" * 100,
    )


def test_messages_before_the_fault_are_handed_on() -> None:
    """What came in order counts."""
    stream = FrameReader(LIMIT).feed(masked(TEXT, b"good") + b"\xff\xff")
    assert next(stream) == (TEXT, b"good")
    with pytest.raises(FramingError):
        next(stream)


def theirs(data: bytes) -> tuple[list[Incoming], bool | None]:
    """What the `websockets` library makes of a stream: its messages, and whether it refuses it, if that is decided."""
    protocol = Protocol(Side.SERVER, max_size=LIMIT)
    protocol.receive_data(data)
    found: list[Incoming] = []
    message, opcode = b"", CONTINUATION
    is_closed = False
    for event in protocol.events_received():
        assert isinstance(event, Frame)
        is_closed = event.opcode is Opcode.CLOSE
        if event.opcode in (Opcode.PING, Opcode.PONG):
            found.append(Incoming(int(event.opcode), bytes(event.data)))
        elif event.opcode is not Opcode.CLOSE:
            if event.opcode is not Opcode.CONT:
                message, opcode = b"", int(event.opcode)
            message += bytes(event.data)
            if event.fin:
                found.append(Incoming(opcode, message))
    if protocol.parser_exc is None:
        # We check the head of a frame at once, it checks most of it when it has the whole frame. So nothing is decided
        # while it waits for the rest of a frame: then it does not see a ping that follows.
        protocol.receive_data(masked(PING, b"the end"))
        is_between_frames = any(event.data == b"the end" for event in protocol.events_received())
        return found, False if is_closed or is_between_frames else None
    # It does not let a client close in the middle of a message; the RFC does.
    return found, "incomplete fragmented" not in str(protocol.parser_exc)


def ours(data: bytes) -> tuple[list[Incoming], bool]:
    found: list[Incoming] = []
    try:
        for each in FrameReader(LIMIT).feed(data):
            if each.opcode == CLOSE:
                close_payload(each.data)
                break
            if each.opcode != CONTINUATION:
                found.append(each)
    except FramingError:
        return found, True
    return found, False


def _streams(seed: int) -> Iterable[bytes]:
    chance = random.Random(seed)  # noqa: S311 - a schedule that can be repeated
    for _ in range(400):
        frames = []
        for _ in range(chance.randint(1, 6)):
            opcode = chance.choice((TEXT, TEXT, BINARY, CONTINUATION, CONTINUATION, PING, PONG, CLOSE))
            size = chance.choice((0, 1, 2, 5, 125, 126, 300, 70_000 if chance.random() < 0.05 else 200))
            fin = opcode >= CLOSE or chance.random() < 0.6
            data = chance.randbytes(min(size, 125) if opcode >= CLOSE else size)
            if opcode == CLOSE and chance.random() < 0.7:
                data = struct.pack("!H", chance.choice((1000, 1001, 1005, 1006, 3000, 4999, 5000))) + b"bye"
            frames.append(masked(opcode, data, fin=fin))
        stream = bytearray(b"".join(frames))
        for _ in range(chance.choice((0, 0, 1, 3))):
            stream[chance.randrange(min(len(stream), 20))] ^= 1 << chance.randrange(8)
        yield bytes(stream)


@pytest.mark.parametrize("seed", range(5))
def test_two_readers_agree(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two thousand streams, right, wrong and damaged: the same messages and the same verdict as `websockets`."""
    # The masks too: what a damaged frame means depends on them.
    monkeypatch.setattr("websockets.frames.secrets.token_bytes", random.Random(seed).randbytes)  # noqa: S311
    for stream in _streams(seed):
        (messages, is_refused), (expected, is_refused_there) = ours(stream), theirs(stream)
        assert messages == expected, stream[:64].hex()
        assert is_refused_there in (is_refused, None), stream[:64].hex()


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"", (1005, "")), (b"\x03\xe8", (1000, "")), (b"\x0f\xa1" + "zurück".encode(), (4001, "zurück"))],
)
def test_a_close_frame_is_read(data: bytes, expected: tuple[int, str]) -> None:
    """Without a code, with one, and with a reason."""
    assert close_payload(data) == expected


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535])
def test_codes_that_nobody_may_send_are_refused(code: int) -> None:
    """RFC 6455, section 7.4."""
    with pytest.raises(FramingError):
        close_payload(struct.pack("!H", code))
    with pytest.raises(ProtocolError):
        Close.parse(struct.pack("!H", code))


def test_broken_close_payloads_are_refused() -> None:
    """One byte is no code, and a reason is text."""
    for data, code in ((b"\x03", PROTOCOL_ERROR), (b"\x03\xe8\xff", INVALID_DATA)):
        with pytest.raises(FramingError) as refused:
            close_payload(data)
        assert refused.value.code == code


@pytest.mark.parametrize("reason", ["", "come back soon", "ü" * 100, "😀" * 100, "x" * 124])
def test_a_close_frame_is_written_as_another_library_reads_it(reason: str) -> None:
    """A reason that is too long is cut between two characters."""
    client = Protocol(Side.CLIENT)
    client.receive_data(close_frame(4001, reason))
    assert client.close_rcvd is not None
    assert client.close_rcvd.code == 4001
    assert reason.startswith(client.close_rcvd.reason)
    assert len(client.close_rcvd.reason.encode()) >= min(len(reason.encode()), 120)


def test_a_close_without_a_code_is_answered_by_one_without() -> None:
    """1005 is never sent."""
    assert close_frame(1005) == b"\x88\x00"


def test_a_pong_bears_what_the_ping_bore() -> None:
    """As another library reads it."""
    client = Protocol(Side.CLIENT)
    client.receive_data(pong_frame(b"x" * 125))
    (pong,) = client.events_received()
    assert isinstance(pong, Frame)
    assert (pong.opcode, bytes(pong.data)) == (Opcode.PONG, b"x" * 125)
