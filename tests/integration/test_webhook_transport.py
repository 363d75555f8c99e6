"""Webhooks to a real receiver, and to where none may be reached."""

import base64
import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpcore
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from notifications.transports import Address
from notifications.transports.http import ANSWER_LIMIT
from notifications.transports.webhook import WebhookTransport
from realtime.exceptions import PermanentError, Retry
from tests.support.messages import KEY, envelope, message
from tests.support.receivers import HttpReceiver, Reply, http_receiver

pytestmark = pytest.mark.database_independent
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqr"
OPEN = WebhookTransport(name="webhook", allow_private=True, timeout_seconds=20)
CLOSED = WebhookTransport(name="webhook", timeout_seconds=20)
SAID = envelope(kind="order.shipped", title="Order 7", message="Unterwegs – ütf", url="/orders/7/", data={"order": 7})
MESSAGE = message(said=SAID, body="Unterwegs – ütf")


@pytest.fixture(scope="module")
def server() -> Iterator[HttpReceiver]:
    with http_receiver() as server:
        yield server


@pytest.fixture(autouse=True)
def _fresh(server: HttpReceiver) -> None:
    server.requests.clear()
    server.reply = Reply()


def at(url: str) -> Address:
    """The project's receiver: a user's has a row."""
    return Address(key="project", value=(url, SECRET))


async def test_a_receiver_can_verify_the_signature(server: HttpReceiver) -> None:
    """With any library for Standard Webhooks. The id is the key of the delivery."""
    answer = await OPEN.send(MESSAGE, at(f"{server.url}/hook?x=1"))
    assert answer == "200 OK: thanks"
    (request,) = server.requests
    body = Webhook(SECRET).verify(request.body, request.headers)
    assert (request.path, request.headers["webhook-id"]) == ("/hook?x=1", KEY)
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert body == {
        "type": "order.shipped",
        "timestamp": "2026-01-02T00:00:00Z",
        "data": {
            "user_id": "42",
            "id": 7,
            "event_id": 3,
            "kind": "order.shipped",
            "title": "Order 7",
            "message": "Unterwegs – ütf",
            "url": "/orders/7/",
            "data": {"order": 7},
            "created_at": "2026-01-02T00:00:00Z",
        },
    }
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(request.body + b" ", request.headers)


@pytest.mark.parametrize(
    ("status", "headers", "error", "after_seconds"),
    [
        (500, {}, OSError, None),
        (503, {"retry-after": "120"}, Retry, 120),
        (429, {"retry-after": "7"}, Retry, 7),
        (429, {"retry-after": "soon"}, OSError, None),
        (429, {"retry-after": "-5"}, Retry, 0),
        (408, {}, OSError, None),
        (425, {"retry-after": "Wed, 01 Jan 2020 00:00:00 GMT"}, Retry, 0),
        (400, {}, PermanentError, None),
        (404, {"retry-after": "7"}, PermanentError, None),
        (410, {}, PermanentError, None),
        (301, {"location": "https://example.com/"}, PermanentError, None),
    ],
)
async def test_a_status_decides_whether_to_try_again(
    server: HttpReceiver, status: int, headers: dict[str, str], error: type[Exception], after_seconds: float | None
) -> None:
    """And Retry-After decides when."""
    server.reply = Reply(status=status, headers=headers)
    with pytest.raises(error) as caught:
        await OPEN.send(MESSAGE, at(server.url))
    assert str(caught.value).startswith(str(status))
    if isinstance(caught.value, Retry):
        assert caught.value.after_seconds == after_seconds
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 403])
async def test_too_many_requests_is_temporary_with_any_status(server: HttpReceiver, status: int) -> None:
    """If the text of the answer says so."""
    server.reply = Reply(status=status, body=b'{"error": "API rate limit exceeded, retry later"}')
    with pytest.raises(OSError, match="rate limit exceeded"):
        await OPEN.send(MESSAGE, at(server.url))


async def test_a_redirect_is_not_followed(server: HttpReceiver) -> None:
    """It could lead to a service that only this server can reach."""
    server.reply = Reply(status=307, headers={"location": f"{server.url}/secret"})
    with pytest.raises(PermanentError, match="redirects are not followed"):
        await OPEN.send(MESSAGE, at(f"{server.url}/hook"))
    assert [request.path for request in server.requests] == ["/hook"]


async def test_a_receiver_that_does_not_answer_times_out(server: HttpReceiver) -> None:
    """Others do not wait for it."""
    gate = threading.Event()
    server.reply = Reply(gate=gate)
    quick = WebhookTransport(name="webhook", allow_private=True, timeout_seconds=0.1)
    with pytest.raises(TimeoutError):
        await quick.send(MESSAGE, at(server.url))
    gate.set()


async def test_only_the_beginning_of_an_answer_is_read(server: HttpReceiver) -> None:
    """However much comes, and whatever is in it."""
    server.reply = Reply(body=b"<b>\x00\n" + b"x" * 10_000_000)
    answer = await OPEN.send(MESSAGE, at(server.url))
    assert answer.startswith(r"200 OK: <b>\x00 xxx")
    assert len(answer) == len("200 OK: …") + ANSWER_LIMIT


async def test_a_refused_connection_is_a_temporary_failure() -> None:
    """The receiver may be available again later."""
    with pytest.raises(httpcore.ConnectError):
        await OPEN.send(MESSAGE, at("http://127.0.0.1:1/"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0"])
async def test_private_addresses_are_refused(server: HttpReceiver, host: str) -> None:
    """In any notation."""
    with pytest.raises(PermanentError, match="is not a public address"):
        await CLOSED.send(MESSAGE, at(f"http://{host}:{server.port}/"))
    assert server.requests == []


async def test_a_name_is_resolved_once_and_the_checked_address_is_used(
    server: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no effect if the name resolves to a private address a moment later."""
    asked: list[str] = []
    answers = ["127.0.0.1", "127.0.0.2"]

    def resolve(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if host != "rebinding.example":
            return resolve_really(host, port, *arguments, **options)
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers[len(asked) - 1], port))]

    resolve_really = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    await OPEN.send(MESSAGE, at(f"http://rebinding.example:{server.port}/"))
    assert asked == ["rebinding.example"]
    assert server.requests[0].headers["host"] == f"rebinding.example:{server.port}"
    with pytest.raises(PermanentError, match=r"rebinding.example is not a public address"):
        await CLOSED.send(MESSAGE, at(f"http://rebinding.example:{server.port}/"))
    assert len(server.requests) == 1


async def test_a_url_is_in_no_log(server: HttpReceiver, caplog: pytest.LogCaptureFixture) -> None:
    """Not even at the lowest level. It is almost a password, and may contain one, which the receiver gets."""
    caplog.set_level(logging.DEBUG)
    url = f"http://alice:PASS%40WORD@127.0.0.1:{server.port}/SECRET?token=TOKEN"
    await OPEN.send(MESSAGE, at(url))
    (request,) = server.requests
    assert request.headers["authorization"] == "Basic " + base64.b64encode(b"alice:PASS@WORD").decode()
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert caplog.records
    for secret in ("PASS", "SECRET", "TOKEN", request.headers["authorization"]):
        assert secret not in caplog.text


async def test_an_internationalised_name_is_reached(server: HttpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ASCII form is used for the lookup and on the network."""
    resolve_really = socket.getaddrinfo

    def resolve(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        host = "127.0.0.1" if host == "xn--exmple-cua.com" else host
        return resolve_really(host, port, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    await OPEN.send(MESSAGE, at(f"http://exämple.com:{server.port}/ü"))
    (request,) = server.requests
    assert (request.headers["host"], request.path) == (f"xn--exmple-cua.com:{server.port}", "/%C3%BC")


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "gopher://x/", "http://", "http:///x", "//x", "http://x:99999/", "http://☃.net/"]
)
async def test_a_url_that_is_not_http_is_refused(url: str) -> None:
    """When it is added, and when it is used."""
    with pytest.raises(ValueError, match="not a"):
        OPEN.check_address(url)
    with pytest.raises(PermanentError):
        await OPEN.send(MESSAGE, at(url))
