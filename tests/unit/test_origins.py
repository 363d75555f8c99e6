"""Which pages may open a WebSocket."""

import logging
from typing import Any

import pytest

from realtime.untrusted.text import LimitedLog
from realtime.websocket import origins
from realtime.websocket.origins import Origin, OriginCheck, is_allowed

HOSTS = ["shop.example", ".wide.example", "127.0.0.1", "[::1]", "*"]
ORIGINS = ["https://partner.example", "capacitor://localhost", "http://dev.example:3000"]


def allowed(origin: str, host: str = "other.example") -> bool:
    return is_allowed(origin, host=host, allowed_hosts=HOSTS, allowed_origins=ORIGINS)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://other.example", "other.example"),
        ("https://other.example", "other.example"),
        ("https://other.example", "other.example:443"),
        ("https://other.example:443", "other.example"),
        ("http://other.example:8000", "other.example:8000"),
        ("http://[2001:db8::1]:8000", "[2001:db8::1]:8000"),
        ("HTTP://Other.Example", "OTHER.example"),
    ],
)
def test_a_page_of_the_site_itself_is_allowed(origin: str, host: str) -> None:
    """Same host and port as the Host header; a scheme's own port may be spelled or not."""
    assert allowed(origin, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://other.example:8001", "other.example:8000"),
        ("http://other.example", "other.example:8000"),
        ("http://another.example:8000", "other.example:8000"),
        ("http://sub.other.example", "other.example"),
        ("http://other.example.evil.example", "other.example"),
        ("http://evilother.example", "other.example"),
    ],
)
def test_a_page_of_another_site_is_refused(origin: str, host: str) -> None:
    """One other letter, label or port makes another site."""
    assert not allowed(origin, host)


@pytest.mark.parametrize(
    "origin",
    [
        "https://shop.example",
        "http://shop.example:3000",
        "https://a.wide.example",
        "https://wide.example",
        "http://[::1]",
    ],
)
def test_a_page_of_a_host_of_allowed_hosts_is_allowed(origin: str) -> None:
    """ALLOWED_HOSTS names the site's own hosts, so their pages are the site's, on any port."""
    assert allowed(origin)


def test_the_wildcard_of_allowed_hosts_allows_no_origin() -> None:
    """ALLOWED_HOSTS = ["*"] means any name leads to this site, not that any site may use it."""
    assert not is_allowed("https://evil.example", host="shop.example", allowed_hosts=["*"], allowed_origins=[])
    assert is_allowed("https://shop.example", host="shop.example", allowed_hosts=["*"], allowed_origins=[])


def test_an_allowed_origin_is_allowed_exactly() -> None:
    """Scheme, host and port must all be as the setting has them."""
    assert allowed("https://partner.example")
    assert allowed("https://partner.example:443")
    assert allowed("capacitor://localhost")
    assert allowed("http://dev.example:3000")
    assert not allowed("http://partner.example")
    assert not allowed("https://partner.example:8443")
    assert not allowed("https://sub.partner.example")
    assert not allowed("http://dev.example")


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "file://",
        "shop.example",
        "//shop.example",
        "https://",
        "https://shop.example/",
        "https://shop.example/path",
        "https://user@shop.example",
        "https://shop.example:",
        "https://shop.example:99999999",
        "https://shop.example https://evil.example",
        "https://evil.example, https://shop.example",
        "https://shop.example\n",
        "https://sh\top.example",
        "https://shop.example\x00",
        "https://ſhop.example",
        "chrome-extension://shop.example",
        "https://[::1",
        "https://%73hop.example",
    ],
)
def test_what_is_no_web_origin_is_refused(origin: str) -> None:
    """Sandboxed pages, files, extensions, lists of origins and look-alikes never match."""
    assert not allowed(origin, "shop.example")


def test_an_origin_is_normalised() -> None:
    """Lower case, without a trailing dot, with its port filled in."""
    assert Origin.parse("HTTPS://Shop.Example.") == Origin(scheme="https", host="shop.example", port="443")
    assert Origin.parse("app://x") == Origin(scheme="app", host="x", port="")


async def test_refused_connections_do_not_fill_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can cause them: each is closed, and a few are logged."""
    log = LimitedLog(logging.getLogger(origins.__name__))
    monkeypatch.setattr(origins, "_log", log)
    sent: list[Any] = []

    async def receive() -> None:
        pass

    async def send(event: Any) -> None:
        sent.append(event["type"])

    headers = [(b"host", b"localhost"), (b"origin", b"https://evil.example")]
    for _ in range(50):
        await OriginCheck(None)({"type": "websocket", "headers": headers}, receive, send)
    assert sent == ["websocket.close"] * 50
    assert 1 <= len(caplog.records) <= 5
    assert log.left_out == {"refused": 50 - len(caplog.records)}
