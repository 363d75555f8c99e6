"""
Web push: messages to the browsers that a user has subscribed, through the push services of their vendors.

Owns the message to a browser, and when a subscription is removed. Does not own the encryption (pywebpush) or the
signature (py_vapid). The request is sent by our own `http`, because the URL of the push service comes from a browser
and cannot be trusted.

Source:
    RFC 8030 (push), RFC 8291 (encryption), RFC 8292 (VAPID).
"""

import binascii
import re
import time
from collections.abc import Iterable
from typing import Any

import msgspec
from channels.db import database_sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import router
from django.utils.translation import gettext_lazy as _

from notifications.models import PushSubscription
from notifications.transports.base import ADDRESS_LIMIT, Address, AddressGone, Message, Transport
from notifications.transports.destinations import forget_browser
from notifications.transports.shortening import shorten
from realtime.exceptions import PermanentError
from realtime.extras import extra

with extra("webpush"):
    from py_vapid import Vapid02, VapidException
    from pywebpush import WebPusher, WebPushException

    from notifications.transports.http import audience_of, post, raise_for_status
from notifications.transports.lookup import newest_of

__all__ = ["WebPushTransport"]

# Push services accept 4096 bytes, of which the encryption needs 103.
PAYLOAD_LIMIT_BYTES = 3993
# The bytes that the URL must leave for the title, and that URL and title must leave for the body.
TITLE_ROOM_BYTES = 400
BODY_ROOM_BYTES = 1000
# Statuses that mean that a subscription no longer exists.
GONE_STATUSES = {404, 410}
# Push services refuse signatures that are valid for more than a day.
SIGNATURE_SECONDS = 12 * 3600
# A contact that push services can use, so its host has a dot. Source: RFC 8292, section 2.1.
_HOST = r"(?P<host>[a-z0-9-]+(?:\.[a-z0-9-]+)+)"
_SUBJECT = re.compile(rf"(?:mailto:[^\s@:/?#]+@|https://){_HOST}", re.IGNORECASE)


class WebPushTransport(Transport):
    """
    Args:
        private_key: The site's VAPID key: 32 bytes in base64url, or the same in DER. Browsers subscribe with its public
            half, so it must never change.
        subject: The contact of this site for push services: "mailto:ops@example.com" or "https://example.com".
        ttl_seconds: How long a push service keeps a message for a browser that is offline.
        allow_private: Whether push services may have addresses that are not public.

    Guarantees:
        The delivery's key is the message's Topic, so a copy replaces a message that the push service still has. If the
        browser already has the message, the copy replaces it too, because its tag is the notification's id.
    """

    label = _("Push")

    def __init__(
        self,
        *,
        name: str,
        private_key: str,
        subject: str,
        timeout_seconds: float = 10.0,
        ttl_seconds: int = 86_400,
        allow_private: bool = False,
    ) -> None:
        super().__init__(name=name, timeout_seconds=timeout_seconds)
        self._subject = _checked_subject(subject)
        self._ttl_seconds = ttl_seconds
        self._allow_private = allow_private
        try:
            self._vapid = Vapid02.from_string(private_key)
            self._vapid.sign({"sub": subject, "aud": "https://example.com"})
        except (ValueError, VapidException, AttributeError) as error:
            raise ImproperlyConfigured(f"private_key or subject cannot be used: {error}") from error

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        """The recipient's browsers, the newest subscriptions first."""
        rows = PushSubscription.objects.using(router.db_for_write(PushSubscription))
        mine = newest_of(recipient.pk, rows, limit=ADDRESS_LIMIT)
        return [Address(key=str(subscription.pk), value=subscription) for subscription in mine]

    async def send(self, message: Message, address: Address) -> str:
        """Encrypt the message for the browser and send it to the browser's push service."""
        subscription: PushSubscription = address.value
        answer = await post(
            subscription.endpoint,
            self._encrypt(message, subscription),
            self._headers(message, subscription.endpoint),
            timeout_seconds=self.timeout_seconds,
            allow_private=self._allow_private,
            user=message.recipient.pk,
        )
        if answer.status in GONE_STATUSES:
            await database_sync_to_async(forget_browser)(subscription.pk, self.name, answer.text)
            raise AddressGone(f"{answer.text} (the subscription is removed)")
        raise_for_status(answer)
        return answer.text

    def _encrypt(self, message: Message, subscription: PushSubscription) -> bytes:
        keys = {"p256dh": subscription.p256dh, "auth": subscription.auth}
        try:
            pusher = WebPusher({"endpoint": subscription.endpoint, "keys": keys})
            return bytes(pusher.encode(_payload(message))["body"])
        except (WebPushException, ValueError, IndexError, binascii.Error) as error:
            raise PermanentError(f"the keys of the subscription cannot be used: {error}") from error

    def _headers(self, message: Message, endpoint: str) -> dict[str, str]:
        expires_at = int(time.time()) + SIGNATURE_SECONDS
        try:
            signature = self._vapid.sign({"sub": self._subject, "aud": audience_of(endpoint), "exp": expires_at})
        except VapidException as error:
            raise PermanentError(f"the endpoint of the subscription cannot be used: {error}") from error
        return {
            **signature,
            "content-type": "application/octet-stream",
            "content-encoding": "aes128gcm",
            "ttl": str(self._ttl_seconds),
            "topic": message.key,
            "urgency": "normal",
        }


def _payload(message: Message) -> bytes:
    """
    The JSON for the service worker, at most PAYLOAD_LIMIT_BYTES.

    A long title is cut to leave room for the body, and a long body is cut to the space that is left. A URL cannot be
    cut: if it leaves too little room for the texts, it is left out.
    """
    # A character takes at least one byte, so the texts can be cut to this many characters before they are encoded.
    title, body = message.texts.subject[:PAYLOAD_LIMIT_BYTES], message.texts.body[:PAYLOAD_LIMIT_BYTES]
    url = message.notification.url
    if not _fits(message, "", "", url, room_bytes=TITLE_ROOM_BYTES + BODY_ROOM_BYTES):
        url = ""
    title = shorten(title, lambda title: _fits(message, title, "", url, room_bytes=BODY_ROOM_BYTES))
    body = shorten(body, lambda body: _fits(message, title, body, url))
    return _encode(message, title, body, url)


def _fits(message: Message, title: str, body: str, url: str, *, room_bytes: int = 0) -> bool:
    return len(_encode(message, title, body, url)) <= PAYLOAD_LIMIT_BYTES - room_bytes


def _encode(message: Message, title: str, body: str, url: str) -> bytes:
    notification = message.notification
    return msgspec.json.encode(
        {
            "id": notification.id,
            "tag": f"notification-{notification.id}",
            "kind": notification.kind,
            "title": title,
            "body": body,
            "url": url,
        }
    )


def _checked_subject(subject: str) -> str:
    found = _SUBJECT.fullmatch(subject) if isinstance(subject, str) else None
    if found is None or found["host"].lower().endswith((".localhost", ".local", ".invalid")):
        raise ImproperlyConfigured(
            f"subject is {subject!r}, which push services refuse: give an address that they can write to, such as "
            '"mailto:ops@example.com", or a site such as "https://example.com"'
        )
    return subject
