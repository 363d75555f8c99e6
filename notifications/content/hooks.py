"""
Calls of functions that the project supplies. An error or a wrong result is logged, and a default is used.

Owns the calls and the log lines. Does not own the functions or the defaults.
"""

import inspect
import logging
from collections.abc import Callable
from typing import Any

from notifications.database.errors import DATABASE_UNAVAILABLE
from realtime.untrusted.text import LimitedLog

__all__ = ["ask"]

_log = LimitedLog(logging.getLogger(__name__))


def ask[Answer](
    hook: str, function: Callable[[], Any], *, read: Callable[[Any], Answer], default: Callable[[], Answer]
) -> Answer:
    """
    The result of a function of the project, or the default if it fails.

    Args:
        hook: The name of the function in the log. Its errors are logged with a rate limit.
        function: Calls the project's function.
        read: Checks and converts the result; raises if it is not allowed.
        default: Gives the value to return if `function` or `read` raises.

    Raises:
        OperationalError, InterfaceError: The database is unavailable, which is not the function's fault.
    """
    try:
        answer = function()
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()
            raise TypeError("it is async: give a sync function, which is called in a thread")
        return read(answer)
    except DATABASE_UNAVAILABLE:
        raise
    except Exception as error:
        _log.exception(hook, error, "%s failed, and its default is used", hook)
        return default()
