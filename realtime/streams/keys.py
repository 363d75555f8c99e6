"""
The names of a consumer group's Redis keys.

Owns which keys a group has. Does not own how they are spelt (redis.keys) nor what is in them (group).
"""

from dataclasses import dataclass

from realtime.redis.keys import Keys

__all__ = ["GroupKeys", "WaitingList"]

# A stream's key has its prefix already.
_KEYS = Keys()


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingList:
    """
    The Redis keys of a waiting list in front of a stream. Both are sorted sets of items "priority:name".

    A worker with room appends the first items to the stream, each as an entry with the field `item`. So a late item of
    high priority can still overtake others, which entries of a stream cannot.

    An entry of the stream whose first field is `wake` only wakes a worker: the one that reads it acks it at once.

    Attributes:
        waiting: Item → its place in the list: when it began to wait, in microseconds, minus a minute for each point of
            its priority. So a point of priority is worth a minute of waiting, and nothing waits for ever.
        scheduled: Item → when it begins to wait, in milliseconds.
    """

    waiting: str
    scheduled: str


@dataclass(frozen=True, slots=True)
class GroupKeys:
    """
    The Redis keys of one consumer group.

    Args:
        stream: The key of the stream.
        group: The consumer group.
    """

    stream: str
    group: str

    @property
    def dead_letters(self) -> str:
        """The stream of the entries that the group has given up."""
        return _KEYS.dead_letters(self.stream, self.group)

    @property
    def parked(self) -> str:
        """The parked entries."""
        return _KEYS.parked_entries(self.stream, self.group)

    @property
    def due(self) -> str:
        """When each backlog is due whose key no worker holds."""
        return _KEYS.due_backlogs(self.stream, self.group)

    @property
    def owners(self) -> str:
        """The worker that holds each key."""
        return _KEYS.key_owners(self.stream, self.group)

    def worker_lease(self, consumer: str) -> str:
        """The lease of one of the group's workers."""
        return _KEYS.worker_lease(self.stream, self.group, consumer)

    @property
    def check(self) -> str:
        """The worker that last checked the group for stuck keys."""
        return _KEYS.group_check(self.stream, self.group)

    @property
    def made(self) -> str:
        """When the group was last created."""
        return _KEYS.group_made(self.stream, self.group)

    @property
    def for_scripts(self) -> list[str]:
        """KEYS[1] to KEYS[6] of the scripts."""
        return [
            self.stream,
            self.owners,
            self.parked,
            self.due,
            _KEYS.backlog(self.stream, self.group, ""),
            self.worker_lease(""),
        ]
