"""
The relevance of a publication: its key, place, tags and level, which decide to which views it is sent.

Owns the form in which these travel beside the frame. Does not own what they mean (live) nor the frame (publication).
"""

from functools import lru_cache
from typing import Annotated, Final

import msgspec

__all__ = [
    "LEVEL_LIMIT",
    "WORLD",
    "Decoded",
    "Relevance",
    "Tag",
    "Tags",
    "decode_relevance",
    "encode_relevance",
    "tags_of",
]

# The side of the world in units of a place: see realtime.live.places.
WORLD: Final = 1 << 30
# The highest level: no web map has a higher zoom.
LEVEL_LIMIT: Final = 24
# Tags are shared if their JSON has at most this many bytes. This many different ones are remembered.
_SHARED_TAGS_BYTES: Final = 256
_SHARED_TAGS_COUNT: Final = 4_096

# The value of a tag.
type Tag = str | int | float | bool
# What filters compare. Never changed, because publications share them.
type Tags = dict[str, Tag]
type _Coordinate = Annotated[int, msgspec.Meta(ge=0, lt=WORLD)]


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
    tags: Tags = {}
    level: int = 0
    is_removed: bool = False


encode_relevance = msgspec.json.Encoder().encode


class _Place(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """The place of a `Decoded`; `x1` and `y1` are None if it is a point."""

    x0: _Coordinate
    y0: _Coordinate
    x1: _Coordinate | None = None
    y1: _Coordinate | None = None


class Decoded(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """
    A `Relevance` as it is received.

    Decoding makes no object that the garbage collector counts. Otherwise, thousands of publications a second would
    start the collector many times.

    Attributes:
        tags: Their JSON; `tags_of` decodes it.
    """

    key: str
    place: _Place | None = None
    tags: msgspec.Raw = msgspec.Raw(b"{}")
    level: Annotated[int, msgspec.Meta(ge=0, le=LEVEL_LIMIT)] = 0
    is_removed: bool = False


# Raises msgspec.ValidationError or DecodeError, which are ValueErrors; and RecursionError.
decode_relevance = msgspec.json.Decoder(Decoded).decode
_decode_tags = msgspec.json.Decoder(Tags).decode
_shared_tags = lru_cache(_SHARED_TAGS_COUNT)(_decode_tags)


def tags_of(decoded: Decoded) -> Tags:
    """
    The tags of a publication. Tags with the same JSON are usually the same object.

    Raises:
        ValueError: The JSON is not an object of tags.
    """
    text = bytes(decoded.tags)
    tags: Tags = _shared_tags(text) if len(text) <= _SHARED_TAGS_BYTES else _decode_tags(text)
    return tags
