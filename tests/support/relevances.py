"""The relevance of publications, as publishers give it, and the states that it makes."""

import msgspec

from realtime.broker.relevance import Relevance, encode_relevance
from realtime.live.items import State, state_of

__all__ = ["decode_relevance", "state_with"]

decode_relevance = msgspec.json.Decoder(Relevance).decode


def state_with(topic: str, offset: int, frame: bytes, relevance: Relevance) -> State:
    """The state that a publication with this relevance brings."""
    return state_of(topic, offset, frame, encode_relevance(relevance))
