"""What becomes of a publication: heard on its topic's Redis channel."""

from typing import Any

import redis
from channels.layers import get_channel_layer

from realtime.broker.publication import BATCH_MARK, Publication, parse, split_batch

__all__ = ["Ear", "layer"]


def layer() -> Any:
    return get_channel_layer()


class Ear:
    """Hears a topic's Redis channel."""

    def __init__(self, client: redis.Redis, topic: str) -> None:
        self._pubsub = client.pubsub(ignore_subscribe_messages=False)
        self._pubsub.subscribe(layer().redis_channel(topic))
        assert self._pubsub.get_message(timeout=60)["type"] == "subscribe"

    def hear(self, count: int = 1) -> list[Publication]:
        """The next publications; a message may have several."""
        payloads: list[bytes] = []
        while len(payloads) < count:
            data = self._pubsub.get_message(timeout=60)["data"]
            payloads += split_batch(data) if data.startswith(BATCH_MARK) else [data]
        assert len(payloads) == count, "more came than were asked for"
        publications = [parse(payload) for payload in payloads]
        assert None not in publications
        return publications  # type: ignore[return-value]

    def close(self) -> None:
        self._pubsub.close()
