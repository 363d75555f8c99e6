"""
The errors that `notifications` raises on purpose. Owns no behaviour.

Each means that the call was wrong and nothing was written. Catch `InvalidNotification` to refuse the input of another
program, and `InvalidPreference` to refuse a user's choice. There is no error for an outage of Redis, because calls do
not fail then.
"""

from collections.abc import Iterable
from typing import Any

__all__ = [
    "EnvelopeTooLarge",
    "InvalidData",
    "InvalidField",
    "InvalidNotification",
    "InvalidPreference",
    "InvalidRecipient",
    "MessageTooLong",
    "NotificationError",
    "TextTooLong",
    "TooManyRecipients",
    "UnknownRecipients",
]

# The most ids in the text of an error; `missing_ids` has all of them.
_NAMED_IDS = 5


class NotificationError(Exception):
    """Base class of all errors of this app."""


class InvalidNotification(NotificationError, ValueError):
    """Base class of errors in a call of `notify()`. Nothing was written."""


class InvalidPreference(NotificationError, ValueError):
    """A user's choice or address is not allowed; the text says why. Nothing was written."""


class InvalidField(InvalidNotification):
    """
    A field has the wrong type or a value that is not allowed.

    Attributes:
        field: The parameter's name.
        problem: What is wrong and what to do.
    """

    def __init__(self, *, field: str, problem: str) -> None:
        self.field = field
        self.problem = problem
        super().__init__(f"{field} {problem}")


class TextTooLong(InvalidNotification):
    """
    A text is longer than its field allows.

    Attributes:
        field: The parameter's name.
        length: How many characters it has.
        limit: How many it may have.
    """

    def __init__(self, *, field: str, length: int, limit: int, advice: str = "shorten it") -> None:
        self.field = field
        self.length = length
        self.limit = limit
        super().__init__(f"{field} has {length} characters, the limit is {limit}: {advice}")


class MessageTooLong(TextTooLong):
    """The message itself is too long."""

    def __init__(self, *, length: int, limit: int) -> None:
        super().__init__(field="message", length=length, limit=limit, advice="say it shorter and link to the rest")


class InvalidData(InvalidNotification):
    """
    `data` is not JSON, or is JSON that some databases or browsers cannot represent.

    Attributes:
        path: The place in `data`, as a Python expression: `data["items"][3]`.
        problem: What is wrong and what to do.
    """

    def __init__(self, *, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{_cut(path)} {_cut(problem)}")


class EnvelopeTooLarge(InvalidNotification):
    """
    The notification, as JSON, has more bytes than one message to a browser may have.

    Attributes:
        size_bytes: The size of the JSON.
        limit_bytes: The largest size allowed.
    """

    def __init__(self, *, size_bytes: int, limit_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        super().__init__(
            f"envelope is {size_bytes} bytes, the limit is {limit_bytes}: publish an id and let the client fetch"
        )


class InvalidRecipient(InvalidNotification):
    """
    A recipient is neither a saved user nor a user id.

    Attributes:
        value: The recipient, as the caller gave it.
    """

    def __init__(self, value: Any, problem: str = "is neither a user nor a user id") -> None:
        self.value = value
        super().__init__(f"recipient {_short(value)} {problem}: give users, their ids, or a queryset of users")


class UnknownRecipients(InvalidNotification):
    """
    Some user ids do not exist.

    Attributes:
        missing_ids: All of these ids, in the order given.
    """

    def __init__(self, *, missing_ids: Iterable[Any]) -> None:
        self.missing_ids = tuple(missing_ids)
        named = ", ".join(_short(value) for value in self.missing_ids[:_NAMED_IDS])
        if len(self.missing_ids) > _NAMED_IDS:
            named += f" and {len(self.missing_ids) - _NAMED_IDS} more"
        noun = "user has the id" if len(self.missing_ids) == 1 else "users have the ids"
        super().__init__(f"no {noun} {named}: nobody was notified")


class TooManyRecipients(InvalidNotification):
    """
    The call has more recipients than one transaction should write.

    Attributes:
        limit: The most recipients of one call.
    """

    def __init__(self, *, limit: int) -> None:
        self.limit = limit
        super().__init__(
            f"more than {limit} recipients in one call: "
            'call notify() in parts, or raise NOTIFICATIONS["MAX_RECIPIENTS"]'
        )


def _short(value: Any) -> str:
    return _cut(repr(value), 80)


def _cut(text: str, length: int = 200) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
