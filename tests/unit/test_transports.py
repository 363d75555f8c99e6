"""What every transport has of its base."""

import asyncio
import contextvars
import threading

from notifications.transports import Transport

named = contextvars.ContextVar("named", default="")


async def test_calls_that_hang_take_no_thread_of_others() -> None:
    """However many: the pool of the event loop, which resolves names and sweeps, has some few threads."""
    gate = threading.Event()
    transport, other = Transport(name="email"), Transport(name="chat")
    hanging = [asyncio.create_task(transport.in_thread(gate.wait, 10)) for _ in range(50)]
    async with asyncio.timeout(60):
        assert await asyncio.to_thread(threading.current_thread) != threading.main_thread()
        assert (await other.in_thread(threading.current_thread)).name.startswith("chat")
    assert not any(task.done() for task in hanging)
    gate.set()
    assert all(await asyncio.gather(*hanging))


async def test_a_thread_knows_what_its_caller_knows() -> None:
    """Such as the language of a text; arguments and answers go through, and errors."""
    named.set("alice")
    transport = Transport(name="email")
    assert await transport.in_thread(lambda greeting: f"{greeting} {named.get()}", greeting="Hello") == "Hello alice"
