"""SharedReads: one round trip for those who ask for the same at the same time."""

import asyncio

import pytest

from realtime.exceptions import SubscriptionClosed
from realtime.redis.shared_reads import SharedReads


class Source:
    """Answers when it is told to, with the question and the number of the round trip."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[str, int]]] = []
        self.gate = asyncio.Semaphore(0)
        self.error: Exception | None = None

    async def read(self, questions: list[tuple[str, int]]) -> list[tuple[int, int]]:
        self.calls.append(questions)
        number = len(self.calls)
        await self.gate.acquire()
        if self.error is not None:
            raise self.error
        return [(question, number) for _, question in questions]

    def open(self, count: int = 1) -> None:
        for _ in range(count):
            self.gate.release()


async def begun(*asking: asyncio.Future[object]) -> None:
    """All of them have asked, and a round trip has begun."""
    for _ in range(3):
        await asyncio.sleep(0)
    assert not any(each.done() for each in asking)


async def test_requests_during_a_round_trip_share_the_next_one() -> None:
    """Also for a name that is being read: its answer may be older than the request."""
    source = Source()
    reads = SharedReads(source.read, name="reads", limit=2, merge=min)
    first = asyncio.gather(reads.ask("a", 5), reads.ask("a", 3))
    await begun(first)
    later = asyncio.gather(*(reads.ask(name, 7) for name in "abc"))
    await begun(later)
    source.open(3)
    assert await first == [(3, 1)] * 2
    assert await later == [(7, 2), (7, 2), (7, 3)]
    assert source.calls == [[("a", 3)], [("a", 7), ("b", 7)], [("c", 7)]]


async def test_an_error_goes_to_those_of_its_round_trip_only() -> None:
    """The next one is tried."""
    source = Source()
    reads = SharedReads(source.read, name="reads", limit=10)
    failing = asyncio.gather(reads.ask("a", 1), reads.ask("b", 2), return_exceptions=True)
    await begun(failing)
    source.error = OSError("gone")
    source.open()
    assert await failing == [source.error] * 2
    source.error = None
    source.open()
    assert await reads.ask("a", 1) == (1, 2)


async def test_an_answer_that_is_an_error_goes_to_its_name_only() -> None:
    """The other names of the round trip get their answers."""
    error = ValueError("of b")

    async def read(questions: list[tuple[str, int]]) -> list[int | Exception]:
        return [error if name == "b" else question for name, question in questions]

    reads = SharedReads[int, int](read, name="reads", limit=10)
    asking = [asyncio.create_task(reads.ask(name, 7)) for name in "abbc"]
    await asyncio.wait(asking)
    assert [each.exception() for each in asking] == [None, error, error, None]
    assert [asking[0].result(), asking[3].result()] == [7, 7]


async def test_a_caller_that_is_cancelled_takes_nothing_from_others() -> None:
    """They wait for the same future."""
    source = Source()
    reads = SharedReads(source.read, name="reads", limit=10)
    gone, staying = asyncio.ensure_future(reads.ask("a", 1)), asyncio.ensure_future(reads.ask("a", 1))
    await begun(gone, staying)
    gone.cancel()
    source.open()
    assert await staying == (1, 1)


async def test_stop_ends_all_that_wait_and_it_can_be_used_again() -> None:
    """Both those of the round trip and those of the next one."""
    source = Source()
    reads = SharedReads(source.read, name="reads", limit=1)
    waiting = [asyncio.ensure_future(reads.ask(name, 1)) for name in "ab"]
    await begun(*waiting)
    await reads.stop()
    for each in waiting:
        with pytest.raises(SubscriptionClosed):
            await each
    source.open()
    assert await reads.ask("c", 1) == (1, 2)
