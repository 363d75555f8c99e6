"""The form of what programs publish on the Redis channel `notification`."""

import json

import pytest

from notifications.workers.ingress import REQUEST_LIMIT_BYTES, Refused, Request, read_request, unknown_fields


def test_two_fields_are_enough() -> None:
    """As every program has sent them since the first version."""
    request = read_request(b'{"user_id": 42, "message": "Your order is on its way!"}')
    assert request == Request(user_id=42, message="Your order is on its way!")
    assert (request.kind, request.title, request.url, request.data, request.idempotency_key) == (
        "info",
        "",
        "",
        None,
        None,
    )


def test_all_fields_are_taken_and_others_named() -> None:
    """A program may say more than we know, and a misspelt field looks the same."""
    fields = {
        "user_id": 42,
        "message": "m",
        "kind": "order.shipped",
        "title": "t",
        "url": "/orders/7",
        "data": {"order": [7, None, 1.5]},
        "idempotency_key": "order-7",
    }
    body = json.dumps({**fields, "titel": "Warehouse", "deliver_after": 60}).encode()
    assert read_request(body) == Request(**fields)
    assert unknown_fields(body) == {"titel", "deliver_after"}


BAD = {
    "nothing": (b"", "not_json"),
    "no JSON": (b"Your order is on its way!", "not_json"),
    "cut off": (b'{"user_id": 42, "mess', "not_json"),
    "two objects": (b'{"user_id": 42, "message": "m"}{"user_id": 43, "message": "m"}', "not_json"),
    "pickled": (b"\x80\x04\x95\x0c\x00\x00\x00", "not_json"),
    "not UTF-8": (b'{"user_id": 42, "message": "\xff"}', "not_json"),
    "NaN": (b'{"user_id": 42, "message": "m", "data": NaN}', "not_json"),
    "nested without end": (b'{"user_id": 42, "message": "m", "data": ' + b"[" * 50_000, "not_json"),
    "null": (b"null", "wrong_shape"),
    "a list": (b'[{"user_id": 42, "message": "m"}]', "wrong_shape"),
    "no user": (b'{"message": "m"}', "wrong_shape"),
    "no message": (b'{"user_id": 42}', "wrong_shape"),
    "user is null": (b'{"user_id": null, "message": "m"}', "wrong_shape"),
    "user is a text": (b'{"user_id": "42", "message": "m"}', "wrong_shape"),
    "user is true": (b'{"user_id": true, "message": "m"}', "wrong_shape"),
    "user is a fraction": (b'{"user_id": 42.5, "message": "m"}', "wrong_shape"),
    "user is a list": (b'{"user_id": [42], "message": "m"}', "wrong_shape"),
    "user is endless": (b'{"user_id": ' + b"9" * 6000 + b', "message": "m"}', "wrong_shape"),
    "message is a number": (b'{"user_id": 42, "message": 7}', "wrong_shape"),
    "message is null": (b'{"user_id": 42, "message": null}', "wrong_shape"),
    "title is null": (b'{"user_id": 42, "message": "m", "title": null}', "wrong_shape"),
    "key is a number": (b'{"user_id": 42, "message": "m", "idempotency_key": 7}', "wrong_shape"),
    "oversize": (b'{"user_id": 42, "message": "' + b"m" * REQUEST_LIMIT_BYTES + b'"}', "oversize"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_has_not_the_form_is_refused_with_a_reason(name: str) -> None:
    """The reason is the word under which it is counted."""
    body, reason = BAD[name]
    with pytest.raises(Refused) as caught:
        read_request(body)
    assert caught.value.reason == reason
    assert caught.value.detail
