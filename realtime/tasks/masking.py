"""
What is shown of a task's arguments, value and errors: printable, shortened, and without secrets.

Owns which names of arguments are secret in a task, and the limits. Does not own the rules for texts
(untrusted.masking), nor reading tasks (details).
"""

import inspect
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.views.debug import get_default_exception_reporter_filter

from realtime.tasks.django_api import AnyTask
from realtime.tasks.record import find_task
from realtime.untrusted.masking import HIDDEN, is_secret_name, mask_begin, mask_text, masked
from realtime.untrusted.text import printable

__all__ = ["Argument", "find_shown", "named_arguments", "secrets_in", "shown_line", "shown_text", "shown_value"]

# The most characters that are shown of a text within a value, of a value as JSON, and of a line of a traceback.
STRING_LIMIT = 2000
VALUE_LIMIT = 10_000
LINE_LIMIT = 2000
# The shortest secret that is hidden in other texts. A shorter one would be found everywhere.
SECRET_LENGTH = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """
    An argument of a task.

    Attributes:
        name: Its name, or its position from "1" if it has none.
        value: As JSON, without secrets.
        is_hidden: Whether its whole value is hidden.
    """

    name: str
    value: str
    is_hidden: bool


def named_arguments(
    task: AnyTask | None, args: Sequence[Any], kwargs: dict[str, Any], *, secrets: Iterable[str]
) -> tuple[Argument, ...]:
    """
    The arguments of a call as they are shown.

    Args:
        task: The task that is called; None if its function cannot be found. Then no name says which positional
            arguments are secret, so all of them are hidden.
        secrets: Texts that are hidden wherever they occur, as from `secrets_in`.
    """
    found = [
        (str(at) if name is None else name, value, task is None or (name is not None and _is_secret(name)))
        for at, (name, value) in enumerate(_positional(task, args), 1)
    ]
    found += [(name, value, _is_secret(name)) for name, value in kwargs.items()]
    return tuple(
        Argument(
            name=printable(name, limit=STRING_LIMIT),
            value=HIDDEN if is_hidden else shown_value(value, secrets=secrets),
            is_hidden=is_hidden,
        )
        for name, value, is_hidden in found
    )


def secrets_in(task: AnyTask | None, args: Sequence[Any], kwargs: dict[str, Any]) -> frozenset[str]:
    """The secret texts among the arguments, to hide them in errors too, which may quote them."""
    found: set[str] = set()
    for name, value in _positional(task, args):
        _collect(value, found, is_hidden=task is None or (name is not None and _is_secret(name)))
    for name, value in kwargs.items():
        _collect(value, found, is_hidden=_is_secret(name))
    return frozenset(found)


def shown_value(value: Any, *, secrets: Iterable[str] = ()) -> str:
    """A JSON value, indented and without secrets. A long one is cut, and its length added."""
    text = json.dumps(
        masked(value, is_secret=_is_secret, text=lambda text: _shown_string(text, secrets)),
        indent=2,
        ensure_ascii=False,
    )
    begin = "\n".join(printable(line, limit=VALUE_LIMIT) for line in text[:VALUE_LIMIT].split("\n"))
    return begin if len(text) <= VALUE_LIMIT else f"{begin}… ({len(text):,} characters)"


def shown_text(text: str, *, secrets: Iterable[str] = ()) -> str:
    """A traceback: its lines, without secrets."""
    text = _without(text, secrets)
    # Line by line: a quotation mark without its counterpart hides no more than its line.
    return "\n".join(shown_line(line, limit=LINE_LIMIT) for line in text.split("\n"))


def shown_line(line: str, *, limit: int, secrets: Iterable[str] = ()) -> str:
    """One line, without secrets."""
    return mask_text(printable(_without(line, secrets), limit=limit))


def find_shown(func: str) -> tuple[AnyTask | None, str]:
    """The task at a dotted path; or None, and why it cannot be found."""
    try:
        return find_task(func), ""
    except Exception as error:
        # Importing a module may raise anything.
        return None, shown_line(f"{type(error).__name__}: {error}", limit=500)


def _shown_string(text: str, secrets: Iterable[str]) -> str:
    begin = mask_begin(_without(text, secrets), limit=STRING_LIMIT)
    return begin if len(text) <= STRING_LIMIT else f"{begin} ({len(text):,} characters)"


def _without(text: str, secrets: Iterable[str]) -> str:
    # Errors quote values as they are, and as repr() and JSON write them.
    forms = {form for secret in secrets for form in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1])}
    # The longest first: one may be a part of another.
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, HIDDEN)
    return text


def _positional(task: AnyTask | None, args: Sequence[Any]) -> list[tuple[str | None, Any]]:
    """The positional arguments with the names of the function's parameters."""
    names: list[str | None] = []
    rest: str | None = None
    if task is not None:
        for parameter in list(inspect.signature(task.func).parameters.values())[bool(task.takes_context) :]:
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                names.append(parameter.name)
            elif parameter.kind is parameter.VAR_POSITIONAL:
                rest = parameter.name
    names += [rest] * (len(args) - len(names))
    return list(zip(names, args, strict=False))


def _collect(value: Any, found: set[str], *, is_hidden: bool) -> None:
    if isinstance(value, dict):
        for name, part in value.items():
            _collect(part, found, is_hidden=is_hidden or _is_secret(name))
    elif isinstance(value, list):
        for part in value:
            _collect(part, found, is_hidden=is_hidden)
    elif is_hidden and isinstance(value, str | int | float) and len(str(value)) >= SECRET_LENGTH:
        found.add(str(value))


def _is_secret(name: str) -> bool:
    """By our own rule, or by that of the project's error pages, which counts for whole words only."""
    if is_secret_name(name):
        return True
    # "apiKey" as "api_Key".
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    hidden: re.Pattern[str] = get_default_exception_reporter_filter().hidden_settings
    return any(
        not words[match.start() - 1 : match.start()].isalnum() and not words[match.end() : match.end() + 1].isalnum()
        for match in hidden.finditer(words)
    )
