"""
Every error that `notifications` raises on purpose. Owns no behaviour.

All of them say that a call was wrong and nothing was written: catch `InvalidNotification` to refuse whatever a foreign
program sent, and `InvalidPreference` to refuse what a user chose. Redis being away is not among them: it never fails a
caller.
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

# How many ids an error's text names; `missing_ids` has them all.
_NAMED_IDS = 5


class NotificationError(Exception):
    """Base of all errors of the domain."""


class InvalidNotification(NotificationError, ValueError):
    """Base of what is wrong with a call of `notify()`; nothing was written."""


class InvalidPreference(NotificationError, ValueError):
    """A user cannot choose this; the text says why. Nothing was written."""


class InvalidField(InvalidNotification):
    """
    A field has a wrong type or holds what it must not.

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
    A text has more characters than its field may have.

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
    `data` is not JSON that every database and browser reads alike.

    Attributes:
        path: Where in `data`, written as in Python: `data["items"][3]`.
        problem: What is there and what to do.
    """

    def __init__(self, *, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{_cut(path)} {_cut(problem)}")


class EnvelopeTooLarge(InvalidNotification):
    """
    All fields together, as JSON, have more bytes than a browser is sent in one message.

    Attributes:
        size_bytes: How many bytes it would have.
        limit_bytes: How many it may have.
    """

    def __init__(self, *, size_bytes: int, limit_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        super().__init__(
            f"envelope is {size_bytes} bytes, the limit is {limit_bytes}: publish an id and let the client fetch"
        )


class InvalidRecipient(InvalidNotification):
    """
    What was given as a recipient is neither a saved user nor a user id.

    Attributes:
        value: What was given.
    """

    def __init__(self, value: Any, problem: str = "is neither a user nor a user id") -> None:
        self.value = value
        super().__init__(f"recipient {_short(value)} {problem}: give users, their ids, or a queryset of users")


class UnknownRecipients(InvalidNotification):
    """
    No users have these ids.

    Attributes:
        missing_ids: All of them, in the order given.
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
    More recipients than one transaction should write.

    Attributes:
        limit: How many there may be.
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
