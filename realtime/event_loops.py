"""What has to happen before an event loop is closed; asyncio has no hook for that."""

import asyncio
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

__all__ = ["before_close"]


def before_close(loop: asyncio.AbstractEventLoop, act: Callable[[], object]) -> None:
    """
    Call a function once, before the loop is closed; it may call `loop.run_until_complete`.

    `async_to_sync` makes an event loop for each call. Connections refer to their loop. In a weak dictionary by loop,
    they would keep their own key alive for ever.

    Guarantees:
        The loop is closed even if the function raises. The functions of one loop are called in reverse order. A loop
        that runs cannot be closed, and then nothing is called.
    """
    # As an attribute of the loop itself, it is the one of an earlier call.
    before = vars(loop).get("close")
    close = loop.close

    def act_and_close(loop: asyncio.AbstractEventLoop) -> None:
        if loop.is_running():
            # Raises an error.
            close()
        if before is None:
            del loop.close
        else:
            loop.close = before  # type: ignore[method-assign]
        try:
            _call(act)
        finally:
            # The function may have led to another call of `before_close`.
            loop.close()

    loop.close = types.MethodType(act_and_close, loop)  # type: ignore[method-assign]


def _call(act: Callable[[], object]) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        act()
        return
    # Another loop runs in this thread, so the one that is being closed must run in another.
    with ThreadPoolExecutor(1) as threads:
        threads.submit(act).result()
