"""
The WebSocket close codes of `signalbox.v1`, in one table; `client.js` and docs/reference/close-codes.md mirror it.

4000-4499 say: come back, with backoff. 4500-4999 say: do not come back until something else has changed.
"""

from enum import IntEnum

__all__ = ["CloseCode"]


class CloseCode(IntEnum):
    """Why the server closed a WebSocket."""

    SLOW = 4000
    RESTART = 4001
    REDIS_LOST = 4002
    AGED = 4003
    PASSWORD_CHANGED = 4004
    SESSION_ENDED = 4005
    UNAUTHORISED = 4500
    FORBIDDEN_ORIGIN = 4501
    TOO_MANY_CONNECTIONS = 4502
    PROTOCOL_ERROR = 4503
    SIGNED_OUT = 4504
    DEACTIVATED = 4505
    DISCONNECTED = 4506

    @property
    def is_final(self) -> bool:
        """Whether a client must not reconnect by itself."""
        return self >= 4500
