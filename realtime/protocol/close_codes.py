"""
The WebSocket close codes of `signalbox.v1`, in one table; `client.js` and docs/reference/close-codes.md mirror it.

After 4000-4499 a client reconnects, with backoff. After 4500-4999 it does not, until something else has changed.
Clients decide by these ranges, so a code that an old client does not know is safe to add.
"""

from enum import IntEnum

__all__ = ["CloseCode"]


class CloseCode(IntEnum):
    """Why the server closed a WebSocket."""

    # The client reads more slowly than the server writes.
    SLOW = 4000
    # The web server stops.
    RESTART = 4001
    # Redis, or the database that holds the sessions, cannot be reached.
    UNAVAILABLE = 4002
    # The connection has reached the age that the site allows.
    AGED = 4003
    # The user's password was changed: the client must authenticate again.
    PASSWORD_CHANGED = 4004
    # The session was deleted or renewed, or has expired.
    SESSION_ENDED = 4005
    # A frame could not be written, so the client has missed it.
    WRITE_FAILED = 4006
    # Nobody is signed in, or the account is inactive.
    UNAUTHORISED = 4500
    # The page's origin may not connect.
    FORBIDDEN_ORIGIN = 4501
    # The user has too many connections.
    TOO_MANY_CONNECTIONS = 4502
    # The client sent something that the protocol does not allow.
    PROTOCOL_ERROR = 4503
    # The user has signed out of the session.
    SIGNED_OUT = 4504
    # The account was deactivated or deleted.
    DEACTIVATED = 4505
    # The site's staff or code closed the user's connections.
    DISCONNECTED = 4506
    # The client sent more than a rate limit allows.
    RATE_LIMITED = 4507

    @property
    def is_final(self) -> bool:
        """Whether a client must not reconnect by itself."""
        return self >= 4500
