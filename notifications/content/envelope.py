"""
The content of a notification: its limits, and the JSON that browsers receive.

Owns the limits, the checks and the encoding. The part that all recipients of an event share is encoded once; each
recipient's ids are inserted as bytes. Does not own tables or Redis.
"""

import datetime
import json
import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from django.utils.functional import Promise

from notifications.database import clock
from notifications.exceptions import EnvelopeTooLarge, InvalidData, InvalidField, MessageTooLong, TextTooLong

__all__ = [
    "ENVELOPE_LIMIT_BYTES",
    "KIND_LIMIT",
    "MESSAGE_LIMIT",
    "TITLE_LIMIT",
    "URL_LIMIT",
    "Content",
    "Envelope",
    "check_content",
    "check_key",
    "decode_envelope",
    "encode_common",
    "encode_envelope",
    "is_kind",
    "is_link",
]

ENVELOPE_LIMIT_BYTES = 65_536
# Characters (Unicode code points).
MESSAGE_LIMIT = 4000
TITLE_LIMIT = 200
URL_LIMIT = 2000
KIND_LIMIT = 64

# How deep lists and objects may nest in `data`. A structure that contains itself is refused by this limit too.
_DEPTH_LIMIT = 32
# The largest integer that browsers and databases both represent exactly.
_NUMBER_LIMIT = 2**53 - 1
# The size is checked before the ids are known, so it is computed with the longest ids.
_LONGEST_ID = 2**63 - 1

_KIND = re.compile(r"[a-z0-9_.-]+")
# C0, DEL and C1. A message may have tabs and line breaks.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_BUT_LINES = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# A path or an http(s) URL. Browsers ignore tabs and line breaks and read a backslash as a slash: "/\t/evil.example"
# leads to another site. So none of these may occur. items.js has the same pattern.
_LINK = re.compile(r"(?:/(?!/)|https?://)[^\x00-\x20\x7f\\]*", re.IGNORECASE | re.ASCII)


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a notification that all recipients of an event share; checked, and of plain JSON types."""

    kind: str
    title: str
    message: str
    url: str
    data: Any
    # UTC.
    created_at: datetime.datetime


class Envelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A notification for one recipient: the `data` of a `message` frame, and the field `e` of a stream entry."""

    id: int
    event_id: int
    kind: str
    title: str
    message: str
    url: str
    data: Any
    # UTC.
    created_at: datetime.datetime
    # The id of the recipient's older notification that this one replaces (collapse key). None is left out of the JSON.
    replaces: int | None = None


def check_content(
    message: Any, *, kind: Any = "info", title: Any = "", url: Any = "", data: Any = None
) -> tuple[Content, bytes]:
    """
    Check the content of a notification.

    Args:
        message: A text of 1 to 4000 characters that is not blank; it may have several lines. Like `title`, `url` and
            the texts in `data`, it may be a lazy translation of Django's; it is translated now.
        kind: The kind of event, for preferences and filters: 1 to 64 of a–z, 0–9, `_`, `.`, `-`.
        title: One line of at most 200 characters, or "".
        url: Where a click leads: a path ("/orders/7") or an http(s) address of at most 2000 characters, or "".
        data: Any JSON value: None, bool, str, int, float, list, tuple, dict with str keys. Other types (datetime,
            Decimal, UUID, …) are refused, because only the caller knows which form its clients expect. Numbers beyond
            ±(2**53 - 1) are refused, because browsers would lose digits.

    Returns:
        The content, created now, with a copy of `data`; and its bytes from `encode_common`.

    Raises:
        InvalidNotification: The subclass says which field is wrong, and what to do.
    """
    content = Content(
        kind=_check_kind(kind),
        title=_check_text("title", title, limit=TITLE_LIMIT),
        message=_check_message(message),
        url=_check_url(url),
        data=_plain_json(data, "data", _DEPTH_LIMIT),
        created_at=clock.now(),
    )
    common = encode_common(content)
    size_bytes = len(encode_envelope(common, event_id=_LONGEST_ID, notification_id=_LONGEST_ID, replaces=_LONGEST_ID))
    if size_bytes > ENVELOPE_LIMIT_BYTES:
        raise EnvelopeTooLarge(size_bytes=size_bytes, limit_bytes=ENVELOPE_LIMIT_BYTES)
    return content, common


def check_key(field: str, key: Any, *, limit: int) -> str | None:
    """A key of the caller, or None; 1 to `limit` characters, not blank. Raises InvalidNotification."""
    if key is None:
        return None
    text = _check_text(field, key, limit=limit)
    if not text.strip():
        raise InvalidField(field=field, problem="is empty: leave it out, or give it a value")
    return text


def is_kind(text: str) -> bool:
    """Whether a text is a valid key of a kind."""
    return len(text) <= KIND_LIMIT and _KIND.fullmatch(text) is not None


def is_link(url: str) -> bool:
    """Whether a URL is safe in a link: a path, http or https. (A "javascript:…" URL would run code when clicked.)"""
    return _LINK.fullmatch(url) is not None


def encode_common(content: Content) -> bytes:
    """The JSON of an envelope without its ids: the part that all recipients share."""
    return msgspec.json.encode(content)[1:]


def encode_envelope(common: bytes, *, event_id: int, notification_id: int, replaces: int | None = None) -> bytes:
    """The JSON of one recipient's `Envelope`, from the bytes of `encode_common`."""
    if replaces is None:
        return b'{"id":%d,"event_id":%d,%b' % (notification_id, event_id, common)
    return b'{"id":%d,"event_id":%d,"replaces":%d,%b' % (notification_id, event_id, replaces, common)


def decode_envelope(raw: bytes) -> Envelope:
    """
    Decode an envelope from untrusted JSON.

    Raises:
        ValueError: A field is missing or of the wrong type, the message is empty, or the URL is unsafe in a link.
    """
    try:
        envelope = _decode_envelope(raw)
    except RecursionError as error:
        raise ValueError(str(error)) from error
    if envelope.id < 1:
        raise ValueError("its id is not that of a notification")
    if not envelope.message:
        raise ValueError("its message is empty")
    if envelope.url and not is_link(envelope.url):
        raise ValueError("its url is neither a path nor an http or https address")
    return envelope


_decode_envelope = msgspec.json.Decoder(Envelope).decode


def _check_text(field: str, value: Any, *, limit: int, control: re.Pattern[str] = _CONTROL) -> str:
    if isinstance(value, Promise):
        value = str(value)
    if not isinstance(value, str):
        raise InvalidField(field=field, problem=f"is of type {type(value).__name__}: give a str")
    # A plain str: the value of an enum member, the text of a SafeString.
    text = str.__str__(value)
    if len(text) > limit:
        if field == "message":
            raise MessageTooLong(length=len(text), limit=limit)
        raise TextTooLong(field=field, length=len(text), limit=limit)
    if found := control.search(text):
        problem = f"has the control character {found.group()!a} at position {found.start()}: remove it"
        raise InvalidField(field=field, problem=problem)
    if found := _SURROGATE.search(text):
        problem = f"has half a character ({found.group()!a}) at position {found.start()}: decode the text as UTF-8"
        raise InvalidField(field=field, problem=problem)
    return text


def _check_message(value: Any) -> str:
    text = _check_text("message", value, limit=MESSAGE_LIMIT, control=_CONTROL_BUT_LINES)
    if not text.strip():
        raise InvalidField(field="message", problem="is empty: say what happened")
    return text


def _check_kind(value: Any) -> str:
    text = _check_text("kind", value, limit=KIND_LIMIT)
    if not _KIND.fullmatch(text):
        raise InvalidField(field="kind", problem=f"is {text!r}: use one or more of a–z, 0–9, '_', '.', '-'")
    return text


def _check_url(value: Any) -> str:
    text = _check_text("url", value, limit=URL_LIMIT)
    if not text:
        return text
    # Browsers read a backslash as a slash and skip white space: "/\evil.example" would lead to another site.
    if "\\" in text or any(character.isspace() for character in text):
        raise InvalidField(field="url", problem="has white space or a backslash: percent-encode it")
    if text.startswith("/") and not text.startswith("//"):
        return text
    try:
        parts = urlsplit(text)
        if parts.scheme in ("http", "https") and parts.hostname:
            return text
    except ValueError:
        pass
    raise InvalidField(field="url", problem='must be a path like "/orders/7" or start with http:// or https://')


def _plain_json(value: Any, path: str, depth: int) -> Any:
    """A copy of `value` in plain JSON types, so that later changes by the caller have no effect."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | Promise):
        return _json_text(str(value) if isinstance(value, Promise) else str.__str__(value), path)
    if isinstance(value, int):
        return _json_number(int(value), path)
    if isinstance(value, float):
        return _json_number(float(value), path)
    if depth == 0:
        raise InvalidData(path=path, problem=f"nests deeper than {_DEPTH_LIMIT} levels: flatten it")
    if isinstance(value, list | tuple):
        return [_plain_json(item, f"{path}[{index}]", depth - 1) for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {
            _json_key(key, path): _plain_json(item, f"{path}[{json.dumps(key)}]", depth - 1)
            for key, item in value.items()
        }
    problem = f"is of type {type(value).__name__}, which is not JSON: convert it, e.g. with str()"
    raise InvalidData(path=path, problem=problem)


def _json_key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        problem = f"has the key {key!r} of type {type(key).__name__}: JSON keys are texts, convert it with str()"
        raise InvalidData(path=path, problem=problem)
    return _json_text(str.__str__(key), f"a key of {path}")


def _json_text(text: str, path: str) -> str:
    if "\0" in text:
        raise InvalidData(path=path, problem="has a NUL character, which databases refuse: remove it")
    if _SURROGATE.search(text):
        raise InvalidData(path=path, problem="has half a character (a lone surrogate): decode the text as UTF-8")
    return text


def _json_number[N: (int, float)](number: N, path: str) -> N:
    if isinstance(number, float) and not math.isfinite(number):
        raise InvalidData(path=path, problem=f"is {number}, which JSON cannot represent: use None")
    if abs(number) > _NUMBER_LIMIT:
        raise InvalidData(path=path, problem="is beyond ±(2**53 - 1), where browsers lose digits: send it as a string")
    return number
