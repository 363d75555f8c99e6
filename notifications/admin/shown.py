"""
Untrusted texts for the admin: printable, shortened, and without secrets.

Owns what counts as a secret: values whose names say so, and everything in an address but the host, because the address
of a webhook or chat service works like a password. In the address of a chat service even the host is a token. Does not
own escaping (the templates).
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from realtime.untrusted.text import printable

__all__ = ["FIELDS_SHOWN", "shown_address", "shown_data", "shown_fields", "shown_text"]

HIDDEN = "•••"
# How many characters of a text and how many fields of an entry are shown.
TEXT_SHOWN = 2000
FIELDS_SHOWN = 20
# How many characters of a host are shown, and how many of the beginning of any other address, which may be a token.
HOST_SHOWN = 60
TOKEN_SHOWN = 4
# The largest value that is parsed as JSON to mask its secrets. An envelope is never larger.
JSON_LIMIT_BYTES = 65_536

_NAMES = r"pass(?:word|wd|phrase)|secret|token|api[_-]?key|authori[sz]ation|cookie|credential|signature|private[_-]?key"
_SECRET_NAME = re.compile(_NAMES, re.IGNORECASE)
# name=value, name: value and "name": "value", even if the end was cut off.
_SECRET_VALUE = re.compile(
    rf"""((?:{_NAMES})[\w-]{{0,40}}["']?\s{{0,9}}[:=]\s{{0,9}})"""
    r"""("(?:[^"\\]|\\.)*"?|(?:bearer |basic )?[^\s,;&}\]]+)""",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"""\b([a-z][a-z0-9+.-]{1,30})://([^\s"'<>\\]+)""", re.IGNORECASE)


def shown_text(raw: str | bytes) -> str:
    """The text on one line, without secrets. Of a long text, the first TEXT_SHOWN characters and its length."""
    text = raw.decode(errors="replace") if isinstance(raw, bytes) else raw
    begin = printable(" ".join(text[:TEXT_SHOWN].split()), limit=TEXT_SHOWN)
    begin = _SECRET_VALUE.sub(rf"\1{HIDDEN}", _ADDRESS.sub(_host_only, begin))
    return begin if len(text) <= TEXT_SHOWN else f"{begin}… ({len(text):,} characters)"


def shown_address(address: str) -> str:
    """Enough of a user's address to recognise the service: the scheme and the host, which may be a token itself."""
    scheme, mark, rest = address.partition("://")
    if not mark:
        # Not a URL: a number, or a name at a service.
        return f"{address[: min(TOKEN_SHOWN, len(address) // 2)]}…"
    return f"{scheme}://{_host(scheme, rest)}…"


def shown_data(value: Any) -> str:
    """A JSON value, indented and without secrets."""
    return json.dumps(_masked(value), indent=2, ensure_ascii=False)


def shown_fields(fields: Mapping[bytes, bytes]) -> list[tuple[str, str]]:
    """The first FIELDS_SHOWN fields of any stream's entry, as (name, value), without secrets."""
    return [
        (shown_text(name), HIDDEN if _SECRET_NAME.search(shown_text(name)) else shown_text(_without_secrets(value)))
        for name, value in list(fields.items())[:FIELDS_SHOWN]
    ]


def _without_secrets(value: bytes) -> str | bytes:
    if value[:1] not in (b"{", b"[") or len(value) > JSON_LIMIT_BYTES:
        return value
    try:
        return json.dumps(_masked(json.loads(value)), ensure_ascii=False)
    except (ValueError, RecursionError):
        return value


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: HIDDEN if _SECRET_NAME.search(name) else _masked(part) for name, part in value.items()}
    return [_masked(part) for part in value] if isinstance(value, list) else value


def _host_only(found: re.Match[str]) -> str:
    """The replacement for an address in a text: its scheme and host."""
    scheme, rest = found[1], found[2]
    host = _host(scheme, rest)
    return f"{scheme}://{host}" if host == rest else f"{scheme}://{host}/…"


def _host(scheme: str, rest: str) -> str:
    """The part of an address between the scheme and the path, without a password before an @, shortened."""
    host = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    return host[: HOST_SHOWN if scheme.lower() in ("http", "https") else TOKEN_SHOWN]
