"""
The part of a publication with a key that decides which views are sent it: key, place, tags and level.

Owns the form in which these travel beside the frame. Does not own what they mean (live) nor the frame (publication).
"""

from typing import Final

import msgspec

__all__ = ["WORLD", "Relevance", "Tag", "decode_relevance", "encode_relevance"]

# The side of the world in units of a place: see realtime.live.places.
WORLD: Final = 1 << 30

# The value of a tag.
type Tag = str | int | float | bool


class Relevance(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """
    Encoded as one line of JSON: `["tram-7",[568,341],{"mode":"tram"},12,false]`.

    Attributes:
        key: The next publication with this key replaces this one.
        place: (x, y) or (x0, y0, x1, y1), from 0 to WORLD - 1; None if it has none. With x0 > x1 it crosses longitude
            180.
        tags: What filters compare.
        level: The lowest zoom at which it is shown.
        is_removed: Whether the key is gone.
    """

    key: str
    place: tuple[int, ...] | None = None
    tags: dict[str, Tag] = {}
    level: int = 0
    is_removed: bool = False


encode_relevance = msgspec.json.Encoder().encode
# Raises msgspec.ValidationError or DecodeError, which are ValueErrors.
decode_relevance = msgspec.json.Decoder(Relevance).decode
