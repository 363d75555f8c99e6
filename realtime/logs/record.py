"""
A log record as JSON.

Owns its form, and how it is made from a record of `logging` or from a message that another program published. Does not
own sending it (sender) nor the entry that contains it (stream).
"""

import logging
from collections.abc import Mapping, Set
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

__all__ = ["LogRecord", "decode_record", "encode", "encode_record", "read_published"]

# If JSON cannot express a record, a copy is made that it can express. In this copy, "..." replaces a collection that is
# nested deeper than the first limit, that contains itself, or that comes after more values than the second limit.
# Collections that refer to each other would have very many values.
_DEPTH_LIMIT: Final = 16
_VALUES_LIMIT: Final = 200_000
# Integers from this on, and below its negative, become text.
_INTEGER_LIMIT: Final = 2**63

# How many attributes `logging` itself sets on a record. It sets them first, so all later ones come from `extra=…` or
# from a formatter.
_OWN_COUNT: Final = len(vars(logging.makeLogRecord({})))
# The attributes that a formatter sets.
_FORMATTED: Final = ("message", "asctime")


class LogRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    A log record.

    Attributes:
        level: The name of its level: "INFO".
        timestamp: When it was logged, in UTC.
        logger: The name of its logger.
        message: The text, with the arguments filled in.
        queue: From `extra={"queue": …}`: the name by which sinks choose records; "" if there is none.
        task: From `extra={"task": …}`: any JSON value. A string that is itself JSON is decoded.
        extra: All other values of `extra`, by name.
        exception: The traceback; "" if there is none.
    """

    level: str
    timestamp: datetime
    logger: str
    message: str
    queue: str = ""
    task: Any = None
    extra: dict[str, Any] = msgspec.field(default_factory=dict)
    exception: str = ""


def encode_record(record: logging.LogRecord) -> bytes:
    """
    The JSON of a record of `logging`.

    Guarantees:
        It never raises. A value of a type that JSON does not have becomes its `str()`. Later changes of the values have
        no effect.
    """
    attributes = vars(record)
    extra = {name: attributes[name] for name in [*attributes][_OWN_COUNT:] if name not in _FORMATTED}
    queue, task = extra.pop("queue", ""), extra.pop("task", None)
    made = LogRecord(
        level=record.levelname,
        timestamp=datetime.fromtimestamp(record.created, UTC),
        logger=record.name if isinstance(record.name, str) else _text(record.name),
        message=_message(record),
        queue=queue if isinstance(queue, str) else _text(queue),
        task=_decoded(task) if isinstance(task, str) else task,
        extra=extra,
        exception=_exception(record) if record.exc_info or record.exc_text else "",
    )
    return encode(made)


def encode(record: LogRecord) -> bytes:
    """The JSON of a record. A value that JSON does not have becomes its text."""
    try:
        return _encode(record)
    except (TypeError, ValueError, OverflowError, RecursionError):
        # Rare: a key that is not a string, a lone surrogate, a very large integer or a cycle.
        plain = _Plain()
        return _encode(LogRecord(**{name: plain(getattr(record, name)) for name in LogRecord.__struct_fields__}))


def decode_record(body: bytes) -> LogRecord:
    """
    The record in the JSON of an entry.

    Raises:
        ValueError: The JSON is not a record; the message says what is wrong.
    """
    return _decode(body)


def read_published(body: bytes) -> LogRecord:
    """
    The record in a message that another program published.

    Args:
        body: A JSON object, or a JSON string that contains one. It has a `message`, and may have `level` (a name or a
            number; by default "INFO"), `timestamp` (ISO 8601, or seconds since 1970; by default now), `logger` or
            `name`, `queue`, `task`, `extra` and `exception`. All other fields are added to `extra`.

    Raises:
        ValueError: The message is not a record; the error says what is wrong.
        RecursionError: It is nested too deeply.
    """
    if body.lstrip().startswith(b'"'):
        body = msgspec.json.decode(body, type=str).encode()
    fields = msgspec.json.decode(body, type=dict[str, Any])
    message = fields.pop("message", None)
    if not isinstance(message, str):
        raise ValueError("it has no text `message`")
    level, logger, task = fields.pop("level", "INFO"), fields.pop("logger", None), fields.pop("task", None)
    if logger is None:
        logger = fields.pop("name", "")
    timestamp = _published_time(fields)
    queue, exception, extra = fields.pop("queue", ""), fields.pop("exception", ""), fields.pop("extra", {})
    return LogRecord(
        level=logging.getLevelName(level) if isinstance(level, int) else _text(level),
        timestamp=timestamp,
        logger=_text(logger),
        message=message,
        queue=_text(queue),
        task=_decoded(task) if isinstance(task, str) else task,
        extra={**(extra if isinstance(extra, dict) else {"extra": extra}), **fields},
        exception=_text(exception),
    )


def _published_time(fields: dict[str, Any]) -> datetime:
    """Take `timestamp` out of the fields, and return it in UTC. If it is malformed, leave it there and return now."""
    try:
        value = fields["timestamp"]
        if isinstance(value, str):
            # A formatter of `logging` writes a comma before the milliseconds.
            moment = datetime.fromisoformat(value.replace(",", "."))
        else:
            moment = datetime.fromtimestamp(float(value), UTC)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return datetime.now(UTC)
    del fields["timestamp"]
    return moment


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:
        return f"{_text(record.msg)} (the arguments {_text(record.args)} do not fit: {_text(error)})"


def _exception(record: logging.LogRecord) -> str:
    if record.exc_text:
        return record.exc_text
    try:
        return _formatter.formatException(record.exc_info)  # type: ignore[arg-type]
    except Exception as error:
        return f"the traceback cannot be formatted: {_text(error)}"


def _decoded(task: str) -> Any:
    """The JSON value in a task that is a string; the string itself if it is not JSON."""
    try:
        return msgspec.json.decode(task)
    except (ValueError, RecursionError):
        return task


def _text(value: object) -> str:
    try:
        text = str(value)
    except Exception:
        text = f"<{type(value).__name__} without a text>"
    return text.encode(errors="backslashreplace").decode()


class _Plain:
    """Makes copies of the values of one record in which everything that JSON does not have is replaced by text."""

    def __init__(self) -> None:
        self._count = 0
        # The collections around the present value, by `id`.
        self._around: list[int] = []

    def __call__(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | float | datetime):
            return value
        if isinstance(value, int):
            return value if -_INTEGER_LIMIT <= value < _INTEGER_LIMIT else str(value)
        if not isinstance(value, Mapping | list | tuple | Set):
            return _text(value)
        if len(self._around) == _DEPTH_LIMIT or self._count > _VALUES_LIMIT or id(value) in self._around:
            return "..."
        self._count += len(value)
        self._around.append(id(value))
        try:
            if isinstance(value, Mapping):
                return {_text(key): self(each) for key, each in value.items()}
            return [self(each) for each in value]
        finally:
            self._around.pop()


_formatter = logging.Formatter()
_encode = msgspec.json.Encoder(enc_hook=_text).encode
_decode = msgspec.json.Decoder(LogRecord).decode
