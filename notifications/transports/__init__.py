"""
Transports: the ways of delivering a notification, one class and one file each.

Owns the contract of a transport, and which transports the project has. Does not own when a delivery is sent (delivery)
or who wants it (preferences).
"""

from notifications.transports.base import Address, AddressGone, Message, Texts, Transport
from notifications.transports.registry import delivering_transports, get_transports, load_transports

__all__ = [
    "Address",
    "AddressGone",
    "Message",
    "Texts",
    "Transport",
    "delivering_transports",
    "get_transports",
    "load_transports",
]
