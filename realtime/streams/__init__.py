"""
Redis Streams as work that must not be lost: consumer groups, leases, retries, dead letters.

Owns the worker engine and appending. Does not own the work itself.

Where an entry is. Every step from one place to the next is one Lua call (realtime/redis/scripts/streams/):

    waiting → in hand → done                    on the stream, not read → pending with a worker → acked
              in hand ⇄ line                    the entry waits outside the stream, for its time and behind older ones
              in hand → dead letter ⇄ line      given up; an operator puts it back

How order is kept. With `order_field`, entries that have the same value of that field have one *key*; without, each
entry is a key of its own. A key has at most one owner, a worker, written in a hash in Redis:

1. `take` reads from the stream and looks up the keys in one step. What is free becomes the reader's; what another
   worker owns, or what has a line, goes to the end of the key's line instead. Redis hands entries out in their order,
   so all that the owner has of a key comes before all of the line.
2. The owner handles its entries of a key one after another (EntryQueue). With the last of them (its id stands beside
   the owner's name) the key is let go in the same step that acks it, and the line, if there is one, is due.
3. A failed entry goes into the line, at its own place by id, together with all that its worker has of the key: later
   entries wait behind it, until it is done or a dead letter. That wait is bounded by `max_attempts` and the waits
   between them, what waits by `max_delayed`; beyond it the group reads nothing new.
   What an operator puts before them (a replay) is handed to nobody until then: each entry in a line says itself
   whether it is in its owner's hands.
4. A worker that dies lets all its keys go in one step, after all that it had has gone into their lines.
5. A worker begins no attempt when its lease may be over, and whatever it sends to Redis names what it believes to hold:
   what is not so any more changes nothing.

So no two handlers work on one key at a time and none is handled before an older one is done, but for one case: a
handler that is held up for longer than the lease, and finds when it goes on that another has begun.
"""

from realtime.exceptions import EntryRejected, PermanentError, Retry, Unavailable
from realtime.streams.entry import Entry, Handler, WorkerStatistics
from realtime.streams.worker import StreamWorker

__all__ = [
    "Entry",
    "EntryRejected",
    "Handler",
    "PermanentError",
    "Retry",
    "StreamWorker",
    "Unavailable",
    "WorkerStatistics",
]
