"""
Functions that the project supplies: what they raise, or give wrongly, costs a line in the log and no notification.

Owns asking them and what is logged. Does not own what they are asked nor the defaults.
"""

import inspect
import logging
from collections.abc import Callable
from typing import Any

from notifications.handlers import DATABASE_AWAY
from realtime.foreign_text import LimitedLog

__all__ = ["ask"]

_log = LimitedLog(logging.getLogger(__name__))


def ask[Answer](
    hook: str, function: Callable[[], Any], *, read: Callable[[Any], Answer], default: Callable[[], Answer]
) -> Answer:
    """
    What a function of the project's gives; the default where it fails.

    Args:
        hook: What it is called in the log, which says a few times what is wrong with it and then once in a while.
        function: Calls it.
        read: Turns what it gave into the answer; raises for what it must not give.
        default: The answer where one of them raises.

    Raises:
        OperationalError, InterfaceError: The database is away, which is no fault of the function's.
    """
    try:
        answer = function()
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()
            raise TypeError("it is async: give a plain function, it is called in a thread")
        return read(answer)
    except DATABASE_AWAY:
        raise
    except Exception as error:
        _log.exception(hook, error, "%s failed, and its default is used", hook)
        return default()
