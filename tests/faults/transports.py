"""The webhook of a site under fault: its process can be told to die."""

import itertools
import os
import signal

from notifications.transports import Address, Message
from notifications.transports.webhook import WebhookTransport

__all__ = ["MortalWebhook"]

_calls = itertools.count(1)


class MortalWebhook(WebhookTransport):
    """A webhook whose process kills itself "before" or "after" its n-th call, as DIE="after:n" says."""

    async def send(self, message: Message, address: Address) -> str:
        number = next(_calls)
        _die(f"before:{number}")
        answer = await super().send(message, address)
        _die(f"after:{number}")
        return answer


def _die(moment: str) -> None:
    if os.environ.get("DIE") == moment:
        os.kill(os.getpid(), signal.SIGKILL)
