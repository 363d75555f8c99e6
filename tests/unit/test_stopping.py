"""How commands of the demo stop: an order may come at any moment."""

import contextlib
import itertools
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

from project.demo.stopping import StopOrder


def test_a_signal_in_the_middle_of_a_wait_is_an_order() -> None:
    """After any instruction of `wait`, in the same thread: an Event would wait for its own lock for ever."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for instruction in itertools.count(1):
        order = StopOrder()
        with order.on_signals(), signal_after(instruction):
            order.wait(0.00001)
        if not order.is_given:
            break
        assert order.signal_number == signal.SIGTERM
    assert instruction > 20
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@contextlib.contextmanager
def signal_after(instruction: int) -> Iterator[None]:
    """In this block, SIGTERM comes after the n-th instruction of the functions that are called."""
    seen, before = itertools.count(1), sys.gettrace()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes = True
        if event == "opcode" and next(seen) == instruction:
            signal.raise_signal(signal.SIGTERM)
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def test_an_order_ends_the_waits_of_all_threads() -> None:
    """One order is enough, also for those that have looked for it and not begun to wait."""
    order, have_looked = StopOrder(), threading.Barrier(9)

    class Orders(queue.SimpleQueue[None]):
        def get(self, *arguments: Any, **options: Any) -> None:
            have_looked.wait(60)
            return super().get(*arguments, **options)

    order._orders = Orders()
    with ThreadPoolExecutor(8) as threads:
        waits = [threads.submit(order.wait, 120) for _ in range(8)]
        have_looked.wait(60)
        order.give()
        assert all(wait.result(60) for wait in waits)
    assert order.wait(0)
    assert order.signal_number == 0


def test_without_an_order_a_wait_ends_with_its_time() -> None:
    order = StopOrder()
    assert [order.wait(seconds) for seconds in (-1, 0, 0.001)] == [False] * 3
    assert not order.is_given
