"""
RedisTask: a task with the options that go beyond Django's.

Owns the options, their limits, and the unique key of a call. Does not own enqueuing (backend) nor running (worker).
"""

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Any, Self

from realtime.tasks.django_api import InvalidTask, Task

__all__ = ["ATTEMPTS_LIMIT", "OPTIONS", "RedisTask", "check_options", "unique_key_of"]

ATTEMPTS_LIMIT = 100
# The longest unique key that is stored as it is, in bytes. Of a longer one, the SHA-256 is stored.
UNIQUE_KEY_LIMIT = 150

type UniqueKey = str | bool | Callable[..., str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisTask(Task):  # type: ignore[type-arg]
    """
    A task of `RedisStreamBackend`. Give its options to `@task(…)` (Django 6.1 and newer) or to `.using(…)`. For an
    option that is None, the OPTIONS of the backend have the default.

    Attributes:
        max_attempts: How often the task is tried at most, if it raises errors; 1 to 100. A task may raise
            `realtime.exceptions.PermanentError` to fail at once, and `Retry` to say when to try again.
        backoff: The wait before the second attempt, in seconds; it doubles each time, up to an hour. Or a sequence of
            waits, one for each further attempt; the last one is repeated.
        timeout: An attempt that takes longer than this, in seconds, fails with TaskTimedOut. An async task is
            cancelled. In the thread of a sync task, TaskTimedOut is raised as soon as it runs Python code.
        unique_key: While a task with this key has not finished, `enqueue` returns that task and adds no other. The key
            is a text whose {names} are replaced by arguments, or a function that gets the arguments and returns a text,
            or True for all arguments. Tasks of different functions, or queues, never have the same key.
        enqueue_on_commit: In a transaction, enqueue the task when it is committed. If it is rolled back, the task does
            not exist.
        run_again_if_lost: Whether a task whose worker died runs again. It does so at most twice.
    """

    max_attempts: int | None = None
    backoff: float | Sequence[float] | None = None
    timeout: float | None = None
    unique_key: UniqueKey = None
    enqueue_on_commit: bool | None = None
    run_again_if_lost: bool | None = None

    def using(self, **changes: Any) -> Self:
        """
        Copy the task with other options: those of Django (priority, queue_name, run_after, backend) and those above.
        An option that is None stays as it is.

        Raises:
            TypeError: There is no such option.
            InvalidTask: A value is not valid.
        """
        if unknown := changes.keys() - _CHANGEABLE:
            raise TypeError(f"using() got an unexpected keyword argument {unknown.pop()!r}")
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def __post_init__(self) -> None:
        if isinstance(self.backoff, Sequence) and not isinstance(self.backoff, str | bytes):
            # A tuple cannot be changed, and compares equal to what the backend reads from JSON.
            object.__setattr__(self, "backoff", tuple(self.backoff))
        # super() without arguments does not work in a dataclass with slots.
        Task.__post_init__(self)

    def json_options(self) -> dict[str, Any]:
        """The options beyond Django's that are set, except a unique key that is a function."""
        found = _OPTIONS_OF(self)
        if found == _NO_OPTIONS:
            return {}
        pairs = zip(OPTIONS, found, strict=True)
        return {name: value for name, value in pairs if value is not None and not callable(value)}


# The options of a task beyond Django's.
OPTIONS = tuple(field.name for field in fields(RedisTask) if field.name not in {each.name for each in fields(Task)})
_OPTIONS_OF = attrgetter(*OPTIONS)
_NO_OPTIONS = (None,) * len(OPTIONS)
_CHANGEABLE = {"priority", "queue_name", "run_after", "backend", *OPTIONS}


def check_options(options: Mapping[str, Any]) -> None:
    """
    Check `max_attempts`, `backoff`, `timeout` and `unique_key`.

    Raises:
        InvalidTask: Names the option, and says what it may be.
    """
    attempts, backoff, timeout, unique = (
        options[name] for name in ("max_attempts", "backoff", "timeout", "unique_key")
    )
    if attempts is not None and not (_is_number(attempts) and attempts in range(1, ATTEMPTS_LIMIT + 1)):
        raise InvalidTask(f"max_attempts is {attempts!r}: it must be a whole number from 1 to {ATTEMPTS_LIMIT}.")
    waits = backoff if isinstance(backoff, Sequence) and not isinstance(backoff, str | bytes) else [backoff]
    if backoff is not None and not (waits and all(_is_number(wait) and 0 <= wait < math.inf for wait in waits)):
        raise InvalidTask(f"backoff is {backoff!r}: it must be a number of seconds, or a sequence of them.")
    if timeout is not None and not (_is_number(timeout) and 0 < timeout < math.inf):
        raise InvalidTask(f"timeout is {timeout!r}: it must be a number of seconds greater than 0.")
    for name in ("enqueue_on_commit", "run_again_if_lost"):
        if not (options[name] is None or isinstance(options[name], bool)):
            raise InvalidTask(f"{name} is {options[name]!r}: it must be True or False.")
    if not (unique is None or isinstance(unique, str | bool) or callable(unique)):
        raise InvalidTask(f"unique_key is {unique!r}: it must be a text, a function of the arguments, or True.")


def unique_key_of(task: RedisTask, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """
    The unique key of a call, or "" if it has none.

    Raises:
        InvalidTask: The key cannot be made from these arguments; says why.
    """
    rule = task.unique_key
    if not rule:
        return ""
    try:
        if rule is True:
            key = json.dumps([args, kwargs], sort_keys=True)
        elif isinstance(rule, str):
            key = rule.format_map(_named(task, args, kwargs))
        else:
            key = rule(*args, **kwargs)
            if not isinstance(key, str) or not key:
                raise TypeError(f"it returned {key!r}, which is not a text with at least one character")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InvalidTask(f"the unique_key of {task.module_path} cannot be made: {error!r}.") from error
    # A text may contain surrogates, which UTF-8 cannot encode.
    key_bytes = f"{task.module_path}:{key}".encode("utf-8", "backslashreplace")
    return key_bytes.decode() if len(key_bytes) <= UNIQUE_KEY_LIMIT else hashlib.sha256(key_bytes).hexdigest()


def _named(task: RedisTask, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of a call by name, with defaults."""
    context = (None,) if task.takes_context else ()
    bound = inspect.signature(task.func).bind(*context, *args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
