"""What has to happen before an event loop is closed; asyncio has no hook for that."""

import asyncio
import types
from collections.abc import Callable

__all__ = ["before_close"]


def before_close(loop: asyncio.AbstractEventLoop, act: Callable[[], object]) -> None:
    """
    Call a function once, before the loop is closed; it may call `loop.run_until_complete`.

    `async_to_sync` makes an event loop for each call. What belongs to a loop and refers to it, as connections do, would
    stay for ever: a weak dictionary does not help, because its value keeps its key.

    Guarantees:
        The loop is closed even if the function raises. The functions of one loop are called in reverse order.
    """
    close = loop.close

    def act_and_close(loop: asyncio.AbstractEventLoop) -> None:
        loop.close = close  # type: ignore[method-assign]
        try:
            act()
        finally:
            close()

    loop.close = types.MethodType(act_and_close, loop)  # type: ignore[method-assign]
