"""The form of a publication on Redis: cut apart as it was made, and never taken for something else."""

import logging
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from channels_redis.serializers import registry
from cryptography.fernet import Fernet, MultiFernet

from realtime.broker import publication as module
from realtime.broker.publication import (
    BATCH_MARK,
    MARK,
    History,
    Position,
    Publication,
    head_of,
    parse,
    payload_bounds,
    seal,
    seal_line,
    split_batch,
    split_relevance,
)
from realtime.broker.relevance import Relevance, encode_relevance
from realtime.untrusted.text import LimitedLog
from tests.support.relevances import decode_relevance


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch) -> LimitedLog:
    """No line is left out because of an earlier test."""
    log = LimitedLog(logging.getLogger(module.__name__))
    monkeypatch.setattr(module, "_log", log)
    return log


def payload_of(offset: int, epoch: str, before: bytes, after: bytes) -> bytes:
    """What lua/publish.lua makes."""
    number = b"%d" % offset
    return head_of(epoch) + number + b"\n" + before + number + after


BEFORE, AFTER = b'{"type":"message","topic":"news.today","offset":', ',"data":{"headline":"Zug fährt"}}'.encode()
FRAME = '{"type":"message","topic":"news.today","offset":17,"data":{"headline":"Zug fährt"}}'.encode()


def crypter() -> MultiFernet:
    return MultiFernet([Fernet(Fernet.generate_key())])


def test_a_payload_is_cut_into_place_and_frame() -> None:
    """The frame is the bytes that were put together, untouched."""
    publication = parse(payload_of(17, "m1f9", BEFORE, AFTER))
    assert publication == Publication(Position(17, "m1f9"), FRAME)


def test_an_encrypted_payload_gives_the_same_frame_and_shows_nothing() -> None:
    """Whoever reads Redis sees where a publication stands, not what it says."""
    key = crypter()
    payload = payload_of(17, "m1f9", *seal(BEFORE, AFTER, key))
    assert parse(payload, key) == Publication(Position(17, "m1f9"), FRAME)
    assert b"headline" not in payload
    assert b"news" not in payload


RELEVANCE = encode_relevance(Relevance("tram\u20287", (1, 2), {"line": 7, "text": "\u001e a\nb"}, 12))


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_the_relevance_stands_beside_the_frame(is_encrypted: bool) -> None:
    """It is one line, whatever is in it; the frame is untouched."""
    key = crypter() if is_encrypted else None
    before, after = seal(BEFORE, AFTER, key)
    line = seal_line(RELEVANCE, key)
    payload = head_of("m1f9") + b"17\n" + line + before + b"17" + after
    assert line.count(b"\n") == 1
    assert (b"tram" in payload) is not is_encrypted
    publication = parse(payload, key)
    assert publication == Publication(Position(17, "m1f9"), FRAME, RELEVANCE)
    assert decode_relevance(publication.relevance).tags == {"line": 7, "text": "\u001e a\nb"}


def test_the_relevance_is_split_off_without_reading_the_frame() -> None:
    """What follows a payload's offset; also if it is cut short."""
    assert split_relevance(seal_line(RELEVANCE, None) + FRAME) == (RELEVANCE, FRAME)
    for rest in (FRAME, b"", b'"\x1e\n"'):
        assert split_relevance(rest) == (b"", rest)
    assert split_relevance(b"\x1ecut sh") == (b"cut sh", b"")
    assert parse(head_of("m1f9") + b"17\n\x1ecut sh") is None


def test_stock_consumers_get_an_event() -> None:
    """Topic, offset, and the data as the JSON text that was published."""
    assert Publication(Position(17, "m1f9"), FRAME).as_event() == {
        "type": "realtime.message",
        "topic": "news.today",
        "offset": 17,
        "data": '{"headline":"Zug fährt"}',
    }


@pytest.mark.parametrize("message", [{}, {"type": "x"}, {f"k{number}": number for number in range(70_000)}, None, 0xC1])
def test_no_message_of_a_stock_sender_is_taken_for_a_publication(message: Any) -> None:
    """Neither MessagePack, JSON nor encrypted messages begin with the mark."""
    assert not msgpack.packb(message).startswith(MARK)
    for name in ("json", "msgpack"):
        for keys in (None, ["secret"]):
            serialized = registry.get_serializer(name, symmetric_encryption_keys=keys).serialize(message)
            assert parse(serialized) is None


@pytest.mark.parametrize("is_encrypted", [False, True])
@pytest.mark.parametrize(
    "payload",
    [
        b"\xc1",
        b"\xc1m1f9:17",
        b"\xc1m1f9:17\n",
        b"\xc1m1f9:x\n17\n",
        b"\xc1\xff:17\n",
        b"\xc1:\n",
    ],
)
def test_what_cannot_be_read_is_said_and_passed_over(
    payload: bytes, is_encrypted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A payload that is cut short or garbage is no publication: its place is seen as a gap."""
    with caplog.at_level(logging.WARNING):
        assert parse(payload, crypter() if is_encrypted else None) is None
    assert "a publication cannot be read" in caplog.text


def test_what_was_encrypted_with_another_key_cannot_be_read() -> None:
    """Nor what was not encrypted at all."""
    assert parse(payload_of(17, "m1f9", *seal(BEFORE, AFTER, crypter())), crypter()) is None
    assert parse(payload_of(17, "m1f9", BEFORE, AFTER), crypter()) is None


NEWEST = Position(10, "e")


@pytest.mark.parametrize(
    ("since", "missed"),
    [
        (Position(10, "e"), []),
        (Position(9, "e"), [b"10"]),
        (Position(7, "e"), [b"8", b"9", b"10"]),
        (Position(6, "e"), None),
        (Position(0, "e"), None),
        (Position(11, "e"), None),
        (Position(2**53, "e"), None),
        (Position(9, "f"), None),
        (Position(9, ""), None),
        (Position(0, ""), None),
    ],
)
def test_what_was_missed_is_known_or_not(since: Position, missed: list[bytes] | None) -> None:
    """Too old, of the future or of another epoch is not known, and never guessed."""
    assert History(position=NEWEST, frames=[b"8", b"9", b"10"]).since(since) == missed


def test_a_history_that_reaches_back_to_the_beginning_is_whole() -> None:
    """Who was there before the first publication gets all; also if there is none."""
    assert History(position=Position(2, "e"), frames=[b"1", b"2"]).since(Position(0, "e")) == [b"1", b"2"]
    assert History(position=Position(0, "e"), frames=[]).since(Position(0, "e")) == []


def batch_of(*payloads: bytes) -> bytes:
    """A message with several publications, as the Lua script makes it."""
    return BATCH_MARK + b"".join(b"%d\n%b" % (len(payload), payload) for payload in payloads)


def test_a_batch_is_cut_into_its_payloads() -> None:
    """Line breaks in a payload make no difference, and a message of one payload is that payload."""
    payloads = [payload_of(17, "m1f9", BEFORE, AFTER), b"\n\n", b"", payload_of(18, "m1f9", BEFORE, AFTER)]
    assert split_batch(batch_of(*payloads)) == payloads
    assert payload_bounds(payloads[0]) == [(0, len(payloads[0]))]


@pytest.mark.parametrize(
    "rest",
    [b"x\n5", b"\n5", b"-3\n5", b"-1\n5", b"-1000\n5", b"9\nshort", b"9" * 5_000 + b"\n5", b"9", b"1\n53"],
)
def test_a_batch_that_is_not_as_it_was_made(rest: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The payloads before the wrong place are read. The rest is logged, and is not read as payloads."""
    good = payload_of(17, "m1f9", BEFORE, AFTER)
    payloads = split_batch(batch_of(good) + rest)
    assert payloads == ([good, b"5"] if rest == b"1\n53" else [good])
    assert "a batch of publications cannot be read" in caplog.text


@pytest.mark.parametrize(("read", "before"), [(parse, MARK), (payload_bounds, BATCH_MARK)])
def test_a_flood_of_what_cannot_be_read_does_not_fill_the_log(
    read: Callable[[bytes], Any], before: bytes, log: LimitedLog, caplog: pytest.LogCaptureFixture
) -> None:
    """A few lines of bounded length; the others are counted."""
    for number in range(1_000):
        read(before + b"%d:x\n" % number + b"y" * 10_000)
    assert 1 <= len(caplog.records) <= 5
    assert sum(log.left_out.values()) == 1_000 - len(caplog.records)
    assert all(record.exc_info and len(record.getMessage()) < 300 for record in caplog.records)
