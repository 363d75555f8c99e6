"""What becomes of a publication: heard on its topic's Redis channel."""

from typing import Any

import redis
from channels.layers import get_channel_layer

from realtime.broker.publication import Publication, parse

__all__ = ["Ear", "layer"]


def layer() -> Any:
    return get_channel_layer()


class Ear:
    """Hears a topic's Redis channel."""

    def __init__(self, client: redis.Redis, topic: str) -> None:
        self._pubsub = client.pubsub(ignore_subscribe_messages=False)
        self._pubsub.subscribe(layer().redis_channel(topic))
        assert self._pubsub.get_message(timeout=5)["type"] == "subscribe"

    def hear(self, count: int = 1) -> list[Publication]:
        messages = [self._pubsub.get_message(timeout=5) for _ in range(count)]
        publications = [parse(message["data"]) for message in messages]
        assert None not in publications
        return publications  # type: ignore[return-value]

    def close(self) -> None:
        self._pubsub.close()
