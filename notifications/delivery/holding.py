"""
Which deliveries are held: NOTIFICATIONS["DELIVERY"].

Owns the decision. Does not own holding and releasing deliveries (records) or printing them (transports).
"""

from typing import Any

from notifications import conf

__all__ = ["is_held"]


def is_held(recipient: Any) -> bool:
    """Whether all deliveries to this user are held: with "hold", or if the user's address is not on the list."""
    delivery = conf.get_settings().delivery
    if isinstance(delivery, str):
        return delivery == "hold"
    email = (getattr(recipient, recipient.get_email_field_name(), "") or "").casefold()
    allowed = [each.casefold() for each in delivery]
    return not any(email.endswith(each) if each.startswith("@") else email == each for each in allowed)
