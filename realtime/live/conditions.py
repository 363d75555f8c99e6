"""
Conditions on the tags of publications: `{"mode": ["rail", "tram"], "speed": {"gte": 10}}`.

Owns their grammar, their normal form and their evaluation. Does not own the rest of a filter (filters).

The input comes from clients: its depth and size are bounded, and each condition is evaluated in bounded time.
"""

import functools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from realtime.exceptions import FrameRefused
from realtime.untrusted.text import printable

__all__ = ["NUMBER_LIMIT", "Conditions", "Predicate", "canonical", "compile_tags", "refused"]

# How many mappings may be nested by `$and`, `$or` and `$not`. The outermost one counts too.
DEPTH_LIMIT: Final = 6
# Operators in one filter, `$and`, `$or` and `$not` included.
CONDITIONS_LIMIT: Final = 64
VALUES_LIMIT: Final = 64
NAME_CHARACTERS: Final = 64
TEXT_CHARACTERS: Final = 200
# JavaScript's whole numbers are exact up to this one.
NUMBER_LIMIT: Final = 2**53 - 1
_DETAIL_CHARACTERS = 200

type Predicate = Callable[[Mapping[str, Any]], bool]
# Where in a filter something is: ("filter", "tags", "$or", 3, "speed").
type Place = tuple[object, ...]
type _Value = str | int | float | bool
# True, False, (operator, tag, operand), ("and" or "or", nodes) or ("not", node). Equal conditions are equal nodes.
type _Node = bool | tuple[Any, ...]

_ORDER: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
_TEXT: Final[dict[str, Callable[[str, str], bool]]] = {
    "sw": str.startswith,
    "ew": str.endswith,
    "ct": operator.contains,
}
_OPERATORS: Final = "eq, ne, in, nin, ex, nex, sw, ew, ct, gt, gte, lt or lte"
_OPPOSITES: Final = {"in": "nin", "nin": "in", "ex": "nex", "nex": "ex"}

_encode = msgspec.json.Encoder().encode


class Conditions(Mapping[str, Any]):
    """
    Checked conditions; also a mapping, with the content that they were made from.

    Args:
        given: The conditions as a client or a project wrote them.
        where: The path to them in the filter, for errors.

    Attributes:
        canonical: The normal form as text. Conditions that differ only in how they are written have the same one.

    Raises:
        FrameRefused: `code` is "bad_filter"; `detail` says where and what to do.
    """

    __slots__ = ("_given", "_node", "canonical")

    def __init__(self, given: Mapping[str, Any], where: Place = ("filter", "tags")) -> None:
        self._node = _Reader().mapping(given, where, 1)
        self._given = dict(given)
        self.canonical: bytes = _encode(self._node)

    @classmethod
    def of(cls, given: Mapping[str, Any], where: Place = ("filter", "tags")) -> "Conditions":
        """Like the constructor, but returns checked conditions unchanged."""
        return given if isinstance(given, cls) else cls(given, where)

    def compile(self) -> Predicate | None:
        """A function that returns whether the tags of a publication match; None if all tags do."""
        return None if self._node is True else _compiled(self._node)

    def __getitem__(self, name: str) -> Any:
        return self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)

    def __repr__(self) -> str:
        return f"Conditions({self._given!r})"


def compile_tags(tags: Mapping[str, Any]) -> Predicate | None:
    """
    A function that returns whether the tags of a publication match; None if all tags do.

    Raises:
        FrameRefused: `code` is "bad_filter"; `detail` says where and what to do.
    """
    return Conditions.of(tags).compile()


def canonical(tags: Mapping[str, Any]) -> bytes:
    """The normal form of conditions as text. Conditions that differ only in how they are written have the same one."""
    return Conditions.of(tags).canonical


def refused(where: Place, problem: str) -> FrameRefused:
    """The error for something at a place of a filter."""
    begin, *rest = where
    names = (f"[{part}]" if isinstance(part, int) else f".{printable(str(part), limit=24)}" for part in rest)
    return FrameRefused(code="bad_filter", detail=f"{begin}{''.join(names)}: {problem}"[:_DETAIL_CHARACTERS])


class _Reader:
    """Reads one filter; counts its conditions."""

    def __init__(self) -> None:
        self._count = 0

    def mapping(self, given: object, where: Place, depth: int) -> _Node:
        """All conditions of a mapping."""
        if not isinstance(given, Mapping):
            raise refused(where, f"conditions are an object such as {{'mode': 'tram'}}, not {_kind(given)}")
        if depth > DEPTH_LIMIT:
            raise refused(where, f"at most {DEPTH_LIMIT} objects inside each other: write it flatter")
        if len(given) > CONDITIONS_LIMIT:
            raise _too_many(where)
        nodes: list[_Node] = []
        for name, condition in given.items():
            if not isinstance(name, str):
                raise refused(where, f"the name of a tag is text, not {_kind(name)}")
            inner = (*where, name)
            if name.startswith("$"):
                nodes.append(self._combined(name, condition, inner, depth))
            else:
                nodes.extend(self._tag(_checked_name(name, inner), condition, inner))
        return _both(nodes)

    def _combined(self, name: str, given: object, where: Place, depth: int) -> _Node:
        if name not in ("$and", "$or", "$not"):
            raise refused(where, "no such operator: use $and, $or or $not; the name of a tag has no $ in front")
        self._take(where)
        if name == "$not":
            return _negated(self.mapping(given, where, depth + 1))
        if not isinstance(given, list | tuple):
            raise refused(where, f"it takes a list of objects, not {_kind(given)}")
        if len(given) > VALUES_LIMIT:
            raise refused(where, f"at most {VALUES_LIMIT} objects in a list, not {len(given)}")
        nodes = [self.mapping(each, (*where, index), depth + 1) for index, each in enumerate(given)]
        return _both(nodes) if name == "$and" else _negated(_both([_negated(node) for node in nodes]))

    def _tag(self, tag: str, given: object, where: Place) -> Iterator[_Node]:
        if isinstance(given, Mapping):
            if not given:
                raise refused(where, f"name an operator: {_OPERATORS}")
            for name, operand in given.items():
                self._take(where)
                yield _condition(tag, name, operand, (*where, name))
        else:
            self._take(where)
            yield _condition(tag, "in" if isinstance(given, list | tuple) else "eq", given, where)

    def _take(self, where: Place) -> None:
        self._count += 1
        if self._count > CONDITIONS_LIMIT:
            raise _too_many(where)


def _condition(tag: str, name: object, operand: object, where: Place) -> _Node:
    match name:
        case "eq" | "ne":
            return ("in" if name == "eq" else "nin", tag, (_value(operand, where),))
        case "in" | "nin":
            values = _values(operand, where)
            return (name, tag, values) if values else name == "nin"
        case "ex" | "nex":
            if operand is not True:
                other = "nex" if name == "ex" else "ex"
                raise refused(where, f"it takes true only; the opposite is {{'{other}': true}}")
            return (name, tag)
        case "sw" | "ew" | "ct":
            if not isinstance(operand, str):
                raise refused(where, f"it takes text, not {_kind(operand)}")
            return (name, tag, _value(operand, where))
        case "gt" | "gte" | "lt" | "lte":
            if isinstance(operand, bool):
                raise refused(where, "it takes a number or text: true and false have no order")
            return (name, tag, _value(operand, where))
    raise refused(where, f"no such operator: use {_OPERATORS}")


def _value(given: object, where: Place) -> _Value:
    """A value with which a tag can be compared. Equal numbers become the same number."""
    match given:
        case bool():
            return given
        case str():
            return _checked_text(given, where)
        case int():
            if abs(given) > NUMBER_LIMIT:
                raise refused(where, f"whole numbers are within ±{NUMBER_LIMIT}")
            return int(given)
        case float():
            if not math.isfinite(given):
                raise refused(where, "it takes a finite number")
            return int(given) if given.is_integer() and abs(given) <= NUMBER_LIMIT else float(given)
        case None:
            raise refused(where, "null is not a value; for a tag that is absent, write {'nex': true}")
    raise refused(where, f"it takes text, a number, true or false, not {_kind(given)}")


def _values(given: object, where: Place) -> tuple[_Value, ...]:
    if not isinstance(given, list | tuple):
        raise refused(where, f"it takes a list, not {_kind(given)}")
    if len(given) > VALUES_LIMIT:
        raise refused(where, f"at most {VALUES_LIMIT} values in a list, not {len(given)}")
    # Keyed by their text, because in a set True and 1 would be one value.
    values = {_encode(value): value for value in (_value(each, (*where, index)) for index, each in enumerate(given))}
    return tuple(value for _, value in sorted(values.items()))


def _checked_name(name: str, where: Place) -> str:
    if not name:
        raise refused(where, "the name of a tag is empty")
    if len(name) > NAME_CHARACTERS:
        raise refused(where, f"the name of a tag has at most {NAME_CHARACTERS} characters, not {len(name)}")
    return _encodable(name, where)


def _checked_text(text: str, where: Place) -> str:
    if len(text) > TEXT_CHARACTERS:
        raise refused(where, f"text has at most {TEXT_CHARACTERS} characters, not {len(text)}")
    return _encodable(text, where)


def _encodable(text: str, where: Place) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise refused(where, "it is not valid Unicode: half of a surrogate pair is missing") from None
    # A subclass, such as Django's TextChoices, becomes plain text.
    return str.__str__(text)


def _too_many(where: Place) -> FrameRefused:
    return refused(where, f"at most {CONDITIONS_LIMIT} conditions in a filter")


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "text"
        case int() | float():
            return "a number"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
    return type(value).__name__[:24]


# Normal form ----------------------------------------------------------------------------------------------------------


def _both(nodes: Iterable[_Node]) -> _Node:
    """The conjunction of these nodes, without those that always match and without duplicates, sorted by their text."""
    parts: dict[bytes, _Node] = {}
    for node in nodes:
        for part in node[1] if isinstance(node, tuple) and node[0] == "and" else (node,):
            if part is False:
                return False
            if part is not True:
                parts[_encode(part)] = part
    if len(parts) <= 1:
        return next(iter(parts.values()), True)
    return ("and", tuple(part for _, part in sorted(parts.items())))


def _negated(node: _Node) -> _Node:
    """The negation. An "and" becomes an "or" of the negations, and an "or" becomes an "and"."""
    if isinstance(node, bool):
        return not node
    kind, *rest = node
    match kind:
        case "and" | "or":
            parts = {_encode(part): part for part in (_negated(part) for part in rest[0])}
            return ("or" if kind == "and" else "and", tuple(part for _, part in sorted(parts.items())))
        case "not":
            opposite: _Node = rest[0]
            return opposite
        case "in" | "nin" | "ex" | "nex":
            return (_OPPOSITES[kind], *rest)
    return ("not", node)


# Evaluation -----------------------------------------------------------------------------------------------------------


def _compiled(node: _Node) -> Predicate:
    if isinstance(node, bool):
        return lambda tags: node
    kind, subject, *operand = node
    match kind:
        case "and" | "or":
            return functools.reduce(functools.partial(_compiled_pair, kind), map(_compiled, subject))
        case "not":
            inner = _compiled(subject)
            return lambda tags: not inner(tags)
        case "in":
            return _compiled_in(subject, operand[0])
        case "nin":
            among = _compiled_in(subject, operand[0])
            return lambda tags: not among(tags)
        case "ex":
            return lambda tags: subject in tags
        case "nex":
            return lambda tags: subject not in tags
        case "sw" | "ew" | "ct":
            return _compiled_text(_TEXT[kind], subject, operand[0])
    return _compiled_order(_ORDER[kind], subject, operand[0])


def _compiled_pair(kind: str, first: Predicate, second: Predicate) -> Predicate:
    if kind == "and":
        return lambda tags: first(tags) and second(tags)
    return lambda tags: first(tags) or second(tags)


def _compiled_in(tag: str, values: tuple[_Value, ...]) -> Predicate:
    """Whether the tag has one of the values. In Python, True equals 1, so booleans are looked up apart."""
    if all(isinstance(value, str) for value in values):
        if len(values) == 1:
            only = values[0]
            return lambda tags: tags.get(tag) == only
        texts = frozenset(values)
        return lambda tags: tags.get(tag) in texts
    flags = frozenset(value for value in values if isinstance(value, bool))
    others = frozenset(value for value in values if not isinstance(value, bool))

    def match(tags: Mapping[str, Any]) -> bool:
        value = tags.get(tag)
        return value in (flags if value is True or value is False else others)

    return match


def _compiled_text(compare: Callable[[str, str], bool], tag: str, operand: str) -> Predicate:
    def match(tags: Mapping[str, Any]) -> bool:
        value = tags.get(tag)
        return value.__class__ is str and compare(value, operand)

    return match


def _compiled_order(compare: Callable[[Any, Any], bool], tag: str, operand: Any) -> Predicate:
    """Text is compared with text, by code points; numbers with numbers."""
    types = (str,) if isinstance(operand, str) else (int, float)

    def match(tags: Mapping[str, Any]) -> bool:
        value = tags.get(tag)
        return value.__class__ in types and compare(value, operand)

    return match
