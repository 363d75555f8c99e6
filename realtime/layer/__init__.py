"""
The channel layer: `"BACKEND": "realtime.layer.RedisChannelLayer"`.

Owns groups and channels for consumers, and the path of publications to the sockets of a process. Does not own the
connection to Redis (pubsub) nor sockets (hub).
"""

from realtime.layer.channel_layer import RedisChannelLayer

__all__ = ["RedisChannelLayer"]
