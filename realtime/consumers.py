"""
The WebSocket consumer, for projects that route WebSockets themselves.

Owns only the name that projects import; the consumer is in `realtime.websocket.consumer`.
"""

from realtime.websocket.consumer import RealtimeConsumer

__all__ = ["RealtimeConsumer"]
