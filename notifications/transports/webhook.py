"""
Webhooks: a signed HTTP POST for each notification, according to Standard Webhooks.

Owns the request and its signature. Does not own the HTTP call (http) or users' URLs (preferences).

Source:
    https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
from collections.abc import Iterable
from typing import Any

import msgspec
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _

from notifications.database import clock
from notifications.transports.base import Address, Message, Transport, destinations_of, disable
from realtime.exceptions import PermanentError
from realtime.extras import extra

with extra("webhook"):
    from standardwebhooks import Webhook

    from notifications.transports.http import check_url, post, raise_for_status

__all__ = ["WebhookTransport"]

# The sizes of a secret that the specification allows, in bytes.
SECRET_BYTES = range(24, 65)
# The status with which a receiver unsubscribes. Source: the Standard Webhooks specification.
GONE_STATUS = 410
# The address key of the project's own receiver.
PROJECT_KEY = "project"


class WebhookTransport(Transport):
    """
    Args:
        url: The project's own receiver, which gets the notifications of all users. Without it, only receivers that
            users have added as their destinations get notifications.
        secret: The key with which the project's receiver verifies signatures: "whsec_" and 24 to 64 bytes in base64.
        allow_private: Whether receivers may have addresses that are not public.

    Guarantees:
        The header webhook-id is the delivery's key, the same in every attempt. A receiver that stores the ids it has
        handled can process each notification once. A user's receiver that answers 410 is disabled.
    """

    label = _("Webhook")

    def __init__(
        self,
        *,
        name: str,
        timeout_seconds: float = 10.0,
        url: str = "",
        secret: str = "",
        allow_private: bool = False,
    ) -> None:
        super().__init__(name=name, timeout_seconds=timeout_seconds)
        self._url = url
        self._secret = secret
        self._allow_private = allow_private
        if url:
            try:
                check_url(url)
            except PermanentError as error:
                raise ImproperlyConfigured(f"url is {error.reason}") from error
            if not _is_secret(secret):
                raise ImproperlyConfigured('secret must be "whsec_" and 24 to 64 bytes in base64')

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        """The project's receiver, and those of the recipient."""
        own = [Address(key=PROJECT_KEY, value=(self._url, self._secret))] if self._url else []
        return own + [
            Address(key=str(destination.pk), value=(destination.address, destination.secret))
            for destination in destinations_of(recipient, self.name)
        ]

    async def send(self, message: Message, address: Address) -> str:
        """POST the message, with id, time and signature in the headers."""
        url, secret = address.value
        notification = message.notification
        data = {"user_id": str(message.recipient.pk), **msgspec.to_builtins(notification)}
        if message.digest:
            data["digest"] = msgspec.to_builtins(message.digest)
        body = msgspec.json.encode({"type": notification.kind, "timestamp": notification.created_at, "data": data})
        now = clock.now()
        headers = {
            "content-type": "application/json",
            "webhook-id": message.key,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(secret).sign(message.key, now, body.decode()),
        }
        answer = await post(
            url,
            body,
            headers,
            timeout_seconds=self.timeout_seconds,
            allow_private=self._allow_private,
            # The project's own receiver serves all users, so its lookups do not count for any of them.
            user=None if address.key == PROJECT_KEY else message.recipient.pk,
        )
        if answer.status == GONE_STATUS and address.key != PROJECT_KEY:
            await disable(address, answer.text)
        raise_for_status(answer)
        return answer.text

    def check_address(self, address: str) -> None:
        """Accept an http or https URL. Its IP address is checked in every call."""
        try:
            check_url(address)
        except PermanentError as error:
            raise ValueError(error.reason) from error


def _is_secret(secret: str) -> bool:
    try:
        raw = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        return False
    return secret.startswith("whsec_") and len(raw) in SECRET_BYTES
