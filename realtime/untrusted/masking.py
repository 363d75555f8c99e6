"""
Hides secrets in what is shown to people: values whose names say so, and everything in an address but the host.

The address of a webhook or chat service works like a password. In the address of a chat service even the host is a
token. Owns what counts as a secret. Does not own making text printable (text), nor what is shown where.
"""

import re
from collections.abc import Callable
from typing import Any

__all__ = ["HIDDEN", "TOKEN_SHOWN", "host_of", "is_secret_name", "mask_begin", "mask_text", "masked"]

HIDDEN = "•••"
# How many characters of a host are shown, and how many of the beginning of any other address, which may be a token.
HOST_SHOWN = 60
TOKEN_SHOWN = 4

_NAMES = r"pass(?:word|wd|phrase)|secret|token|api[_-]?key|authori[sz]ation|cookie|credential|signature|private[_-]?key"
_SECRET_NAME = re.compile(_NAMES, re.IGNORECASE)
# name=value, name: value and "name": "value", even if the end was cut off.
_SECRET_VALUE = re.compile(
    rf"""((?:{_NAMES})[\w-]{{0,40}}["']?\s{{0,9}}[:=]\s{{0,9}})"""
    r"""("(?:[^"\\]|\\.)*"?|(?:bearer |basic )?[^\s,;&}\]]+)""",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"""\b([a-z][a-z0-9+.-]{1,30})://([^\s"'<>\\]+)""", re.IGNORECASE)
# user:password of which the "@" is missing. A port has no letters, and an IPv6 address is in brackets.
_PASSWORD = re.compile(r"[^\[:]*:.*[^\W\d]")


def is_secret_name(name: str) -> bool:
    """Whether what has this name is a secret."""
    return _SECRET_NAME.search(name) is not None


def mask_text(text: str) -> str:
    """The text without secrets. If it was cut, it must end with "…": an address before that may lack its "@"."""
    return _SECRET_VALUE.sub(rf"\1{HIDDEN}", _ADDRESS.sub(_host_only, text))


def mask_begin(text: str, *, limit: int) -> str:
    """The first `limit` characters of a text, without secrets; "…" follows if there is more."""
    return mask_text(text if len(text) <= limit else f"{text[:limit]}…")


def masked(
    value: Any, *, is_secret: Callable[[str], bool] = is_secret_name, text: Callable[[str], str] | None = None
) -> Any:
    """
    A JSON value in which the values of secret names are hidden, at any depth.

    Args:
        is_secret: Decides by the name.
        text: Applied to each other text, names included; None leaves texts as they are.
    """
    if isinstance(value, dict):
        return {
            text(name) if text else name: HIDDEN if is_secret(name) else masked(part, is_secret=is_secret, text=text)
            for name, part in value.items()
        }
    if isinstance(value, list):
        return [masked(part, is_secret=is_secret, text=text) for part in value]
    return text(value) if text and isinstance(value, str) else value


def host_of(scheme: str, rest: str) -> str:
    """
    The part of an address between the scheme and the path, without a password before an @, shortened.

    If the address was cut within this part ("…"), or if it looks like a user and a password, the "@" may be missing.
    So only the beginning is returned.
    """
    before_path = re.split(r"[/?#]", rest, maxsplit=1)[0]
    host = before_path.rpartition("@")[2]
    is_host = scheme.lower() in ("http", "https") and "…" not in before_path and not _PASSWORD.match(host)
    return host[: HOST_SHOWN if is_host else TOKEN_SHOWN]


def _host_only(found: re.Match[str]) -> str:
    """The replacement for an address in a text: its scheme and host."""
    scheme, rest = found[1], found[2]
    host = host_of(scheme, rest)
    return f"{scheme}://{host}" if host == rest else f"{scheme}://{host}/…"
