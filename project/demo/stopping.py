"""How commands of the demo stop: Ctrl-C or SIGTERM gives an order, and the command looks for it, or waits for it."""

import contextlib
import queue
import signal
from collections.abc import Iterator

__all__ = ["StopOrder"]


class StopOrder:
    """
    An order to stop, given by a signal or by the program.

    A signal raises no error in the middle of the work. It may come while `wait` runs in the same thread: a
    `threading.Event` would then deadlock, because the code that was interrupted holds its lock.

    Attributes:
        is_given: Whether to stop.
        signal_number: The first signal that came; 0 if none did.
    """

    def __init__(self) -> None:
        self.is_given = False
        self.signal_number = 0
        # Unlike the lock of an Event, its `put` may be called in a signal handler. Holds one item for each order.
        self._orders: queue.SimpleQueue[None] = queue.SimpleQueue()

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """In this block, a signal is an order to stop, and nothing else."""
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def give(self) -> None:
        """Order to stop. May be called by any thread, any number of times."""
        self.is_given = True
        self._orders.put(None)

    def wait(self, seconds: float) -> bool:
        """Wait for an order, at most this many seconds. Returns whether there is one. Several threads may wait."""
        if not self.is_given:
            with contextlib.suppress(queue.Empty):
                self._orders.get(timeout=max(0.0, seconds))
                # For the next thread that waits.
                self._orders.put(None)
        return self.is_given

    def _on_signal(self, number: int, frame: object) -> None:
        self.signal_number = self.signal_number or number
        self.give()
