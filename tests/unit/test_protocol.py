"""The frames of signalbox.v1."""

import json
import uuid

import pytest

from realtime.broker.publication import Position
from realtime.exceptions import FrameRefused
from realtime.protocol import messages


def test_hello_says_who_and_how_often_to_ping() -> None:
    """A number stays one where browsers can hold it; any other primary key becomes a text."""
    expected = {"type": "hello", "user_id": 42, "topic": "user.42", "ping_seconds": 25}
    assert json.loads(messages.hello(42, "user.42")) == expected
    for key in (uuid.uuid4(), 2**53, -(2**53), 'a"b'):
        assert json.loads(messages.hello(key, "user.x"))["user_id"] == str(key)
    assert json.loads(messages.hello(2**53 - 1, "user.x"))["user_id"] == 2**53 - 1


@pytest.mark.parametrize("recovered", [True, False])
def test_subscribed_says_where_the_topic_stands(recovered: bool) -> None:
    """The position that a client comes back with, and whether it has missed nothing."""
    frame = messages.subscribed("news.today", Position(16, "m1f9"), recovered=recovered)
    expected = {"type": "subscribed", "topic": "news.today", "offset": 16, "epoch": "m1f9", "recovered": recovered}
    assert json.loads(frame) == expected


@pytest.mark.parametrize("topic", ['a"b\n', "ü", "x" * 255])
def test_a_topic_is_encoded(topic: str) -> None:
    """Whatever a client calls a topic, what it is told of it is one line of JSON."""
    for frame in (messages.unsubscribed(topic), messages.error(code="unknown_topic", detail="", topic=topic)):
        assert b"\n" not in frame
        assert json.loads(frame)["topic"] == topic


@pytest.mark.parametrize("line", [b'{"type":"ping"}', b' {"type" : "ping"} ', b'{"type":"ping","since":1}'])
def test_a_ping_is_understood(line: bytes) -> None:
    """Space does not matter, and fields that a later version adds are passed over."""
    assert messages.decode(line) == messages.Ping()


def test_every_frame_of_a_client_is_understood() -> None:
    """Optional fields may be left out; an offset without an epoch is a position too."""
    for line, frame in (
        ('{"type":"subscribe","topic":"news.today"}', messages.Subscribe(topic="news.today")),
        (
            '{"type":"subscribe","topic":"news.today","offset":16,"epoch":"m1f9"}',
            messages.Subscribe(topic="news.today", offset=16, epoch="m1f9"),
        ),
        ('{"type":"unsubscribe","topic":"news.today"}', messages.Unsubscribe(topic="news.today")),
        ('{"type":"unsubscribe","topic":"v.*","view":"v-1_A"}', messages.Unsubscribe(topic="v.*", view="v-1_A")),
        ('{"type":"ack","topic":"user.42","offset":0}', messages.Ack(topic="user.42", offset=0)),
        ('{"type":"read","ids":[1,9007199254740991]}', messages.Read(ids=[1, 2**53 - 1])),
    ):
        assert messages.decode(line) == frame
        assert messages.decode(line.encode()) == frame
    assert messages.Subscribe(topic="a").since() is None
    assert messages.Subscribe(topic="a", offset=0).since() == Position(0, "")


def test_a_view_is_opened_with_a_filter() -> None:
    """The filter is not decoded with the frame, so that its errors can name the view."""
    frame = messages.decode('{"type":"subscribe","topic":"v.*","view":"v1","number":3,"filter":{"zoom":9}}')
    assert isinstance(frame, messages.Subscribe)
    assert (frame.topic, frame.view, frame.number, frame.positions_by_topic()) == ("v.*", "v1", 3, None)
    assert json.loads(bytes(frame.filter)) == {"zoom": 9}
    frame = messages.decode(
        '{"type":"subscribe","topic":"v.*","view":"v1","filter":{},"positions":{"v.a":[812,"m1f9"],"v.b":[0,""]}}'
    )
    assert isinstance(frame, messages.Subscribe)
    assert frame.positions_by_topic() == {"v.a": Position(812, "m1f9"), "v.b": Position(0, "")}


def test_a_filter_is_replaced_in_place() -> None:
    """The frame names the view and the number of the filter."""
    frame = messages.decode('{"type":"filter","view":"v1","number":2,"filter":{}}')
    assert isinstance(frame, messages.SetFilter)
    assert (frame.view, frame.number, bytes(frame.filter)) == ("v1", 2, b"{}")


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (
            messages.view_header("v1", 2, "reset", False),
            {"type": "view", "view": "v1", "number": 2, "batch": "reset", "complete": False},
        ),
        (messages.subscribed_view("v.*", "v1"), {"type": "subscribed", "topic": "v.*", "view": "v1"}),
        (messages.left("v.a", ["tram-7", 'a"b']), {"type": "left", "topic": "v.a", "keys": ["tram-7", 'a"b']}),
        (messages.same("v.a", ["bus-3"]), {"type": "same", "topic": "v.a", "keys": ["bus-3"]}),
        (
            messages.position("v.a", Position(812, "m1f9")),
            {"type": "position", "topic": "v.a", "offset": 812, "epoch": "m1f9"},
        ),
        (messages.unsubscribed("v.*", view="v1"), {"type": "unsubscribed", "topic": "v.*", "view": "v1"}),
        (
            messages.unsubscribed("v.*", view="v1", code="forbidden", detail="no"),
            {"type": "unsubscribed", "topic": "v.*", "view": "v1", "code": "forbidden", "detail": "no"},
        ),
        (
            messages.error(code="bad_filter", detail="filter: no", topic="v.*", view="v1", number=2),
            {"type": "error", "code": "bad_filter", "detail": "filter: no", "topic": "v.*", "view": "v1", "number": 2},
        ),
        (
            messages.error(code="unknown_view", detail="no", view="v1"),
            {"type": "error", "code": "unknown_view", "detail": "no", "view": "v1"},
        ),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else None,
)
def test_the_objects_of_a_view(frame: bytes, expected: dict[str, object]) -> None:
    """Each is one line of JSON with exactly the documented fields."""
    assert b"\n" not in frame
    assert json.loads(frame) == expected


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
        b'{"type":"filter","view":"v1","number":1,"filter":{"a":NaN}}',
        b'{"type":"filter","view":"v1","number":1,"filter":{"a":"\\ud800"}}',
        b'{"type":"filter","view":"v1","number":1,"filter":{"$not":' + b'{"$not":' * 7_000,
        b'{"type":"filter","view":"v1","number":1,"filter":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    ],
    ids=lambda line: repr(line[:24]),
)
def test_what_is_not_json_is_refused(line: bytes) -> None:
    """Broken, doubled, mis-encoded and bottomless JSON all end in one kind of refusal."""
    with pytest.raises(FrameRefused) as refused:
        messages.decode(line)
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
        b'{"type":"subscribe"}',
        b'{"type":"subscribe","topic":null}',
        b'{"type":"subscribe","topic":""}',
        b'{"type":"subscribe","topic":"' + b"x" * 256 + b'"}',
        b'{"type":"subscribe","topic":"a","offset":-1}',
        b'{"type":"subscribe","topic":"a","offset":9007199254740992}',
        b'{"type":"subscribe","topic":"a","offset":1' + b"0" * 5_000 + b"}",
        b'{"type":"subscribe","topic":"a","offset":1.5}',
        b'{"type":"subscribe","topic":"a","offset":"1"}',
        b'{"type":"subscribe","topic":"a","offset":true}',
        b'{"type":"subscribe","topic":"a","epoch":"' + b"x" * 33 + b'"}',
        b'{"type":"subscribe","topic":"a","view":"v1"}',
        b'{"type":"subscribe","topic":"a","filter":{}}',
        b'{"type":"subscribe","topic":"a","positions":{}}',
        b'{"type":"subscribe","topic":"a","view":"v1","filter":{},"offset":1}',
        b'{"type":"subscribe","topic":"a","view":"","filter":{}}',
        b'{"type":"subscribe","topic":"a","view":"v 1","filter":{}}',
        b'{"type":"subscribe","topic":"a","view":"v1\\n","filter":{}}',
        b'{"type":"subscribe","topic":"a","view":"\xc3\xbc","filter":{}}',
        b'{"type":"subscribe","topic":"a","view":1,"filter":{}}',
        b'{"type":"subscribe","topic":"a","view":"' + b"x" * 33 + b'","filter":{}}',
        b'{"type":"subscribe","topic":"a","view":"v1","filter":{},"number":-1}',
        b'{"type":"subscribe","topic":"a","view":"v1","filter":{},"number":1.5}',
        b'{"type":"subscribe","topic":"a","view":"v1","filter":{},"number":9007199254740992}',
        b'{"type":"subscribe","topic":"a","view":"v1","filter":{},"positions":[]}',
        b'{"type":"subscribe","topic":"a","view":"v1","filter":{},"positions":{"a":1}}',
        b'{"type":"subscribe","topic":"a","view":"v1","filter":{},"positions":{"a":[1]}}',
        b'{"type":"subscribe","topic":"a","view":"v1","filter":{},"positions":{"a":[1,"e",2]}}',
        b'{"type":"subscribe","topic":"a","view":"v1","filter":{},"positions":{"a":["e",1]}}',
        b'{"type":"subscribe","topic":"a","view":"v1","filter":{},"positions":{"a":[-1,"e"]}}',
        b'{"type":"subscribe","topic":"a","view":"v1","filter":{},"positions":{"":[1,"e"]}}',
        b'{"type":"subscribe","topic":"a","view":"v1","filter":{},"positions":{'
        + b",".join(b'"%d":[1,"e"]' % number for number in range(513))
        + b"}}",
        b'{"type":"filter","filter":{}}',
        b'{"type":"filter","view":"v1","number":1}',
        b'{"type":"filter","view":"v1","filter":{}}',
        b'{"type":"filter","view":null,"number":1,"filter":{}}',
        b'{"type":"filter","view":"v1","number":"1","filter":{}}',
        b'{"type":"filter","view":"v1","number":true,"filter":{}}',
        b'{"type":"unsubscribe","topic":["a"]}',
        b'{"type":"unsubscribe","topic":"a","view":"a.b"}',
        b'{"type":"ack","topic":"a"}',
        b'{"type":"ack","topic":"a","offset":null}',
        b'{"type":"read","ids":7}',
        b'{"type":"read","ids":[0]}',
        b'{"type":"read","ids":["1"]}',
        b'{"type":"read","ids":[' + b",".join([b"1"] * 1_001) + b"]}",
        b'{"type":"message","topic":"a","offset":1,"data":1}',
    ],
    ids=lambda line: repr(line[:60]),
)
def test_json_that_is_no_frame_is_refused(line: bytes) -> None:
    """The refusal says what is wrong, and quotes no more than a line of it."""
    with pytest.raises(FrameRefused) as refused:
        messages.decode(line)
    assert refused.value.code == "bad_frame"
    assert 0 < len(refused.value.detail) <= 200


def test_text_that_is_no_unicode_is_refused() -> None:
    """A lone surrogate, which Daphne and uvicorn never hand on."""
    with pytest.raises(FrameRefused) as refused:
        messages.decode('{"type":"ping","x":"\ud800"}')
    assert refused.value.code == "bad_json"


def test_an_error_names_a_code_and_a_sentence() -> None:
    """Programs read the code, people the detail."""
    frame = messages.error(code="bad_json", detail='a "quoted" word')
    assert json.loads(frame) == {"type": "error", "code": "bad_json", "detail": 'a "quoted" word'}
