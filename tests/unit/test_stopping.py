"""How commands of the demo stop: an order may come at any moment."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

from project.demo.stopping import StopOrder


def test_a_signal_in_the_middle_of_a_wait_is_an_order() -> None:
    """At any bytecode of `wait`, in the same thread, which goes on: an Event waits for its own lock for ever."""
    before = signal.getsignal(signal.SIGTERM)
    for _ in range(1000):
        order = StopOrder()
        with order.on_signals():
            raiser = threading.Timer(0.0005, os.kill, (os.getpid(), signal.SIGTERM))
            raiser.start()
            while not order.wait(0.00001):
                pass
            raiser.join()
        assert order.signal_number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_order_ends_the_waits_of_all_threads() -> None:
    order, began = StopOrder(), threading.Barrier(9)

    def wait() -> bool:
        began.wait(60)
        return order.wait(3600)

    with ThreadPoolExecutor(8) as threads:
        waits = [threads.submit(wait) for _ in range(8)]
        began.wait(60)
        order.give()
        order.give()
        assert all(wait.result(60) for wait in waits)
    assert order.wait(0)
    assert order.signal_number == 0


def test_without_an_order_a_wait_ends_with_its_time() -> None:
    order = StopOrder()
    assert [order.wait(seconds) for seconds in (-1, 0, 0.001)] == [False] * 3
    assert not order.is_given
