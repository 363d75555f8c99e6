"""
A transport that takes everything at once: what is left is what claiming and recording cost.

Owns noting the key.
"""

from collections.abc import Iterable
from typing import Any

from benchmarks.providers.keys import KeyLog
from notifications.transports import Address, Message, Transport

__all__ = ["NothingTransport"]


class NothingTransport(Transport):
    """
    Args:
        keys: The file in which it notes what it was given.
    """

    def __init__(self, *, name: str, keys: str) -> None:
        super().__init__(name=name)
        self._log = KeyLog(keys)

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        """Everybody is reached."""
        return [Address(key="nothing")]

    async def send(self, message: Message, address: Address) -> str:
        """Note it."""
        self._log.note(message.key)
        return "taken"
