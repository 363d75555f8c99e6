"""
A log record on the stream: one JSON object.

Owns its form, and how a record of `logging`, or a message that another program published, becomes one. Does not own
sending it (sender).
"""

import logging
from collections.abc import Mapping, Set
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

import msgspec

__all__ = ["RECORD_FIELD", "LogRecord", "decode_record", "encode", "encode_record", "read_published"]

# The one field of an entry of the stream.
RECORD_FIELD: Final = "record"
# In a record that JSON cannot express, collections become "..." where they are nested deeper than this, within
# themselves, or behind so many values: collections that refer to each other have very many paths through them.
_DEPTH_LIMIT: Final = 16
_VALUES_LIMIT: Final = 200_000
_INTEGER_LIMIT: Final = 2**63

# How many attributes `logging` itself stores on a record, before those of `extra=…`.
_OWN_COUNT: Final = len(vars(logging.makeLogRecord({})))
# What a formatter stores on it later.
_FORMATTED: Final = ("message", "asctime")


class LogRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    A log record.

    Attributes:
        level: "INFO".
        timestamp: When it was logged, in UTC.
        logger: The name of its logger.
        message: The text, with its arguments.
        queue: From `extra={"queue": …}`: the route of the record.
        task: From `extra={"task": …}`: any JSON value. A text that is itself JSON is decoded.
        extra: Everything else that was given with `extra`.
        exception: The traceback, if there is one.
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
        It never raises. A value that JSON does not have becomes its text. Later changes of the values have no effect.
    """
    extra = dict(islice(vars(record).items(), _OWN_COUNT, None))
    for name in _FORMATTED:
        extra.pop(name, None)
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
        # A key that is no text, a lone surrogate, a very large integer, a cycle: all rare.
        plain = _Plain()
        return _encode(LogRecord(**{name: plain(getattr(record, name)) for name in LogRecord.__struct_fields__}))


def decode_record(body: bytes) -> LogRecord:
    """
    The record in an entry.

    Raises:
        ValueError: It is not one; says what is wrong.
    """
    return _decode(body)


def read_published(body: bytes) -> LogRecord:
    """
    The record in a message that another program published: a JSON object with `message`, and as far as it has them
    `level` (a name or a number), `timestamp` (ISO 8601, or seconds since 1970), `logger` or `name`, `queue`, `task`,
    `extra` and `exception`. Everything else goes to `extra`. The object may be inside of a JSON text.

    Raises:
        ValueError: It is not one; says what is wrong.
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
    """Taken from the fields; now if there is none. One that cannot be read stays in them."""
    try:
        value = fields["timestamp"]
        # As `logging` formats it: with a comma before the milliseconds.
        found = datetime.fromisoformat(value.replace(",", ".")) if isinstance(value, str) else None
        moment = datetime.fromtimestamp(float(value), UTC) if found is None else found
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
    """The value of a task that is a JSON text; other texts unchanged."""
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
    """Makes values of one record with texts in place of all that JSON does not have."""

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
