"""The frames of signalbox.v1."""

import json
import uuid

import pytest

from realtime import protocol
from realtime.exceptions import FrameRefused


def test_hello_says_who_and_how_often_to_ping() -> None:
    """The user's primary key keeps its JSON type; a UUID becomes a string."""
    assert json.loads(protocol.hello(42)) == {"type": "hello", "user_id": 42, "ping_seconds": 25}
    key = uuid.uuid4()
    assert json.loads(protocol.hello(key))["user_id"] == str(key)


def test_a_payload_is_spliced_as_it_is() -> None:
    """Spacing, order of keys, number forms and escapes of the payload survive, since nobody decodes it."""
    payload = '{"b": 1.0, "a":"\\u00e9\\n", "c":[1e3,  null]}'
    frame = protocol.message("user.42", payload)
    assert frame == '{"type":"message","topic":"user.42","data":' + payload + "}"


def test_a_payload_never_breaks_the_line() -> None:
    """An indented payload stays one line, with the same value: objects of a frame are separated by line breaks."""
    value = {"a": ["x\ny", {"b": None}], "c": 1}
    frame = protocol.message("user.42", json.dumps(value, indent=2))
    assert "\n" not in frame
    assert json.loads(frame)["data"] == value


def test_a_topic_is_encoded() -> None:
    """Whatever a topic is called, the frame stays JSON."""
    assert json.loads(protocol.message('a"b\n', "1")) == {"type": "message", "topic": 'a"b\n', "data": 1}


@pytest.mark.parametrize("line", [b'{"type":"ping"}', b' {"type" : "ping"} ', b'{"type":"ping","since":1}'])
def test_a_ping_is_understood(line: bytes) -> None:
    """Space does not matter, and fields that a later version adds are passed over."""
    assert protocol.decode(line) == protocol.Ping(type="ping")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"ping",
        b"{",
        b'{"type":"ping"',
        b'{"type":"ping"}{"type":"ping"}',
        b'{"type":"ping","x":NaN}',
        b"\xff\xfe",
        b'{"type":"\xff"}',
        b'{"type":"ping","x":' + b"[" * 60_000,
        b'{"type":"ping","x":' + b'{"a":' * 10_000,
    ],
    ids=lambda line: repr(line[:24]),
)
def test_what_is_not_json_is_refused(line: bytes) -> None:
    """Broken, doubled, mis-encoded and bottomless JSON all end in one kind of refusal."""
    with pytest.raises(FrameRefused) as refused:
        protocol.decode(line)
    assert refused.value.code == "bad_json"
    assert len(refused.value.detail) <= 200


@pytest.mark.parametrize(
    "line",
    [
        b"1",
        b"null",
        b"[]",
        b'"ping"',
        b"{}",
        b'{"type":null}',
        b'{"type":["ping"]}',
        b'{"type":"subscribe_to_everything"}',
        b'{"Type":"ping"}',
        b'{"type":"' + b"x" * 60_000 + b'"}',
    ],
    ids=lambda line: repr(line[:24]),
)
def test_json_that_is_no_frame_is_refused(line: bytes) -> None:
    """The refusal says what is wrong, and quotes no more than a line of it."""
    with pytest.raises(FrameRefused) as refused:
        protocol.decode(line)
    assert refused.value.code == "bad_frame"
    assert 0 < len(refused.value.detail) <= 200


def test_an_error_names_a_code_and_a_sentence() -> None:
    """Programs read the code, people the detail."""
    frame = protocol.error(code="bad_json", detail='a "quoted" word')
    assert json.loads(frame) == {"type": "error", "code": "bad_json", "detail": 'a "quoted" word'}
