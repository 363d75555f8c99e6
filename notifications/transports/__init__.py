"""
Ways of delivering a notification: one small class and one file each.

Owns the contract of a transport and which transports the project has. Does not own whether and when something is sent
(records, bot) nor who wants it (preferences).
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
