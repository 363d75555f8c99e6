"""
Our StreamWorker with a handler that does nothing.

Owns its set-up: leases and acks are on; so is the order of each key, of which there are 1,000, as the relay and the bot
have it, unless said otherwise: no other queue here keeps an order.
"""

import itertools
from collections.abc import Sequence

import uvloop

from benchmarks.queues.ledger import Ledger
from benchmarks.queues.program import run
from realtime.redis import clients
from realtime.redis.keys import Keys
from realtime.streams import Entry, StreamWorker
from realtime.streams.append import append_entries

__all__: list[str] = []

KEYS = Keys("benchmark")
STREAM = KEYS.stream("jobs")
KEY_COUNT = 1_000
APPENDED_AT_ONCE = 500


def enqueue(url: str, count: int) -> None:
    """Entries as `notify()` makes them, with a number for the envelope."""
    with clients.publisher(url) as redis:
        for numbers in itertools.batched(range(count), APPENDED_AT_ONCE):
            entries = ({"n": b"%d" % number, "u": b"%d" % (number % KEY_COUNT)} for number in numbers)
            guard = KEYS.stream_guard(STREAM, str(numbers[0]))
            append_entries(redis, STREAM, guard, entries, guard_seconds=1)


def work(url: str, ledger: Ledger, batch_size: str, concurrency: str, order: str) -> None:
    """Work with calls of the handler of so many entries each, so many at a time, "ordered" or "unordered"."""
    mark = ledger.mark

    async def handle(entries: Sequence[Entry]) -> None:
        for entry in entries:
            mark(int(entry.fields[b"n"]))

    async def main() -> None:
        reader, publisher = clients.async_reader(url), clients.async_publisher(url)
        worker = StreamWorker(
            *(reader, STREAM, "benchmark", handle),
            redis=publisher,
            order_field="u" if order == "ordered" else "",
            batch_size=int(batch_size),
            concurrency=int(concurrency),
        )
        await worker.run()

    uvloop.run(main())


if __name__ == "__main__":
    run(enqueue, work)
