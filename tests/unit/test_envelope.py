"""What a notification may say, and the bytes in which it says it."""

import datetime
import decimal
import enum
import json
import uuid
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe

from notifications.content.envelope import (
    ENVELOPE_LIMIT_BYTES,
    Envelope,
    check_content,
    check_key,
    encode_common,
    encode_envelope,
)
from notifications.exceptions import (
    EnvelopeTooLarge,
    InvalidData,
    InvalidField,
    InvalidNotification,
    MessageTooLong,
    TextTooLong,
)


class Kind(enum.StrEnum):
    SHIPPED = "order.shipped"


class OldKind(str, enum.Enum):  # noqa: UP042 - how it was written before Python 3.11, and how it still comes in
    SHIPPED = "order.shipped"


class Priority(enum.IntEnum):
    HIGH = 3


def test_an_envelope_is_the_documented_object() -> None:
    """Ids first, then what all recipients share; the time is ISO 8601 in UTC."""
    content, common = check_content(
        "Your order is on its way! 🚚",
        kind="order.shipped",
        title="Order 7",
        url="/orders/7",
        data={"order": 7, "weights": [1.5, 2]},
    )
    raw = encode_envelope(common, event_id=12, notification_id=981)
    assert list(json.loads(raw).items()) == [
        ("id", 981),
        ("event_id", 12),
        ("kind", "order.shipped"),
        ("title", "Order 7"),
        ("message", "Your order is on its way! 🚚"),
        ("url", "/orders/7"),
        ("data", {"order": 7, "weights": [1.5, 2]}),
        ("created_at", content.created_at.isoformat().replace("+00:00", "Z")),
    ]
    assert content.created_at.utcoffset() == datetime.timedelta(0)
    assert b"\n" not in raw, "a frame is lines of JSON"


def test_an_envelope_decodes_as_it_was_encoded() -> None:
    """`Envelope` is what the bot reads from an entry."""
    content, common = check_content("Hello", data=[1, None, {"a": True}])
    envelope = msgspec.json.decode(encode_envelope(common, event_id=1, notification_id=2), type=Envelope)
    assert envelope == Envelope(
        id=2,
        event_id=1,
        kind="info",
        title="",
        message="Hello",
        url="",
        data=[1, None, {"a": True}],
        created_at=content.created_at,
    )
    assert encode_common(content) == common


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"message": "x"}, ("message", "x")),
        ({"message": "two\nlines\tand\r\na half"}, ("message", "two\nlines\tand\r\na half")),
        ({"message": "x" * 4000}, ("message", "x" * 4000)),
        ({"message": lazystr("translated now")}, ("message", "translated now")),
        ({"message": mark_safe("<b>safe</b>")}, ("message", "<b>safe</b>")),
        ({"title": "x" * 200}, ("title", "x" * 200)),
        ({"kind": "a-b_c.d9"}, ("kind", "a-b_c.d9")),
        ({"kind": Kind.SHIPPED}, ("kind", "order.shipped")),
        ({"kind": OldKind.SHIPPED}, ("kind", "order.shipped")),
        ({"url": "/"}, ("url", "/")),
        ({"url": "/suche/?q=ä#1"}, ("url", "/suche/?q=ä#1")),
        ({"url": lazystr("/orders/")}, ("url", "/orders/")),
        ({"url": "https://example.com/a?b=//c"}, ("url", "https://example.com/a?b=//c")),
        ({"url": "HTTP://example.com"}, ("url", "HTTP://example.com")),
        ({"data": None}, ("data", None)),
        ({"data": False}, ("data", False)),
        ({"data": (1, [2])}, ("data", [1, [2]])),
        ({"data": MappingProxyType({"a": 1})}, ("data", {"a": 1})),
        ({"data": {"priority": Priority.HIGH, Kind.SHIPPED: Kind.SHIPPED}}, None),
        ({"data": {"text": mark_safe("a"), "lazy": lazystr("b")}}, ("data", {"text": "a", "lazy": "b"})),
        ({"data": 2**53 - 1}, ("data", 2**53 - 1)),
        ({"data": "\x01 is fine in data"}, ("data", "\x01 is fine in data")),
    ],
)
def test_what_is_allowed_becomes_plain_values(fields: dict[str, Any], expected: tuple[str, Any] | None) -> None:
    """Lazy texts, enum members, tuples and the like end as the JSON types that they stand for."""
    content, common = check_content(fields.pop("message", "Hello"), **fields)
    field, value = expected or ("data", {"priority": 3, "order.shipped": "order.shipped"})
    assert getattr(content, field) == value
    assert type(getattr(content, field)) is type(value)
    assert json.loads(encode_envelope(common, event_id=1, notification_id=1))[field] == value


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"message": ""}, InvalidField, "message is empty: say what happened"),
        ({"message": " \n"}, InvalidField, "message is empty: say what happened"),
        ({"message": None}, InvalidField, "message is of type NoneType: give a str"),
        ({"message": b"x"}, InvalidField, "message is of type bytes: give a str"),
        ({"message": 5}, InvalidField, "message is of type int: give a str"),
        ({"message": "ab\0"}, InvalidField, r"message has the control character '\x00' at position 2: remove it"),
        ({"message": "\x1b[31m"}, InvalidField, r"message has the control character '\x1b' at position 0: remove it"),
        (
            {"message": "a\ud800"},
            InvalidField,
            r"message has half a character ('\ud800') at position 1: decode the text as UTF-8",
        ),
        (
            {"message": "x" * 4001},
            MessageTooLong,
            "message has 4001 characters, the limit is 4000: say it shorter and link to the rest",
        ),
        ({"title": "x" * 201}, TextTooLong, "title has 201 characters, the limit is 200: shorten it"),
        (
            {"title": "a\nBcc: x"},
            InvalidField,
            r"title has the control character '\n' at position 1: remove it",
        ),
        ({"title": None}, InvalidField, "title is of type NoneType: give a str"),
        ({"kind": "x" * 65}, TextTooLong, "kind has 65 characters, the limit is 64: shorten it"),
        ({"kind": ""}, InvalidField, "kind is '': use one or more of a–z, 0–9, '_', '.', '-'"),
        ({"kind": "Order"}, InvalidField, "kind is 'Order': use one or more of a–z, 0–9, '_', '.', '-'"),
        ({"url": "/" + "x" * 2000}, TextTooLong, "url has 2001 characters, the limit is 2000: shorten it"),
    ],
)
def test_a_text_that_is_refused_says_why(fields: dict[str, Any], error: type[Exception], text: str) -> None:
    """The error names the field, the figures and what to do."""
    with pytest.raises(error) as caught:
        check_content(fields.pop("message", "Hello"), **fields)
    assert str(caught.value) == text
    assert isinstance(caught.value, InvalidNotification)


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        "data:text/html,x",
        "//evil.example/",
        "/\\evil.example/",
        "https://",
        "https:evil",
        "http://[",
        "orders/7",
        "?page=2",
        "/a b",
        "/a\u00a0b",
        "java\tscript:alert(1)",
        " /orders",
        "ftp://example.com/",
        "mailto:a@example.com",
    ],
)
def test_a_click_never_leaves_for_anything_but_the_web(url: str) -> None:
    """A path of this site or an http(s) address; what a browser might read otherwise is refused."""
    with pytest.raises(InvalidField) as caught:
        check_content("Hello", url=url)
    assert caught.value.field == "url"


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def _endless() -> Any:
    value: dict[str, Any] = {}
    value["again"] = value
    return value


@pytest.mark.parametrize(
    ("data", "path", "problem"),
    [
        (object(), "data", "is of type object, which is not JSON: convert it, e.g. with str()"),
        ({"items": [1, {2, 3}]}, 'data["items"][1]', "is of type set"),
        ({"total": decimal.Decimal("1.20")}, 'data["total"]', "is of type Decimal"),
        ([datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)], "data[0]", "is of type datetime"),
        ({"id": uuid.uuid4()}, 'data["id"]', "is of type UUID"),
        (b"bytes", "data", "is of type bytes"),
        ({1: "x"}, "data", "has the key 1 of type int: JSON keys are texts, convert it with str()"),
        ({"a": {None: "x"}}, 'data["a"]', "has the key None of type NoneType"),
        ([float("nan")], "data[0]", "is nan, which JSON cannot represent: use None"),
        (float("-inf"), "data", "is -inf, which JSON cannot represent: use None"),
        (2**53, "data", "is beyond ±(2**53 - 1), where browsers lose digits: send it as a string"),
        (-(10**400), "data", "is beyond"),
        ([1e300], "data[0]", "is beyond"),
        ("a\0", "data", "has a NUL character, which databases refuse: remove it"),
        ({"a\0": 1}, "a key of data", "has a NUL character"),
        (["\udc00"], "data[0]", "has half a character"),
        (_nested(33), "data" + "[0]" * 32, "nests deeper than 32 levels: flatten it"),
        (_endless(), 'data["again"]' + '["again"]' * 31, "nests deeper than 32 levels: flatten it"),
    ],
)
def test_data_that_is_not_json_is_refused_with_its_place(data: Any, path: str, problem: str) -> None:
    """The error says where in `data`, what is there, and what to do."""
    with pytest.raises(InvalidData) as caught:
        check_content("Hello", data=data)
    assert caught.value.path == path
    assert caught.value.problem.startswith(problem)
    assert len(str(caught.value)) <= 401, "errors stay readable"


def test_data_nested_to_the_limit_is_allowed() -> None:
    """32 levels, as documented."""
    content, _ = check_content("Hello", data=_nested(32))
    assert content.data == _nested(32)


def test_later_changes_of_data_reach_nobody() -> None:
    """What is checked is a copy."""
    data = {"items": [1]}
    content, _ = check_content("Hello", data=data)
    data["items"].append(object())  # type: ignore[arg-type]
    assert content.data == {"items": [1]}


def test_an_envelope_may_have_64_kib_and_not_a_byte_more() -> None:
    """Counted in bytes of JSON, with the longest ids that there can be."""
    _, common = check_content("Hello", data="")
    room = ENVELOPE_LIMIT_BYTES - len(
        encode_envelope(common, event_id=2**63 - 1, notification_id=2**63 - 1, replaces=2**63 - 1)
    )
    _, common = check_content("Hello", data="x" * room)
    assert (
        len(encode_envelope(common, event_id=2**63 - 1, notification_id=2**63 - 1, replaces=2**63 - 1))
        == ENVELOPE_LIMIT_BYTES
    )
    with pytest.raises(EnvelopeTooLarge) as caught:
        check_content("Hello", data="x" * (room + 1))
    assert caught.value.size_bytes == 65_537
    assert str(caught.value) == ("envelope is 65537 bytes, the limit is 65536: publish an id and let the client fetch")


@pytest.mark.parametrize("key", [None, "x", "order-7/shipped", "x" * 255])
def test_an_idempotency_key_is_a_short_text(key: str | None) -> None:
    """Or none at all."""
    assert check_key("idempotency_key", key, limit=255) == key


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("", "idempotency_key is empty: leave it out, or give it a value"),
        ("  ", "idempotency_key is empty: leave it out, or give it a value"),
        ("x" * 256, "idempotency_key has 256 characters, the limit is 255: shorten it"),
        (7, "idempotency_key is of type int: give a str"),
        ("a\0", r"idempotency_key has the control character '\x00' at position 1: remove it"),
    ],
)
def test_an_idempotency_key_that_is_refused_says_why(key: Any, text: str) -> None:
    """An empty key would make all events one."""
    with pytest.raises(InvalidNotification) as caught:
        check_key("idempotency_key", key, limit=255)
    assert str(caught.value) == text
