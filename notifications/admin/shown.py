"""
Untrusted addresses, JSON values and entries for the admin: shortened, and without secrets.

Owns the form in which they are shown. Does not own the form of a text (realtime.untrusted.shown), what counts as a
secret (realtime.untrusted.masking) nor escaping (the templates).
"""

import json
from collections.abc import Mapping
from typing import Any

from realtime.untrusted.masking import HIDDEN, TOKEN_SHOWN, host_of, is_secret_name, masked
from realtime.untrusted.shown import shown_text

__all__ = ["FIELDS_SHOWN", "shown_address", "shown_data", "shown_fields"]

# How many fields of an entry are shown.
FIELDS_SHOWN = 20
# The largest value that is parsed as JSON to mask its secrets. An envelope is never larger.
JSON_LIMIT_BYTES = 65_536


def shown_address(address: str) -> str:
    """Enough of a user's address to recognise the service: the scheme and the host, which may be a token itself."""
    scheme, mark, rest = address.partition("://")
    if not mark:
        # Not a URL: a number, or a name at a service.
        return f"{address[: min(TOKEN_SHOWN, len(address) // 2)]}…"
    return f"{scheme}://{host_of(scheme, rest)}…"


def shown_data(value: Any) -> str:
    """A JSON value, indented and without secrets."""
    return json.dumps(masked(value), indent=2, ensure_ascii=False)


def shown_fields(fields: Mapping[bytes, bytes]) -> list[tuple[str, str]]:
    """The first FIELDS_SHOWN fields of any stream's entry, as (name, value), without secrets."""
    return [
        (shown_text(name), HIDDEN if is_secret_name(shown_text(name)) else shown_text(_without_secrets(value)))
        for name, value in list(fields.items())[:FIELDS_SHOWN]
    ]


def _without_secrets(value: bytes) -> str | bytes:
    if value[:1] not in (b"{", b"[") or len(value) > JSON_LIMIT_BYTES:
        return value
    try:
        return json.dumps(masked(json.loads(value)), ensure_ascii=False)
    except (ValueError, RecursionError):
        return value
