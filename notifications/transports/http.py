"""
One POST to a URL that was supplied by a user.

Owns which IP addresses may be reached, and what a status means. Does not own resolving names (names) or what is posted
(webhook, webpush).

A user's URL must not make this server connect to services that only this server can reach (server-side request
forgery). So the name is resolved here, addresses that are not public are left out, and the connection goes to exactly
the address that was checked: it does not matter if the name resolves to another address a moment later. Redirects are
not followed, only the beginning of an answer is read, and proxies and .netrc of the environment are ignored.
Connections are not reused: the receiver might close one while a request is on its way, and it would be unknown whether
the request arrived.

A URL is almost a password, so it is not logged. httpx's client logs URLs at INFO. So only its lower layer is used
(httpcore), and of that a single connection: a pool of connections of which none is reused would cost a third more CPU.
"""

import asyncio
import base64
import contextlib
import datetime
import email.utils
import functools
import ipaddress
import math
import ssl
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import httpcore
import httpx

from notifications.database import clock
from notifications.transports.names import resolver
from notifications.transports.refusals import TEMPORARY_STATUSES, is_not_now
from notifications.transports.silence import Silences
from realtime.exceptions import PermanentError, Retry
from realtime.untrusted.text import printable

__all__ = ["Answer", "audience_of", "check_url", "is_public", "post", "raise_for_status"]

# How many bytes of an answer are read, and how many characters of it and of the reason phrase are kept.
ANSWER_LIMIT_BYTES = 4096
ANSWER_LIMIT = 300
REASON_LIMIT = 60
# How many addresses of one name are tried.
CONNECT_LIMIT = 3
# The part of `timeout_seconds` after which a call counts as unanswered.
OWN_PART = 0.95
# How many unanswered calls in a row are allowed before a URL is put aside.
SILENCES_ALLOWED = 2
# The IPv6 addresses of the public internet. Python considers some addresses outside of it public, such as site-local
# ones and those with an IPv4 address in their last bits.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# Networks that are not globally reachable. Python's own table differs between its versions.
# Source: IANA's IPv4 and IPv6 Special-Purpose Address Registries.
_SPECIAL = tuple(
    ipaddress.ip_network(each)
    for each in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        # IETF protocol assignments: Teredo, benchmarking, local anycast services, ORCHIDs.
        "2001::/23",
        *("2001:db8::/32", "3fff::/20"),
    )
)
# IPv6 addresses that contain IPv4 addresses: 6to4, NAT64.
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# By URL, because other URLs of the same host may belong to other users and may answer.
_silences = Silences(allowed=SILENCES_ALLOWED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The receiver's answer."""

    status: int
    # "200 OK: " and the beginning of the body, on one line.
    text: str
    # The header Retry-After, in seconds from now.
    retry_after_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The parts of a URL that a request needs."""

    scheme: str
    # The name in ASCII, as it is sent over the network.
    host: str
    port: int
    # The path with the query, as in the request line.
    path: bytes
    # The headers that are the same in each request.
    headers: dict[str, str]


async def post(
    url: str, content: bytes, headers: Mapping[str, str], *, timeout_seconds: float, allow_private: bool, user: Hashable
) -> Answer:
    """
    POST `content` to `url`.

    Args:
        allow_private: Whether addresses that are not public may be reached; for the project's own receivers.
        user: The owner of the URL. The concurrent name lookups of each user are limited.

    Raises:
        PermanentError: The URL is invalid, or leads to an address that is not public.
        PutAside: The URL did not answer several times in a row, and is not called for a while.
        OSError, TimeoutError, or one of httpcore's exceptions: The receiver was not reached, or did not answer.
    """
    target = _target_of(url)
    _silences.check(url, target.host)
    addresses = await _resolve(target.host, target.port, allow_private=allow_private, user=user)
    try:
        # A little shorter than the caller's own timeout, so that this timeout comes first and is counted. It is for all
        # steps together, so httpcore needs no timeouts of its own.
        async with asyncio.timeout(timeout_seconds * OWN_PART):
            answer = await _post_to(addresses, target, content, headers)
    except (TimeoutError, httpcore.TimeoutException):
        _silences.note_silence(url)
        raise
    _silences.note_answer(url)
    return answer


async def _post_to(addresses: Sequence[str], target: Target, content: bytes, headers: Mapping[str, str]) -> Answer:
    """POST to the first of the addresses that accepts a connection."""
    given = {name.lower(): value for name, value in headers.items()}
    all_headers = list({**target.headers, **given, "content-length": str(len(content))}.items())
    # The certificate is checked against the name, although the connection goes to the address.
    extensions = {"sni_hostname": target.host}
    last: Exception | None = None
    for address in addresses[:CONNECT_LIMIT]:
        url = httpcore.URL(scheme=target.scheme, host=address.encode(), port=target.port, target=target.path)
        connection = httpcore.AsyncHTTPConnection(url.origin, ssl_context=_tls())
        async with contextlib.aclosing(connection):
            try:
                response = await connection.handle_async_request(
                    httpcore.Request("POST", url, headers=all_headers, content=content, extensions=extensions)
                )
            except httpcore.ConnectError as error:
                # Nothing was sent yet.
                last = error
                continue
            async with contextlib.aclosing(response):
                return await _read(response)
    raise last or OSError(f"{target.host} has no address")


def check_url(url: str) -> None:
    """Raise PermanentError unless it is an http(s) URL with a host."""
    _target_of(url)


def audience_of(endpoint: str) -> str:
    """
    The origin of a push service, which goes into the signature of each message. Source: RFC 8292, section 2.

    Raises:
        PermanentError: The endpoint is not an http(s) URL, has an IPv6 address as its host, or contains a user name.
    """
    check_url(endpoint)
    parsed = httpx.URL(endpoint)
    host = parsed.raw_host.decode("ascii")
    if ":" in host:
        raise PermanentError("not a push service: its URL has an IPv6 address instead of a host name")
    if parsed.userinfo:
        raise PermanentError("not a push service: its URL contains a user name")
    return f"{parsed.scheme}://{host}" + ("" if parsed.port is None else f":{parsed.port}")


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet. An IPv4 address inside an IPv6 address is checked too."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped
        if inner is None and parsed in _SIX_TO_FOUR:
            inner = parsed.sixtofour
        if inner is None and parsed in _NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if parsed not in _GLOBAL_UNICAST:
            return False
    return parsed.is_global and not any(parsed in network for network in _SPECIAL)


def raise_for_status(answer: Answer) -> None:
    """
    Raise the exception for a status that is not 2xx.

    Raises:
        PermanentError: 3xx, and 4xx except 408, 425, 429 and those whose text says that the refusal is temporary.
        Retry: The other statuses if there is a Retry-After.
        OSError: The other statuses without Retry-After.
    """
    status = answer.status
    if 200 <= status < 300:
        return
    if 300 <= status < 400:
        raise PermanentError(f"{answer.text} (redirects are not followed: use the URL that they lead to)")
    is_temporary = status in TEMPORARY_STATUSES or is_not_now(answer.text)
    if 400 <= status < 500 and not is_temporary:
        raise PermanentError(answer.text)
    if answer.retry_after_seconds is not None:
        raise Retry(answer.retry_after_seconds, answer.text)
    raise OSError(answer.text)


@functools.cache
def _tls() -> ssl.SSLContext:
    # Cached: reading the certificates of all authorities takes tens of milliseconds and blocks the event loop.
    return httpx.create_ssl_context(trust_env=False)


@functools.lru_cache(maxsize=1024)
def _target_of(url: str) -> Target:
    """
    The parts of the URL. Cached, because most calls go to a few receivers.

    Raises:
        PermanentError: It is not an http(s) URL with a host.
    """
    try:
        parsed = httpx.URL(url)
        has_port = parsed.port is None or 0 < parsed.port < 65_536
        is_good = parsed.scheme in ("http", "https") and bool(parsed.raw_host) and has_port
    except (ValueError, httpx.InvalidURL) as error:
        raise PermanentError(f"not a URL: {error}") from error
    if not is_good:
        raise PermanentError("not an http or https URL")
    headers = {
        "host": parsed.netloc.decode("ascii"),
        "user-agent": "Signalbox",
        "accept": "*/*",
        "accept-encoding": "identity",
    }
    if parsed.username or parsed.password:
        pair = f"{parsed.username}:{parsed.password}".encode()
        headers["authorization"] = "Basic " + base64.b64encode(pair).decode()
    return Target(
        scheme=parsed.scheme,
        host=parsed.raw_host.decode("ascii"),
        port=parsed.port or (443 if parsed.scheme == "https" else 80),
        path=parsed.raw_path,
        headers=headers,
    )


async def _resolve(host: str, port: int, *, allow_private: bool, user: Hashable) -> list[str]:
    try:
        addresses = await resolver.resolve(host, port, user=user)
    except UnicodeError as error:
        raise PermanentError(f"{host[:100]!r} is not a valid host name") from error
    allowed = addresses if allow_private else [address for address in addresses if is_public(address)]
    if addresses and not allowed:
        raise PermanentError(f"{host} is not a public address")
    return allowed


async def _read(response: httpcore.Response) -> Answer:
    body = b""
    async for chunk in response.aiter_stream():
        body += chunk
        if len(body) >= ANSWER_LIMIT_BYTES:
            break
    text = printable(" ".join(body[:ANSWER_LIMIT_BYTES].decode(errors="replace").split()), limit=ANSWER_LIMIT)
    reason = response.extensions.get("reason_phrase", b"").decode("ascii", errors="ignore")
    status = f"{response.status} {printable(reason, limit=REASON_LIMIT)}"
    retry_after = next((value for name, value in response.headers if name.lower() == b"retry-after"), b"")
    return Answer(
        status=response.status,
        text=f"{status}: {text}" if text else status,
        retry_after_seconds=_retry_after(retry_after.decode("latin-1")),
    )


def _retry_after(value: str) -> float | None:
    """Seconds, or an HTTP date; None for anything else."""
    try:
        seconds = float(value)
    except ValueError:
        pass
    else:
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    return max(0.0, (date - clock.now()).total_seconds())
