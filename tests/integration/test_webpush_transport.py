"""Web push to a local push service, which decrypts as a browser does and verifies who sent."""

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import http_ece
import pytest
from asgiref.sync import sync_to_async
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from py_vapid import Vapid02

from notifications import services
from notifications.exceptions import InvalidPreference
from notifications.models import PushSubscription
from notifications.transports import AddressGone
from notifications.transports.webpush import WebPushTransport
from realtime.exceptions import PermanentError
from tests.support.messages import KEY, envelope, message
from tests.support.receivers import HttpReceiver, Reply, Request, http_receiver

pytestmark = pytest.mark.django_db(transaction=True)
PRIVATE_KEY = base64.urlsafe_b64encode(bytes(range(1, 33))).decode().rstrip("=")
OPTIONS = {"private_key": PRIVATE_KEY, "subject": "mailto:ops@example.com"}
SAID = envelope(kind="order.shipped", url="/orders/7/")
PUSH = WebPushTransport(name="push", allow_private=True, **OPTIONS)


class Browser:
    """The keys that a browser keeps, and what it can read with them."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._auth = bytes(range(16))

    def subscription(self, endpoint: str) -> dict[str, Any]:
        """The result of `PushSubscription.toJSON()`."""
        public = self._key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        keys = {"p256dh": _base64(public), "auth": _base64(self._auth)}
        return {"endpoint": endpoint, "expirationTime": None, "keys": keys}

    def read(self, request: Request) -> Any:
        """The payload for its service worker."""
        return json.loads(http_ece.decrypt(request.body, private_key=self._key, auth_secret=self._auth))


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@pytest.fixture
def service() -> Iterator[HttpReceiver]:
    with http_receiver() as service:
        service.reply = Reply(status=201)
        yield service


async def sent_to(user: User, service: HttpReceiver, text: str = "Unterwegs – ütf") -> Request:
    (address,) = await sync_to_async(PUSH.find_addresses)(user)
    assert await PUSH.send(message(user, said=SAID, body=text), address) == "201 Created: thanks"
    return service.requests[-1]


async def test_only_the_browser_can_read_its_message(alice: User, service: HttpReceiver) -> None:
    """The push service knows the sender, the time to live, and which older copy it replaces."""
    browser = Browser()
    await sync_to_async(services.add_push_subscription)(alice.pk, browser.subscription(f"{service.url}/push/abc"))
    request = await sent_to(alice, service)
    assert b"Unterwegs" not in request.body
    assert browser.read(request) == {
        "id": 7,
        "tag": "notification-7",
        "kind": "order.shipped",
        "title": "Order 7",
        "body": "Unterwegs – ütf",
        "url": "/orders/7/",
    }
    headers = request.headers
    assert (headers["content-encoding"], headers["ttl"], headers["topic"]) == ("aes128gcm", "86400", KEY)
    token = headers["authorization"].removeprefix("vapid t=").partition(",")[0]
    assert Vapid02.verify(headers["authorization"])
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert (claims["aud"], claims["sub"]) == (service.url, "mailto:ops@example.com")
    assert 0 < claims["exp"] - time.time() <= 86_400


@pytest.mark.parametrize("letter", ["x", "ü", "\x01", '"', "🎉"])
async def test_a_long_text_is_cut_to_the_limit_of_push_services(
    alice: User, service: HttpReceiver, letter: str
) -> None:
    """4096 bytes in total. The beginning of the text is kept."""
    browser = Browser()
    await sync_to_async(services.add_push_subscription)(alice.pk, browser.subscription(service.url))
    request = await sent_to(alice, service, "Begin " + letter * 3990)
    assert 3500 < len(request.body) <= 4096
    body = browser.read(request)["body"]
    assert body.startswith(f"Begin {letter * 500}")
    assert body.endswith("…")


@pytest.mark.parametrize(
    ("url", "title", "left"),
    [
        ("/suche?q=" + "日" * 1330, "Order 7", ""),
        ("/suche?q=" + "日" * 500, "Order 7", "/suche?q=" + "日" * 500),
        ("/suche", "\x01" * 100_000, "/suche"),
        ("/suche?q=" + "日" * 1330, "🎉" * 100_000, ""),
    ],
    ids=["url", "short url", "title", "all"],
)
async def test_a_message_with_long_parts_is_sent(
    alice: User, service: HttpReceiver, url: str, title: str, left: str
) -> None:
    """A title is cut. A URL is not: it is left out if it leaves no room for the texts."""
    browser = Browser()
    await sync_to_async(services.add_push_subscription)(alice.pk, browser.subscription(service.url))
    (address,) = await sync_to_async(PUSH.find_addresses)(alice)
    said = message(alice, said=envelope(url=url), subject=title, body="Begin " + "é" * 4000)
    await asyncio.wait_for(PUSH.send(said, address), 30)
    (request,) = service.requests
    assert len(request.body) <= 4096
    shown = browser.read(request)
    assert shown["url"] == left
    assert shown["title"].removesuffix("…") and title.startswith(shown["title"].removesuffix("…"))
    assert shown["body"].startswith("Begin " + "é" * 400)


@pytest.mark.parametrize("status", [404, 410])
async def test_a_browser_that_no_longer_exists_is_removed(alice: User, service: HttpReceiver, status: int) -> None:
    """Its subscription is removed. That is not a failure."""
    await sync_to_async(services.add_push_subscription)(alice.pk, Browser().subscription(service.url))
    service.reply = Reply(status=status)
    (address,) = await sync_to_async(PUSH.find_addresses)(alice)
    with pytest.raises(AddressGone, match="the subscription is removed"):
        await PUSH.send(message(alice), address)
    assert not await PushSubscription.objects.aexists()


@pytest.mark.parametrize(
    ("status", "error"), [(400, PermanentError), (403, PermanentError), (429, OSError), (502, OSError)]
)
async def test_a_refusal_keeps_the_browser(
    alice: User, service: HttpReceiver, status: int, error: type[Exception]
) -> None:
    """The refusal concerns this message only."""
    await sync_to_async(services.add_push_subscription)(alice.pk, Browser().subscription(service.url))
    service.reply = Reply(status=status)
    (address,) = await sync_to_async(PUSH.find_addresses)(alice)
    with pytest.raises(error, match=str(status)):
        await PUSH.send(message(alice), address)
    assert await PushSubscription.objects.aexists()


async def test_invalid_keys_fail_for_good(alice: User, service: HttpReceiver) -> None:
    """Nothing is sent in the clear."""
    keys = {"p256dh": "AAAA", "auth": "AAAA"}
    await sync_to_async(services.add_push_subscription)(alice.pk, {"endpoint": service.url, "keys": keys})
    (address,) = await sync_to_async(PUSH.find_addresses)(alice)
    with pytest.raises(PermanentError, match="the keys of the subscription cannot be used"):
        await PUSH.send(message(alice), address)
    assert service.requests == []


async def test_a_push_service_at_a_private_address_is_refused(alice: User, service: HttpReceiver) -> None:
    """The address came from a browser."""
    await sync_to_async(services.add_push_subscription)(alice.pk, Browser().subscription(service.url))
    (address,) = await sync_to_async(PUSH.find_addresses)(alice)
    with pytest.raises(PermanentError, match="is not a public address"):
        await WebPushTransport(name="push", **OPTIONS).send(message(alice), address)
    assert service.requests == []


def test_one_browser_is_one_subscription(alice: User, bob: User) -> None:
    """It belongs to the user who signed in on it last. An invalid subscription is refused."""
    browser = Browser()
    for user in (alice, alice, bob):
        services.add_push_subscription(user.pk, browser.subscription("https://push.example/abc"))
    assert [row.user for row in PushSubscription.objects.all()] == [bob]
    good = browser.subscription("https://push.example/abc")
    for wrong in (
        {},
        {**good, "endpoint": 1},
        {**good, "endpoint": "x" * 1001},
        {**good, "endpoint": "https://x/\0"},
        [1],
    ):
        for change in (services.add_push_subscription, services.remove_push_subscription):
            with pytest.raises(InvalidPreference, match="not a push subscription"):
                change(alice.pk, wrong)
    for keys in ({}, [1], {**good["keys"], "auth": "\0"}, {**good["keys"], "p256dh": 1}):
        with pytest.raises(InvalidPreference, match="not a push subscription"):
            services.add_push_subscription(alice.pk, {**good, "keys": keys})


def test_a_subscription_is_removed_by_its_user_only(alice: User, bob: User) -> None:
    """Alice cannot remove bob's browser. Removing a subscription twice is not an error."""
    here, there = (Browser().subscription(f"https://push.example/{name}") for name in ("here", "there"))
    services.add_push_subscription(alice.pk, here)
    services.add_push_subscription(bob.pk, there)
    for subscription in (here, here, there):
        services.remove_push_subscription(alice.pk, subscription)
    assert [row.user for row in PushSubscription.objects.all()] == [bob]
    with pytest.raises(InvalidPreference, match="no user"):
        services.remove_push_subscription(987_654, there)


NO_ENDPOINTS = ["https://[2606:4700:4700::1111]/abc", "https://[::1", "https://alice:secret@push.example/abc"]


@pytest.mark.parametrize("endpoint", NO_ENDPOINTS)
async def test_an_endpoint_that_cannot_be_signed_for_fails_for_good(alice: User, endpoint: str) -> None:
    """A row may be older than the check of subscriptions."""
    keys = Browser().subscription("")["keys"]
    await PushSubscription.objects.acreate(user=alice, endpoint=endpoint, p256dh=keys["p256dh"], auth=keys["auth"])
    (address,) = await sync_to_async(PUSH.find_addresses)(alice)
    with pytest.raises(PermanentError, match=r"^not ") as failed:
        await PUSH.send(message(alice), address)
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize(
    "endpoint", ["file:///etc/passwd", "push.example/abc", "https://", "https://x:99999/", *NO_ENDPOINTS]
)
def test_an_endpoint_is_a_web_address(alice: User, endpoint: str) -> None:
    """It is checked when it is added, and not at the first notification."""
    with pytest.raises(InvalidPreference, match="the endpoint of the push subscription is not a"):
        services.add_push_subscription(alice.pk, Browser().subscription(endpoint))
    assert not PushSubscription.objects.exists()


def test_a_user_has_ten_browsers(alice: User, bob: User) -> None:
    """Existing ones may subscribe again. Others are refused, even if they belonged to another user."""
    browser = Browser()
    for number in [*range(10), 3]:
        services.add_push_subscription(alice.pk, browser.subscription(f"https://push.example/{number}"))
    services.add_push_subscription(bob.pk, browser.subscription("https://push.example/bob"))
    for endpoint in ("https://push.example/10", "https://push.example/bob"):
        with pytest.raises(InvalidPreference, match="there are 10 browsers already: remove one"):
            services.add_push_subscription(alice.pk, browser.subscription(endpoint))
    assert (alice.push_subscriptions.count(), bob.push_subscriptions.count()) == (10, 1)


@pytest.mark.parametrize("wrong", [{"private_key": "no key"}, {"private_key": ""}])
def test_an_invalid_key_is_reported_at_the_start(wrong: dict[str, str]) -> None:
    """Not at the first notification."""
    with pytest.raises(ImproperlyConfigured, match="private_key or subject"):
        WebPushTransport(name="push", **{**OPTIONS, **wrong})


@pytest.mark.parametrize(
    "subject",
    [
        *(
            "mailto:ops@localhost",
            "mailto: x",
            "mailto:ops",
            "ops@example.com",
            "http://example.com",
            "",
            "https://intranet",
        ),
        *("mailto:ops@example.com\nBcc: x@example.com", "https://site.localhost", "https://example.com/contact", None),
    ],
)
def test_a_contact_without_a_public_host_is_refused(subject: Any) -> None:
    """Push services would answer 400 or 403 to each message."""
    with pytest.raises(ImproperlyConfigured, match="push services refuse"):
        WebPushTransport(name="push", private_key=PRIVATE_KEY, subject=subject)


@pytest.mark.parametrize("subject", ["mailto:ops@example.com", "https://www.example.com"])
def test_a_mail_address_or_a_page_is_a_contact(subject: str) -> None:
    """According to RFC 8292."""
    transport = WebPushTransport(name="push", private_key=PRIVATE_KEY, subject=subject)
    assert transport._subject == subject
