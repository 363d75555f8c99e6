"""
The filter of a subscription: the part of the world, the zoom, and conditions on tags.

Owns its form, its limits, and deciding what matches. Does not own the conditions on tags (conditions), the area of a
view (places), nor finding the items in it (scene).
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final
from weakref import WeakValueDictionary

import msgspec

from realtime.live.conditions import NUMBER_LIMIT, Conditions, Place, Predicate, canonical, compile_tags, refused
from realtime.live.items import State, touches
from realtime.live.places import Box, boxes_of, rectangles

__all__ = ["Filter", "Selector", "canonical", "compile_tags"]

_FIELDS: Final = ("bbox", "zoom", "tags")

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """
    The publications that a subscription is sent. A part that is None lets everything through.

    Attributes:
        bbox: West, south, east, north in degrees. If west is greater than east, it crosses longitude 180.
        zoom: The zoom of the map: publications with a level up to it are sent.
        tags: Conditions on tags, all of which must hold: `{"mode": ["rail", "tram"], "speed": {"gte": 10}}`.

    Raises:
        FrameRefused: `code` is "bad_filter"; `detail` says where and what to do.
    """

    bbox: tuple[float, float, float, float] | None = None
    zoom: float | None = None
    tags: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        _check(self, ("filter",))

    @classmethod
    def decode(cls, text: bytes | msgspec.Raw) -> "Filter":
        """
        The filter that a client sent.

        Args:
            text: Its JSON object.

        Raises:
            FrameRefused: `code` is "bad_filter"; `detail` says where and what to do.
        """
        try:
            given = _decode(text)
        except (ValueError, RecursionError) as problem:
            raise refused(("filter",), str(problem)) from None
        if given is None:
            raise refused(("filter",), "null is not a filter; one that lets everything through is {}")
        return cls.of(given)

    @classmethod
    def of(cls, given: "Filter | Mapping[str, Any] | None", where: Place = ("filter",)) -> "Filter":
        """
        The filter that a project's `filter_for` returned.

        Args:
            given: A filter, or a mapping with its fields; None lets everything through.
            where: The path to it, for errors.

        Raises:
            FrameRefused: `code` is "bad_filter"; `detail` says where and what to do.
        """
        if given is None:
            return cls()
        if isinstance(given, Filter):
            return given
        if not isinstance(given, Mapping):
            raise refused(where, "a filter is an object such as {'bbox': [5.9, 45.8, 10.5, 47.8], 'zoom': 9}")
        for name in given:
            if name not in _FIELDS:
                raise refused((*where, name), "no such field: a filter has bbox, zoom and tags")
        self = cls.__new__(cls)
        for name in _FIELDS:
            object.__setattr__(self, name, given.get(name))
        _check(self, where)
        return self


def _check(given: Filter, where: Place) -> None:
    """Check the fields, and bring them into one form."""
    if given.bbox is not None:
        object.__setattr__(given, "bbox", _checked_bbox(given.bbox, (*where, "bbox")))
    if given.zoom is not None:
        # Some maps go below 0; level 0 is shown there too.
        object.__setattr__(given, "zoom", max(0.0, _number(given.zoom, (*where, "zoom"))))
    if given.tags is not None:
        object.__setattr__(given, "tags", Conditions.of(given.tags, (*where, "tags")))


def _checked_bbox(given: object, where: Place) -> tuple[float, float, float, float]:
    if not isinstance(given, list | tuple) or len(given) != 4:
        raise refused(where, "it takes four numbers: [west, south, east, north], in degrees")
    west, south, east, north = [
        # Nearly all numbers pass the first check.
        each if type(each) is float and -NUMBER_LIMIT <= each <= NUMBER_LIMIT else _number(each, (*where, index))
        for index, each in enumerate(given)
    ]
    try:
        boxes_of((west, south, east, north))
    except ValueError as problem:
        raise refused(where, str(problem)) from None
    return west, south, east, north


def _number(given: object, where: Place) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise refused(where, "it takes a number")
    if (isinstance(given, int) and abs(given) > NUMBER_LIMIT) or not math.isfinite(given):
        raise refused(where, f"it takes a finite number, within ±{NUMBER_LIMIT}")
    return float(given)


class Selector:
    """
    Decides which publications a view lets through, apart from its area. Made by `Selector.of`.

    Equal conditions have the same selector object, so that results for one view can be used for others.

    Attributes:
        max_level: The highest level of detail; None for all.
        limits: The boxes of the site's filter, in world units; None if it has none.
        topics: The topics; None for all of the family.
        matches: Called as matches(state): whether it is let through. A state without a place is in all boxes.
        everything: The selector that lets everything through.
    """

    __slots__ = ("__weakref__", "_without_level", "limits", "matches", "max_level", "topics")

    everything: ClassVar["Selector"]
    _known: ClassVar[WeakValueDictionary[Any, "Selector"]] = WeakValueDictionary()

    matches: Callable[[State], bool]

    def __init__(
        self,
        predicates: tuple[Predicate, ...],
        *,
        max_level: int | None,
        limits: tuple[Box, ...] | None,
        topics: frozenset[str] | None,
    ) -> None:
        self.max_level, self.limits, self.topics = max_level, limits, topics
        self._without_level: Selector | None = None
        self.matches = _compiled(predicates, max_level, limits, topics)

    def for_levels_up_to(self, level: int) -> "Selector":
        """A selector that decides the same for all levels up to this one, and that more views can share."""
        if self._without_level is None or self.max_level is None or self.max_level < level:
            return self
        return self._without_level

    @classmethod
    def of(
        cls,
        *,
        max_level: int | None = None,
        tags: Mapping[str, Any] | None = None,
        site_tags: Mapping[str, Any] | None = None,
        limits: Collection[Box] | None = None,
        topics: Collection[str] | None = None,
    ) -> "Selector":
        """
        The selector of these conditions, all of which must hold.

        Args:
            max_level: The highest level of detail; None for all.
            tags: The client's conditions on tags.
            site_tags: Those of the site's filter.
            limits: The boxes of the site's filter, in world units; x0 > x1 crosses longitude 180. None for the world.
            topics: The topics; None for all of the family.

        Raises:
            FrameRefused: The conditions on tags are not valid.
        """
        # Sorted and without duplicates: whether the client or the site set a condition makes no difference.
        conditions = {
            each.canonical: each
            for each in (Conditions.of(given) for given in (tags, site_tags) if given is not None)
            if each.canonical != _ALWAYS
        }
        boxes = None if limits is None else tuple(sorted(set(limits)))
        names = None if topics is None else frozenset(topics)
        identity = (max_level, tuple(sorted(conditions)), boxes, names)
        selector = cls._known.get(identity)
        if selector is None:
            predicates = tuple(filter(None, (conditions[text].compile() for text in identity[1])))
            made = cls(predicates, max_level=max_level, limits=boxes, topics=names)
            if max_level is not None:
                made._without_level = cls.of(tags=tags, site_tags=site_tags, limits=limits, topics=topics)
            selector = cls._known.setdefault(identity, made)
        return selector


_ALWAYS: Final = canonical({})


def _compiled(
    predicates: tuple[Predicate, ...],
    max_level: int | None,
    limits: tuple[Box, ...] | None,
    topics: frozenset[str] | None,
) -> Callable[[State], bool]:
    """A function with as few steps as possible, because it is called for each change and selector."""
    if limits is not None or topics is not None or len(predicates) > 1:
        return _compiled_any(predicates, max_level, limits, topics)
    if predicates:
        predicate = predicates[0]
        if max_level is None:
            return lambda state: predicate(state.tags)
        return lambda state: state.level <= max_level and predicate(state.tags)
    if max_level is None:
        return lambda state: True
    return lambda state: state.level <= max_level


def _compiled_any(
    predicates: tuple[Predicate, ...],
    max_level: int | None,
    limits: tuple[Box, ...] | None,
    topics: frozenset[str] | None,
) -> Callable[[State], bool]:
    boxes = None if limits is None else tuple(part for box in limits for part in rectangles(box))

    def matches(state: State) -> bool:
        if max_level is not None and state.level > max_level:
            return False
        if topics is not None and state.topic not in topics:
            return False
        for predicate in predicates:
            if not predicate(state.tags):
                return False
        return boxes is None or touches(state, boxes)

    return matches


Selector.everything = Selector.of()
