"""
Calls of functions that the project supplies: an error or a wrong answer is logged, and no notification is lost.

Owns calling them, and the log lines. Does not own what is asked, nor the defaults.
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
    The answer of a function of the project, or the default if it fails.

    Args:
        hook: The name of the function in the log. Its errors are logged with a rate limit.
        function: Calls the project's function.
        read: Turns its result into the answer; raises if the result is not allowed.
        default: Gives the answer if `function` or `read` raises.

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
