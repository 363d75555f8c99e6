"""
The names of topics. Owns how they are spelled; the channel-layer group of a topic has the same name.

Does not own who may subscribe (consumers) nor what is published.
"""

__all__ = ["user_topic"]


def user_topic(user_id: object) -> str:
    """The topic of one user: `user.42`. Only that user's own connections are subscribed to it."""
    return f"user.{user_id}"
