"""What relay and bot accept from the stream, to which any program can write."""

from typing import Any

import msgspec
import pytest
import redis
from django.db import OperationalError

from notifications.content import stream_entry
from notifications.content.envelope import ENVELOPE_LIMIT_BYTES
from notifications.database.errors import outages
from realtime.exceptions import EntryRejected, Unavailable
from realtime.streams import Entry
from tests.support.messages import envelope

ENVELOPE = envelope(message="Unterwegs – ütf", data={"order": 1})
JSON = msgspec.json.encode(ENVELOPE)


def entry(**fields: Any) -> Entry:
    """A good entry with some fields replaced; None leaves one out."""
    merged = {"n": b"7", "u": b"42", "e": JSON, **fields}
    return Entry(b"1-1", {name.encode(): value for name, value in merged.items() if value is not None}, 1)


def with_url(url: str) -> bytes:
    return msgspec.json.encode(envelope(url=url))


@pytest.mark.parametrize("user", ["42", "3f2b7c1e-9d7a-4f0e-8c5e-0123456789ab", "alice.b_c-d", "zoë@example.com"])
def test_a_good_entry_is_read(user: str) -> None:
    """Keys of users may be numbers, UUIDs and texts; more fields than today's are no fault."""
    read = stream_entry.decode(entry(u=user.encode(), later=b"x"))
    assert (read.notification_id, read.user_id, read.envelope) == (7, user, ENVELOPE)
    assert read.json == JSON.decode()


def test_an_envelope_of_a_later_release_is_read() -> None:
    """Processes are not replaced all at once: an unknown field travels on to the browser."""
    later = JSON[:-1] + b',"collapse_key":"order-7"}'
    assert stream_entry.decode(entry(e=later)).json == later.decode()


BAD = {
    "no n": ({"n": None}, "the field n is missing"),
    "no u": ({"u": None}, "the field u is missing"),
    "no e": ({"e": None}, "the field e is missing"),
    "n is empty": ({"n": b""}, "n is not"),
    "n is a word": ({"n": b"seven"}, "n is not"),
    "n is zero": ({"n": b"0"}, "n is not"),
    "n is negative": ({"n": b"-7"}, "n is not"),
    "n is endless": ({"n": b"7" * 30}, "n is not"),
    "n has a line break": ({"n": b"7\n"}, "n is not"),
    "n has other digits": ({"n": "٧".encode()}, "n is not"),
    "u is empty": ({"u": b""}, "u is not"),
    "u is no text": ({"u": b"\xff\xfe"}, "u is not"),
    "u is too long": ({"u": b"1" * 4_097}, "u is not"),
    "e is empty": ({"e": b""}, "e is not an envelope"),
    "e is no JSON": ({"e": b"\x00\xff"}, "e is not an envelope"),
    "e is cut off": ({"e": JSON[:-3]}, "e is not an envelope"),
    "e is a list": ({"e": b"[]"}, "e is not an envelope"),
    "the url in e runs a script": (
        {"e": with_url("javascript:alert(1)")},
        "e is not an envelope: its url",
    ),
    "the url in e leaves the site": (
        {"e": with_url("/\t/evil.example")},
        "e is not an envelope: its url",
    ),
    "e lacks a field": ({"e": b'{"id":7}'}, "e is not an envelope"),
    "e has a wrong type": ({"e": JSON.replace(b'"id":7', b'"id":"7"')}, "e is not an envelope"),
    "e has a text that is no UTF-8": ({"e": JSON.replace("ü".encode(), b"\xff")}, "e is not an envelope"),
    "e hides a text that is no UTF-8": ({"e": JSON[:-1] + b',"x":"\xff"}'}, "e is not an envelope"),
    "e nests without end": ({"e": JSON.replace(b'{"order":1}', b"[" * 30_000)}, "e is not an envelope"),
    "e breaks its line": ({"e": JSON.replace(b",", b",\n")}, "e is not on one line"),
    "e is too large": ({"e": b" " * (ENVELOPE_LIMIT_BYTES + 1)}, f"e has {ENVELOPE_LIMIT_BYTES + 1} bytes"),
    "e is another one's": ({"n": b"8"}, "n and the id in e differ"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_entry_is_rejected_with_its_fault(name: str) -> None:
    """It becomes a dead letter that says what is wrong."""
    fields, reason = BAD[name]
    with pytest.raises(EntryRejected) as caught:
        stream_entry.decode(entry(**fields))
    assert caught.value.reason.startswith(reason)


def test_outages_are_told_from_failures() -> None:
    """Only the kinds that were named."""
    with pytest.raises(Unavailable, match="OperationalError: gone"), outages(OperationalError):
        raise OperationalError("gone")
    with pytest.raises(redis.ConnectionError), outages(OperationalError):
        raise redis.ConnectionError
    with pytest.raises(ValueError, match="mine"), outages(OperationalError):
        raise ValueError("mine")
