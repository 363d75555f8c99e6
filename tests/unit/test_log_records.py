"""A log record as JSON: from `logging`, and from other programs."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from realtime.logs.record import decode_record, encode_record, read_published


def made(message: object = "hello", *arguments: object, **extra: Any) -> logging.LogRecord:
    logger = logging.getLogger("game.combat")
    return logger.makeRecord(logger.name, logging.INFO, __file__, 1, message, arguments, None, extra=extra)


def test_a_record_has_level_time_logger_message_and_extra() -> None:
    """Nothing else, unless it is there."""
    record = made("%s attacks %s", "Ada", "Bo", damage=12)
    assert json.loads(encode_record(record)) == {
        "level": "INFO",
        "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
        "logger": "game.combat",
        "message": "Ada attacks Bo",
        "extra": {"damage": 12},
    }


@pytest.mark.parametrize("task", [{"game_token": "g1"}, '{"game_token": "g1"}'], ids=["a dict", "a JSON text"])
def test_queue_and_task_are_fields_of_their_own(task: object) -> None:
    """A task may be a JSON text already."""
    record = decode_record(encode_record(made(queue="lib.server.lobby", task=task)))
    assert (record.queue, record.task, record.extra) == ("lib.server.lobby", {"game_token": "g1"}, {})


def test_a_task_that_is_some_text_stays_a_text() -> None:
    """Only JSON is decoded."""
    assert decode_record(encode_record(made(task="clean {up"))).task == "clean {up"


def test_what_a_formatter_stored_on_the_record_is_not_extra() -> None:
    """Another handler may have formatted it before."""
    record = made(damage=12)
    logging.Formatter("%(asctime)s %(message)s").format(record)
    assert decode_record(encode_record(record)).extra == {"damage": 12}


def test_an_exception_has_its_traceback() -> None:
    """Whether a formatter has made it before or not."""
    try:
        raise ValueError("no such hero")
    except ValueError:
        record = made()
        record.exc_info = sys.exc_info()
    text = decode_record(encode_record(record)).exception
    assert text.startswith("Traceback")
    assert text.endswith("ValueError: no such hero")
    logging.Formatter().format(record)
    assert decode_record(encode_record(record)).exception == text


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("broken")

    __repr__ = __str__


def cycle() -> list[object]:
    values: list[object] = []
    values.append(values)
    return values


def deep() -> object:
    value: object = 1
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        object(),
        Unprintable(),
        "\ud800",
        {"\ud800": 1},
        {(1, 2): 3},
        {None: 1},
        2**70,
        float("nan"),
        b"\xff",
        {1, 2},
        cycle(),
        deep(),
        ValueError("x"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("name", ["task", "extra", "queue", "message", "argument"])
def test_values_that_json_does_not_have_lose_no_record(name: str, value: object) -> None:
    """They become text, wherever they are."""
    if name == "message":
        record = made(value)
    elif name == "argument":
        record = made("%s", value)
    else:
        record = made(**{name: value})
    assert decode_record(encode_record(record)).logger == "game.combat"


@pytest.mark.parametrize("name", ["task", "extra"])
def test_values_that_refer_to_each_other_cost_no_time(name: str) -> None:
    """There are very many paths through them: the program that logs must not follow each."""
    nodes: list[dict[str, object]] = [{"number": number} for number in range(30)]
    for node in nodes:
        node["neighbours"] = nodes
    record = decode_record(encode_record(made(**{name: nodes[3]})))
    found = record.task if name == "task" else record.extra["extra"]
    assert found["number"] == 3
    assert found["neighbours"][7]["number"] == 7
    assert found["neighbours"][7]["neighbours"] == "..."


def test_a_record_may_have_no_logger() -> None:
    """`makeLogRecord` makes such ones; the sinks would refuse them."""
    assert decode_record(encode_record(logging.makeLogRecord({"msg": "hello"}))).message == "hello"


def test_arguments_that_do_not_fit_are_in_the_message() -> None:
    """`logging` itself would print a traceback, and lose the record."""
    message = decode_record(encode_record(made("%d points", "many"))).message
    assert message.startswith("%d points (the arguments ('many',) do not fit")


def test_later_changes_of_a_value_have_no_effect() -> None:
    """It is encoded at once."""
    task = {"round": 1}
    body = encode_record(made(task=task))
    task["round"] = 2
    assert decode_record(body).task == {"round": 1}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"level": 3}', b"\xff"])
def test_what_is_not_a_record_is_refused_with_a_reason(body: bytes) -> None:
    """A ValueError says what is wrong."""
    with pytest.raises(ValueError, match=r".+"):
        decode_record(body)


PUBLISHED = {"level": "WARNING", "timestamp": "2023-11-14T22:13:20Z", "name": "lobby", "message": "Cleaning"}


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({**PUBLISHED, "task": {"game_token": "g"}}),
        json.dumps({**PUBLISHED, "task": '{"game_token": "g"}'}),
        json.dumps(json.dumps({**PUBLISHED, "task": '{"game_token": "g"}'})),
        json.dumps({**PUBLISHED, "timestamp": 1_700_000_000, "task": {"game_token": "g"}}),
        json.dumps({**PUBLISHED, "timestamp": "2023-11-14 22:13:20,000", "task": {"game_token": "g"}}),
        json.dumps({**PUBLISHED, "timestamp": "2023-11-14T23:13:20+01:00", "level": 30, "task": {"game_token": "g"}}),
    ],
    ids=["an object", "a task that is a text", "an object in a text", "seconds", "a time of logging", "numbers"],
)
def test_other_programs_may_publish_records(body: str) -> None:
    """A JSON object, or a JSON string that contains one; `task` may be a JSON string too."""
    record = read_published(body.encode())
    assert record.timestamp == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert (record.level, record.logger, record.message) == ("WARNING", "lobby", "Cleaning")
    assert record.task == {"game_token": "g"}


def test_a_published_record_needs_only_a_message() -> None:
    """The rest has defaults."""
    record = read_published(b'{"message": "hello"}')
    assert (record.level, record.message, record.task) == ("INFO", "hello", None)
    assert record.timestamp.tzinfo is not None


def test_unknown_fields_of_a_published_record_are_extra() -> None:
    """Also a timestamp that cannot be read."""
    body = {"message": "m", "timestamp": "yesterday", "points": 3, "extra": {"round": 2}, "level": None}
    record = read_published(json.dumps(body).encode())
    assert record.extra == {"round": 2, "timestamp": "yesterday", "points": 3}
    assert record.level == "None"


@pytest.mark.parametrize("body", [b"", b"hello", b'"hello"', b"{}", b'{"message": 1, "level": []}', b"[1]"])
def test_other_publications_are_refused(body: bytes) -> None:
    """A ValueError says what is wrong."""
    with pytest.raises(ValueError, match=r".+"):
        read_published(body)


@pytest.mark.parametrize("timestamp", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", 1e300])
def test_a_published_time_that_utc_does_not_have_is_extra(timestamp: object) -> None:
    """As any time that cannot be read."""
    record = read_published(json.dumps({"message": "m", "timestamp": timestamp}).encode())
    assert record.extra == {"timestamp": timestamp}
