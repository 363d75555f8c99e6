"""Filters of live topics: their grammar, their limits, and what they let through."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from django.db.models import TextChoices
from hypothesis import given
from hypothesis import strategies as st

from realtime.broker.relevance import WORLD, Relevance
from realtime.exceptions import FrameRefused
from realtime.live.filters import Filter, Selector, canonical, compile_tags
from realtime.live.items import State
from tests.support.relevances import state_with

TRAM = {"mode": "tram", "speed": 12, "line": "7", "is_late": True}


def item(
    place: tuple[int, ...] | None = None, tags: Mapping[str, Any] | None = None, level: int = 0, topic: str = "a"
) -> State:
    relevance = Relevance(key="tram-7", place=place, tags=dict(tags or {}), level=level)
    return state_with(topic, 1, b"{}", relevance)


def matches(conditions: Mapping[str, Any], tags: Mapping[str, Any]) -> bool:
    predicate = compile_tags(conditions)
    return predicate is None or predicate(tags)


@pytest.mark.parametrize(
    ("conditions", "is_match"),
    [
        ({}, True),
        ({"mode": "tram"}, True),
        ({"mode": "bus"}, False),
        ({"mode": ["rail", "tram"]}, True),
        ({"mode": []}, False),
        ({"mode": {"eq": "tram"}}, True),
        ({"mode": {"ne": "tram"}}, False),
        ({"absent": {"ne": "tram"}}, True),
        ({"mode": {"in": ["bus"]}}, False),
        ({"mode": {"nin": ["bus"]}}, True),
        ({"absent": {"nin": ["bus"]}}, True),
        ({"mode": {"nin": []}}, True),
        ({"mode": {"ex": True}}, True),
        ({"mode": {"nex": True}}, False),
        ({"absent": {"nex": True}}, True),
        ({"mode": {"sw": "tr"}}, True),
        ({"mode": {"ew": "am"}}, True),
        ({"mode": {"ct": "ra"}}, True),
        ({"mode": {"ct": "RA"}}, False),
        ({"mode": {"sw": ""}}, True),
        ({"speed": {"sw": "1"}}, False),
        ({"speed": {"gte": 12, "lt": 30}}, True),
        ({"speed": {"gt": 12}}, False),
        ({"speed": {"lte": 12.0}}, True),
        ({"speed": 12.0}, True),
        ({"speed": "12"}, False),
        ({"speed": {"gt": "1"}}, False),
        ({"line": {"gt": 1}}, False),
        ({"line": {"gt": "10"}}, True),
        ({"absent": {"lt": 5}}, False),
        ({"is_late": True}, True),
        ({"is_late": 1}, False),
        ({"is_late": [1, False]}, False),
        ({"is_late": ["x", True]}, True),
        ({"is_late": {"gte": 0}}, False),
        ({"mode": "tram", "line": "8"}, False),
        ({"$or": [{"mode": "bus"}, {"line": "7"}]}, True),
        ({"$or": [{"mode": "bus"}, {"line": "8"}, {"line": "9"}]}, False),
        ({"$or": []}, False),
        ({"$or": [{}]}, True),
        ({"$and": [{"mode": "tram"}, {"line": "7"}, {"speed": 12}]}, True),
        ({"$and": []}, True),
        ({"$not": {"mode": "tram"}}, False),
        ({"$not": {"mode": "tram", "line": "8"}}, True),
        ({"$not": {"absent": {"gt": 5}}}, True),
        ({"$not": {}}, False),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
def test_conditions_on_tags(conditions: dict[str, Any], is_match: bool) -> None:
    """Values of different types are never equal nor ordered; an absent tag fails all but ne, nin and nex."""
    assert matches(conditions, TRAM) is is_match


def nested(depth: int) -> dict[str, Any]:
    tags: dict[str, Any] = {"mode": "tram"}
    for _ in range(depth - 1):
        tags = {"$not": tags}
    return tags


@pytest.mark.parametrize(
    ("tags", "where", "problem"),
    [
        ({"speed": {"gte": None}}, "filter.tags.speed.gte", "null"),
        ({"speed": {"gte": True}}, "filter.tags.speed.gte", "no order"),
        ({"speed": {"gte": [1]}}, "filter.tags.speed.gte", "not a list"),
        ({"speed": {"gte": 10**400}}, "filter.tags.speed.gte", "whole numbers"),
        ({"speed": 2**53}, "filter.tags.speed", "whole numbers"),
        ({"speed": float("nan")}, "filter.tags.speed", "finite"),
        ({"speed": [1, float("-inf")]}, "filter.tags.speed[1]", "finite"),
        ({"speed": {}}, "filter.tags.speed", "name an operator"),
        ({"speed": {"above": 3}}, "filter.tags.speed.above", "no such operator"),
        ({"speed": {"$gte": 3}}, "filter.tags.speed.$gte", "no such operator"),
        ({"speed": {7: 3}}, "filter.tags.speed[7]", "no such operator"),
        ({"mode": None}, "filter.tags.mode", "null"),
        ({"mode": [["tram"]]}, "filter.tags.mode[0]", "not a list"),
        ({"mode": {"in": "tram"}}, "filter.tags.mode.in", "it takes a list, not text"),
        ({"mode": {"eq": {"a": 1}}}, "filter.tags.mode.eq", "not an object"),
        ({"mode": {"ct": 7}}, "filter.tags.mode.ct", "it takes text, not a number"),
        ({"mode": {"ex": False}}, "filter.tags.mode.ex", "nex"),
        ({"mode": {"nex": 1}}, "filter.tags.mode.nex", "it takes true only"),
        ({"mode": "x" * 201}, "filter.tags.mode", "at most 200 characters"),
        ({"mode": "\ud800"}, "filter.tags.mode", "Unicode"),
        ({"\ud800": "x"}, r"filter.tags.\ud800", "Unicode"),
        ({"mode": ["x"] * 65}, "filter.tags.mode", "at most 64 values"),
        ({"": "x"}, "filter.tags.", "empty"),
        ({"x" * 65: 1}, f"filter.tags.{'x' * 24}…", "at most 64 characters"),
        ({7: "x"}, "filter.tags", "the name of a tag is text"),
        ({"$xor": []}, "filter.tags.$xor", "use $and, $or or $not"),
        ({"$or": {"mode": "tram"}}, "filter.tags.$or", "a list of objects, not an object"),
        ({"$or": ["tram"]}, "filter.tags.$or[0]", "not text"),
        ({"$or": [{}] * 65}, "filter.tags.$or", "at most 64 objects"),
        ({"$not": [{}]}, "filter.tags.$not", "not a list"),
        ({f"tag-{number}": 1 for number in range(65)}, "filter.tags", "at most 64 conditions"),
        ({"$and": [{"mode": "x"}] * 64}, "filter.tags.$and[63].mode", "at most 64 conditions"),
        (nested(7), "filter.tags" + ".$not" * 6, "at most 6 objects inside each other"),
        ([], "filter.tags", "conditions are an object"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_refusal_says_where_and_what_to_do(tags: Any, where: str, problem: str) -> None:
    """Its text is one line of bounded length."""
    with pytest.raises(FrameRefused) as refused:
        Filter(tags=tags)
    assert refused.value.code == "bad_filter"
    assert refused.value.detail.startswith(f"{where}: ")
    assert problem in refused.value.detail
    assert len(refused.value.detail) <= 200
    assert refused.value.detail.isprintable()


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ([], "filter: "),
        ("tram", "filter: "),
        ({"tag": {}}, "filter.tag: "),
        ({"bbox": [1, 2, 3]}, "filter.bbox: "),
        ({"bbox": "1,2,3,4"}, "filter.bbox: "),
        ({"bbox": {"west": 1}}, "filter.bbox: "),
        ({"bbox": [1, 2, 3, "4"]}, "filter.bbox[3]: "),
        ({"bbox": [True, 2, 3, 4]}, "filter.bbox[0]: "),
        ({"bbox": [None, 2, 3, 4]}, "filter.bbox[0]: "),
        ({"bbox": [float("nan"), 2, 3, 4]}, "filter.bbox[0]: "),
        ({"bbox": [float("inf"), 2, 3, 4]}, "filter.bbox[0]: "),
        ({"bbox": [10**400, 2, 3, 4]}, "filter.bbox[0]: "),
        ({"bbox": [1e7, 2, 3, 4]}, "filter.bbox: "),
        ({"bbox": [46.9, 7.4, 47, 91]}, "filter.bbox: "),
        ({"bbox": [7, 48, 8, 47]}, "filter.bbox: "),
        ({"zoom": "9"}, "filter.zoom: "),
        ({"zoom": True}, "filter.zoom: "),
        ({"zoom": float("nan")}, "filter.zoom: "),
        ({"zoom": 10**400}, "filter.zoom: "),
        ({"tags": 7}, "filter.tags: "),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_filter_of_another_form_is_refused(given: Any, where: str) -> None:
    """A misspelt field too: otherwise the whole world would be sent."""
    with pytest.raises(FrameRefused) as refused:
        Filter.of(given)
    assert refused.value.code == "bad_filter"
    assert refused.value.detail.startswith(where)


def test_the_errors_of_a_projects_own_filter_name_its_function() -> None:
    """The place begins with the name that the caller gives."""
    with pytest.raises(FrameRefused, match=r"Vehicles\.filter_for\.tags\.mode: null"):
        Filter.of({"tags": {"mode": None}}, ("Vehicles.filter_for",))


def test_a_filter_has_one_form() -> None:
    """As a client sends it, and as a project writes it."""
    sent = Filter.of({"bbox": [170, -20, -170, 20], "zoom": 9, "tags": {"mode": "tram"}})
    assert sent == Filter(bbox=(170.0, -20.0, -170.0, 20.0), zoom=9.0, tags={"mode": "tram"})
    assert Filter.of(sent) is sent
    assert Filter.of(None) == Filter.of({}) == Filter.of({"bbox": None, "zoom": None, "tags": None}) == Filter()
    assert Filter(zoom=-0.5).zoom == 0.0, "level 0 is shown on a map that shows the world more than once"


def test_values_of_choices_are_values() -> None:
    """A project's filter may use the members of Django's choices; their text counts."""

    class Mode(TextChoices):
        TRAM = "tram"

    assert matches({"mode": Mode.TRAM}, TRAM)
    assert canonical({"mode": [Mode.TRAM]}) == canonical({"mode": "tram"})


@pytest.mark.parametrize(
    "written",
    [
        [{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"$and": [{"a": 1}, {"b": 2}]}, {"a": 1.0, "$and": [{"b": {"eq": 2}}]}],
        [{"a": [2, 1]}, {"a": [1, 2, 1.0]}, {"a": {"in": [1, 2]}}, {"$not": {"a": {"nin": [2, 1]}}}],
        [{"$or": [{"a": 1}, {"b": 1}]}, {"$not": {"a": {"ne": 1}, "b": {"ne": 1}}}],
        [{}, {"$and": []}, {"a": {"nin": []}}, {"$or": [{}, {"a": 1}]}],
        [{"a": []}, {"$or": []}, {"$not": {}}, {"a": 1, "$or": []}],
        [{"a": 0.0}, {"a": -0.0}, {"a": 0}],
        [{"a": True}, {"a": [True, True]}],
        [{"a": {"gt": 1}}, {"$not": {"$not": {"a": {"gt": 1}}}}],
    ],
    ids=lambda written: json.dumps(written[0]),
)
def test_equal_filters_have_equal_text(written: list[dict[str, Any]]) -> None:
    """And one selector, so that what was found for one view serves the others."""
    assert len({canonical(tags) for tags in written}) == 1
    assert len({Selector.of(tags=tags, max_level=3) for tags in written}) == 1


@pytest.mark.parametrize(("one", "other"), [(1, True), (0, False), ("1", 1), ("true", True), (1, 2)])
def test_different_filters_have_different_text(one: Any, other: Any) -> None:
    """Though some of their values are equal to Python."""
    assert canonical({"a": one}) != canonical({"a": other})
    assert canonical({"a": [one, other]}) != canonical({"a": [other]})


# Against a naive evaluator --------------------------------------------------------------------------------------------

VALUES = st.one_of(
    st.sampled_from(["", "a", "ab", "b", "1"]),
    st.integers(-2, 2),
    st.sampled_from([0.0, -0.0, 1.0, 0.5]),
    st.booleans(),
)
TAGS = st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES)
ORDERED = VALUES.filter(lambda value: not isinstance(value, bool))
OPERATIONS = st.one_of(
    st.tuples(st.sampled_from(["eq", "ne"]), VALUES),
    st.tuples(st.sampled_from(["in", "nin"]), st.lists(VALUES, max_size=3)),
    st.tuples(st.sampled_from(["ex", "nex"]), st.just(True)),
    st.tuples(st.sampled_from(["sw", "ew", "ct"]), st.sampled_from(["", "a", "b", "ab"])),
    st.tuples(st.sampled_from(["gt", "gte", "lt", "lte"]), ORDERED),
)
LEAVES = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.one_of(VALUES, st.lists(VALUES, max_size=3), st.lists(OPERATIONS, min_size=1, max_size=3).map(dict)),
    max_size=3,
)


def combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda leaves, combinations: {**leaves, **combinations},
        LEAVES,
        st.fixed_dictionaries(
            {}, optional={"$not": inner, "$or": st.lists(inner, max_size=3), "$and": st.lists(inner, max_size=3)}
        ),
    )


CONDITIONS = st.recursive(LEAVES, combined, max_leaves=8).filter(lambda tags: depth_of(tags) <= 5)


def depth_of(tags: Any) -> int:
    inner = [tags["$not"]] if "$not" in tags else []
    inner += [*tags.get("$or", []), *tags.get("$and", [])]
    return 1 + max(map(depth_of, inner), default=0)


def is_equal(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return isinstance(one, str) == isinstance(other, str) and bool(one == other)


def holds(tags: Mapping[str, Any], name: str, operation: str, operand: Any) -> bool:
    """One condition, as the documentation says it."""
    value, is_present = tags.get(name), name in tags
    match operation:
        case "eq":
            return is_present and is_equal(value, operand)
        case "ne":
            return not holds(tags, name, "eq", operand)
        case "in":
            return any(holds(tags, name, "eq", each) for each in operand)
        case "nin":
            return not holds(tags, name, "in", operand)
        case "ex" | "nex":
            return is_present == (operation == "ex")
        case "sw" | "ew" | "ct":
            if not isinstance(value, str):
                return False
            return {"sw": value.startswith(operand), "ew": value.endswith(operand), "ct": operand in value}[operation]
    if not is_present or isinstance(value, bool) or isinstance(value, str) != isinstance(operand, str):
        return False
    assert value is not None
    return bool(
        {"gt": value > operand, "gte": value >= operand, "lt": value < operand, "lte": value <= operand}[operation]
    )


def naive(conditions: Mapping[str, Any], tags: Mapping[str, Any]) -> bool:
    for name, condition in conditions.items():
        if name == "$not":
            is_match = not naive(condition, tags)
        elif name == "$or":
            is_match = any(naive(each, tags) for each in condition)
        elif name == "$and":
            is_match = all(naive(each, tags) for each in condition)
        elif isinstance(condition, dict):
            is_match = all(holds(tags, name, operation, operand) for operation, operand in condition.items())
        else:
            is_match = holds(tags, name, "in" if isinstance(condition, list) else "eq", condition)
        if not is_match:
            return False
    return True


@given(CONDITIONS, st.lists(TAGS, min_size=1, max_size=8))
def test_conditions_match_what_the_grammar_says(conditions: Any, publications: list[dict[str, Any]]) -> None:
    """Compared with an evaluator that only follows the rules; the normal form changes no answer."""
    for tags in publications:
        assert matches(conditions, tags) is naive(conditions, tags)


@given(CONDITIONS, CONDITIONS, st.lists(TAGS, min_size=1, max_size=8))
def test_conditions_of_one_text_match_the_same(one: Any, other: Any, publications: list[dict[str, Any]]) -> None:
    """The text stands for the conditions: the opposite of the opposite has the same, and so do equal filters."""
    assert canonical({"$not": {"$not": one}}) == canonical(one) if depth_of(one) <= 4 else True
    if canonical(one) == canonical(other):
        for tags in publications:
            assert naive(one, tags) == naive(other, tags)


def section(page: str, heading: str) -> str:
    text = (Path(__file__).resolve().parents[2] / "docs" / page).read_text()
    return text.partition(f"{heading}\n")[2].partition("\n## ")[0]


def test_the_documented_conditions_are_those_that_there_are() -> None:
    """docs/reference/protocol.md names each operator, and its examples are valid filters."""
    text = section("reference/protocol.md", "### Filters")
    (example,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    assert Filter.of(json.loads(example)) != Filter()
    rows = "".join(line for line in text.splitlines(keepends=True) if line.startswith("| `{"))
    for condition in re.findall(r"`(\{.+?\})`", rows):
        compile_tags(json.loads(condition.replace("{ … }", '{"a": 1}').replace("[ … ]", "[]")))
    with pytest.raises(FrameRefused) as refused:
        compile_tags({"mode": {"unknown": 1}})
    operators = refused.value.detail.rpartition("use ")[2].replace(" or ", ", ").split(", ")
    for operator in operators:
        assert f'{{"{operator}":' in rows or f"`{operator}`" in rows, operator


# Selectors ------------------------------------------------------------------------------------------------------------


def test_a_selector_of_nothing_lets_everything_through() -> None:
    """It is one object."""
    assert Selector.of() is Selector.of(tags={}) is Selector.everything
    assert Selector.everything.matches(item(level=24))


def test_all_conditions_of_a_selector_must_hold() -> None:
    """The client's and the server's, the level, the topic, and the boxes."""
    selector = Selector.of(
        max_level=10, tags={"mode": "tram"}, site_tags={"line": "7"}, limits=[(0, 0, 9, 9)], topics=["a"]
    )
    assert selector.matches(item((5, 5), TRAM, 10))
    assert not selector.matches(item((5, 5), TRAM, 10, "b"))
    assert not selector.matches(item((5, 5), TRAM, 11))
    assert not selector.matches(item((10, 5), TRAM, 10))
    assert not selector.matches(item((5, 5), TRAM | {"mode": "bus"}, 10))
    assert not selector.matches(item((5, 5), TRAM | {"line": "8"}, 10))


@pytest.mark.parametrize("first", [{"tags": {"mode": "tram"}}, {"max_level": 3}, {"max_level": 3, "tags": {"a": 1}}])
def test_equal_selectors_are_one_object(first: dict[str, Any]) -> None:
    """Until the last view that uses it is gone."""
    assert Selector.of(**first) is Selector.of(**first)
    assert Selector.of(**first) is not Selector.everything


def test_who_set_a_condition_makes_no_difference() -> None:
    """A site's filter and a client's filter of the same tags are one condition."""
    tram, bus = {"mode": "tram"}, {"mode": "bus"}
    assert Selector.of(tags=tram) is Selector.of(site_tags=tram) is Selector.of(tags=tram, site_tags=tram)
    assert Selector.of(tags=tram, site_tags=bus) is Selector.of(tags=bus, site_tags=tram)
    assert not Selector.of(tags=tram, site_tags=bus).matches(item(tags=TRAM))


def test_a_client_can_only_narrow_the_servers_filter() -> None:
    """Whatever it sends, nothing else gets through."""
    for tags in ({}, {"mode": "bus"}, {"$or": [{}, {"mode": "bus"}]}, {"$not": {"mode": "tram"}}):
        assert not Selector.of(tags=tags, site_tags={"mode": "tram"}).matches(item(tags={"mode": "bus"}))


def test_no_topic_and_no_box_let_nothing_through() -> None:
    """An empty set is not the same as none."""
    assert not Selector.of(topics=[]).matches(item())
    assert not Selector.of(limits=[]).matches(item((5, 5)))


EDGES = st.sampled_from([0, 1, 2, 3, 4, WORLD - 3, WORLD - 2, WORLD - 1])
BOXES = st.tuples(EDGES, st.integers(0, 4), EDGES, st.integers(0, 4)).map(
    lambda box: (box[0], min(box[1], box[3]), box[2], max(box[1], box[3]))
)
PLACES = st.one_of(st.none(), st.tuples(EDGES, st.integers(0, 4)), BOXES)


def columns(west: int, east: int) -> set[int]:
    """The columns near longitude 180 that are in it."""
    near = [*range(6), *range(WORLD - 6, WORLD)]
    return {x for x in near if (west <= x <= east if west <= east else x >= west or x <= east)}


@given(PLACES, st.lists(BOXES, max_size=3))
def test_the_boxes_of_the_server_are_exact(
    place: tuple[int, ...] | None, boxes: list[tuple[int, int, int, int]]
) -> None:
    """A point or a box is let through if it has a column and a row in common with one of them."""
    is_match = Selector.of(limits=boxes).matches(item(place))
    if place is None:
        assert is_match
        return
    x0, y0, x1, y1 = place if len(place) == 4 else (*place, *place)
    assert is_match == any(
        columns(x0, x1) & columns(west, east) and set(range(y0, y1 + 1)) & set(range(north, south + 1))
        for west, north, east, south in boxes
    )
