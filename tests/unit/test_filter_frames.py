"""Whatever a client sends as a filter is either refused with a reason or evaluated, in bounded time."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.broker.relevance import Relevance
from realtime.exceptions import FrameRefused
from realtime.live.filters import Filter, Selector
from realtime.live.places import area_of, level_limit
from realtime.protocol import messages
from tests.support.relevances import state_with

TAGS = {"mode": "tram", "speed": 12, "is_late": True}
TRAM = state_with("vehicles.sbb", 1, b"{}", Relevance(key="tram-7", place=(5, 5), tags=TAGS, level=3))
# A reason of the protocol; all others are mistakes of the server.
CODES = {"bad_json", "bad_frame", "bad_filter"}


def answer(line: bytes) -> str | bool:
    """The code of the refusal, or whether the filter lets a certain publication through."""
    try:
        frame = messages.decode(line)
        assert isinstance(frame, messages.SetFilter | messages.Subscribe)
        chosen = Filter.decode(frame.filter)
    except FrameRefused as refused:
        assert refused.code in CODES
        assert 0 < len(refused.detail) <= 200
        messages.error(code=refused.code, detail=refused.detail)
        return refused.code
    area_of(chosen.bbox)
    selector = Selector.of(max_level=level_limit(chosen.bbox, chosen.zoom), tags=chosen.tags)
    return selector.matches(TRAM)


def frame_of(text: str) -> bytes:
    return b'{"type":"filter","view":"v1","number":1,"filter":' + text.encode() + b"}"


NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.just(10**400), st.booleans())
ANYTHING = st.recursive(
    st.one_of(st.none(), NUMBERS, st.text(max_size=300).filter(lambda text: text.isprintable())),
    lambda inner: st.one_of(st.lists(inner, max_size=70), st.dictionaries(st.text(max_size=70), inner, max_size=70)),
    max_leaves=20,
)
# As close to the grammar as a mistake is.
NAMES = st.one_of(
    st.sampled_from(["$and", "$or", "$not", "$xor", "eq", "in", "nin", "ex", "nex", "sw", "ct", "gt", "lte", "mode"]),
    st.text(max_size=70),
)
TAGS = st.recursive(
    st.one_of(ANYTHING, st.sampled_from(["tram", 12, True, None, [], {}, 1e308, 2**53, ""])),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=12,
)
FILTERS = st.one_of(
    ANYTHING,
    st.fixed_dictionaries({}, optional={"bbox": st.lists(NUMBERS, min_size=3, max_size=5), "zoom": NUMBERS}),
    st.dictionaries(NAMES, TAGS, max_size=4).map(lambda tags: {"tags": tags}),
    st.fixed_dictionaries({"tags": TAGS, "bbox": ANYTHING}),
)


@given(FILTERS)
def test_a_filter_is_refused_or_evaluated(filter: Any) -> None:
    """Nothing but a refusal of the protocol is raised, whatever the filter is."""
    answer(frame_of(json.dumps(filter, ensure_ascii=False)))


@given(st.binary(max_size=200))
def test_bytes_in_place_of_a_filter_are_refused_or_evaluated(text: bytes) -> None:
    """Also those that end the frame early."""
    try:
        messages.decode(b'{"type":"filter","view":"v1","number":1,"filter":' + text + b"}")
    except FrameRefused as refused:
        assert refused.code in CODES


@given(st.text(max_size=200))
def test_text_in_place_of_a_filter_is_refused_or_evaluated(text: str) -> None:
    """As JSON text it is not a filter; as it is, it may be one."""
    assert answer(frame_of(json.dumps(text))) in CODES
    answer(frame_of(text))


def nested(text: str, depth: int, end: str) -> str:
    return text * depth + end * depth


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", True),
        ('{"tags":{"mode":"tram"}}', True),
        ('{"tags":{"mode":"bus"}}', False),
        ('{"zoom":2}', False),
        ("null", "bad_filter"),
        ('"tram"', "bad_filter"),
        ('{"zoom":1e400}', "bad_filter"),
        ('{"tags":{"a":1e400}}', "bad_filter"),
        ('{"tags":{"a":1' + "0" * 50_000 + "}}", "bad_filter"),
        ('{"tags":' + nested('{"$not":', 300, "}").replace(":}", ":{}}", 1) + "}", "bad_filter"),
        ('{"tags":' + nested("[", 200, "]") + "}", "bad_filter"),
        ('{"tags":' + nested("[", 25_000, "]") + "}", "bad_json"),
        ('{"tags":{"a":[' + ",".join(["1"] * 30_000) + "]}}", "bad_filter"),
        ('{"tags":{' + ",".join(f'"{number}":1' for number in range(7_000)) + "}}", "bad_filter"),
        ('{"tags":{"$or":[' + ",".join(["{}"] * 20_000) + "]}}", "bad_filter"),
        ('{"tags":{"' + "a" * 60_000 + '":1}}', "bad_filter"),
        ('{"tags":{"a":"' + "a" * 60_000 + '"}}', "bad_filter"),
        ('{"bbox":[' + ",".join(["1"] * 30_000) + "]}", "bad_filter"),
        ("{" + ",".join(f'"{number}":1' for number in range(7_000)) + "}", "bad_filter"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_large_filter_is_answered(text: str, expected: str | bool) -> None:
    """Those that are too large are refused, with the reason."""
    assert answer(frame_of(text)) == expected


# The costliest that the limits allow. Each list is as long as it may be, and so is each text.
LONG = ["x" * 195 + f"{number:05}" for number in range(64)]
COSTLY = {
    "long lists": {"mode": {"in": LONG, "nin": LONG}},
    "empty objects": {"$or": [{"$and": [{}] * 64, "mode": "x"}] * 30},
    "many conditions": {"$and": [{"mode": {"ct": text}} for text in LONG[:63]]},
    "deep": {"$not": {"$or": [{"$not": {"$and": [{"$not": {f"t{n}": {"gt": n}}} for n in range(30)]}}]}},
}


@pytest.mark.parametrize("name", COSTLY)
def test_the_costliest_filters_are_cheap(name: str) -> None:
    """Read and evaluated within a time that a busy machine keeps too: no step is repeated for each of another."""
    tags = COSTLY[name]
    value = state_with("a", 1, b"{}", Relevance(key="k", tags={"mode": "x" * 200}))
    used = time.thread_time()
    for _ in range(10):
        predicate = Selector.of(tags=Filter(tags=tags).tags).matches
        for _ in range(100):
            predicate(value)
    assert time.thread_time() - used < 2.0
