"""
The Origin check: which pages may open a WebSocket.

Owns the comparison of origins, and the ASGI middleware that refuses others. Does not own who the user is
(authentication) nor what happens after accept (consumer).

A browser sends the user's cookies with a WebSocket whichever page opens it. Without this check, any page on the web
could read a signed-in user's notifications.
"""

import functools
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from django.conf import settings
from django.http.request import split_domain_port, validate_host

from realtime.conf import get_settings
from realtime.protocol.close_codes import CloseCode
from realtime.untrusted.text import LimitedLog
from realtime.websocket.counters import counters

__all__ = ["Origin", "OriginCheck", "is_allowed"]

logger = logging.getLogger(__name__)
_log = LimitedLog(logger)

_SHOWN_CHARACTERS = 200
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """
    A page's origin, in lower case.

    Attributes:
        scheme: "https", "http", or an app's own ("capacitor").
        host: A host name, or an IPv6 address in brackets.
        port: Decimal digits; the scheme's own port if none was given, empty if it has none.

    Source:
        RFC 6454, section 6.2: scheme "://" host [ ":" port ].
    """

    scheme: str
    host: str
    port: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse an origin; None for "null", a URL with a path, several origins, or anything else."""
        # Lower-casing may turn a non-ASCII letter into an ASCII one, so these are refused first.
        match = _ORIGIN.fullmatch(text.lower()) if text.isascii() else None
        if match is None:
            return None
        scheme, host, port = match.groups(default="")
        return cls(scheme=scheme, host=host.removesuffix("."), port=port or _DEFAULT_PORTS.get(scheme, ""))


def is_allowed(origin: str, *, host: str, allowed_hosts: Iterable[str], allowed_origins: Iterable[str]) -> bool:
    """
    Whether a page of `origin` may open a WebSocket on `host`.

    Args:
        origin: The Origin header.
        host: The Host header, already known to be one of this site's.
        allowed_hosts: ALLOWED_HOSTS. A "*" does not count here: it means that any name leads to this site, not that
            any site may use it.
        allowed_origins: Origins that are allowed whatever the host is.

    Returns:
        True if the origin is in `allowed_origins`, is the site itself (same host and port), or has a host in
        `allowed_hosts`.
    """
    page = Origin.parse(origin)
    if page is None:
        return False
    if any(page == Origin.parse(allowed) for allowed in allowed_origins):
        return True
    if page.scheme not in _DEFAULT_PORTS:
        return False
    name, port = split_domain_port(host)
    if (page.host, page.port) == (name, port or _DEFAULT_PORTS[page.scheme]):
        return True
    return validate_host(page.host, [pattern for pattern in allowed_hosts if pattern != "*"])


class OriginCheck:
    """
    ASGI middleware for WebSockets: refuses foreign pages and foreign host names with HTTP 403, before accept.

    A client that sends no Origin passes: every browser sends one, and nothing else carries another person's cookies.

    Args:
        application: The ASGI application for connections that pass.
    """

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        problem = _problem(scope)
        if problem is None:
            await self.application(scope, receive, send)
            return
        counters.closed[CloseCode.FORBIDDEN_ORIGIN] += 1
        _log.warning("refused", "WebSocket refused: %s", problem)
        await receive()
        await send({"type": "websocket.close", "code": CloseCode.FORBIDDEN_ORIGIN})


def _problem(scope: dict[str, Any]) -> str | None:
    allowed_hosts = settings.ALLOWED_HOSTS
    if settings.DEBUG and not allowed_hosts:
        # As HttpRequest.get_host() does.
        allowed_hosts = [".localhost", "127.0.0.1", "[::1]"]

    forwarded = _values(scope, b"x-forwarded-host") if settings.USE_X_FORWARDED_HOST else ()
    hosts, origins = forwarded or _values(scope, b"host"), _values(scope, b"origin")
    return _judge(hosts, origins, tuple(allowed_hosts), tuple(get_settings().allowed_origins))


# The pages of a site send the same few headers in every handshake. The limit keeps other clients from filling memory.
@functools.lru_cache(maxsize=64)
def _judge(
    hosts: tuple[str, ...], origins: tuple[str, ...], allowed_hosts: tuple[str, ...], allowed_origins: tuple[str, ...]
) -> str | None:
    host = hosts[0] if len(hosts) == 1 else ""
    name, _ = split_domain_port(host)
    if not name or not validate_host(name, allowed_hosts):
        return f"its Host header {_shown(hosts)} is not a host of this site: add it to ALLOWED_HOSTS if it should be"

    if not origins:
        return None
    if len(origins) == 1 and is_allowed(
        origins[0], host=host, allowed_hosts=allowed_hosts, allowed_origins=allowed_origins
    ):
        return None
    return (
        f"origin {_shown(origins)} is foreign to {host[:_SHOWN_CHARACTERS]}: "
        'add it to REALTIME["ALLOWED_ORIGINS"] if its pages may connect'
    )


def _values(scope: dict[str, Any], name: bytes) -> tuple[str, ...]:
    return tuple([value.decode("latin1") for key, value in scope.get("headers") or () if key == name])


def _shown(values: tuple[str, ...]) -> str:
    # repr() keeps line breaks and control characters out of the log.
    return repr(", ".join(values))[:_SHOWN_CHARACTERS]
