"""What has to happen before an event loop is closed; asyncio has no hook for that."""

import asyncio
import contextlib
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
    closing = vars(loop).get("close")
    if not isinstance(closing, _Closing):
        closing = _Closing(loop)
        loop.close = closing  # type: ignore[method-assign]
    closing.acts.callback(_call, act)


class _Closing:
    """Replaces the method `close` of one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Those that are added while it is closed are called too.
        self.acts = contextlib.ExitStack()
        self._loop, self._close = loop, loop.close

    def __call__(self) -> None:
        if self._loop.is_running():
            # Raises an error.
            self._close()
        try:
            self.acts.close()
        finally:
            # From now on, the loop has its own method again.
            vars(self._loop).pop("close", None)
            self._close()


def _call(act: Callable[[], object]) -> None:
    if not _is_in_loop():
        act()
        return
    # Another loop runs in this thread, so the one that is being closed must run in another.
    with ThreadPoolExecutor(1) as threads:
        threads.submit(act).result()


def _is_in_loop() -> bool:
    """Whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
