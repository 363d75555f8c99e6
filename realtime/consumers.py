"""
The WebSocket consumer, for a project that routes WebSockets by itself.

Owns the name that projects import. The consumer is in `realtime.websocket.consumer`.
"""

from realtime.websocket.consumer import RealtimeConsumer

__all__ = ["RealtimeConsumer"]
