"""
Redis Streams for work that must not be lost: consumer groups, leases, retries, dead letters.

Owns the worker engine and appending. Does not own the work itself.

The way of an entry is in two files: `worker` reads it from Redis into the queue of entries in flight (`in_flight`), and
`attempts` handles it and acks it, parks it for another attempt, or gives it up. `group` has the commands to Redis.

Where an entry is. Each step is one Lua call (realtime/redis/scripts/streams/):

    waiting → in flight → done                  on the stream, not read → pending with a worker → acked
              in flight ⇄ backlog               parked outside the stream until it is due and the oldest of its key
              in flight → dead letter ⇄ backlog given up; an operator replays it

How order is kept. With `order_field`, entries with the same value of that field have the same *key*; without it, each
entry has a key of its own. At most one worker owns a key. Redis stores the owner in a hash:

1. `take` reads from the stream and looks up the keys in one step. The reader becomes the owner of free keys. An entry
   whose key another worker owns, or has a backlog, is parked at the end of the backlog. Redis hands entries out in
   order, so all entries that the owner has of a key are older than those in the backlog.
2. The owner handles its entries of a key one after another (InFlight). The hash contains the id of the last one. The
   step that acks that entry also releases the key; if the key has a backlog, it is then due.
3. A failed entry is parked in its backlog, at its place by id, with all entries of the key that its worker has. Later
   entries wait behind it until it is done or a dead letter. That wait is bounded by `max_attempts` and the waits
   between attempts. The number of parked entries is bounded by `max_delayed`: at that limit the group reads no new
   entries. An entry that an operator replays may be older than those that the owner has. It is not handed out before
   the key is released: the record of each parked entry contains whether its owner has it in flight.
4. If a worker dies, all its entries are moved to their backlogs, and then all its keys are released in one step.
5. A worker begins no attempt after its lease may have expired. Each of its calls names the state that it believes in.
   If the state in Redis is another one, the call changes nothing.

So two handlers never work on one key at a time, and no entry is handled before an older one of its key is done. There
is one exception: a handler that was held up for longer than the lease goes on although another worker has begun.
"""

from realtime.exceptions import EntriesFailed, EntryRejected, PermanentError, Retry, Unavailable
from realtime.streams.entry import Entry, Handler, WorkerStatistics
from realtime.streams.worker import StreamWorker

__all__ = [
    "EntriesFailed",
    "Entry",
    "EntryRejected",
    "Handler",
    "PermanentError",
    "Retry",
    "StreamWorker",
    "Unavailable",
    "WorkerStatistics",
]
