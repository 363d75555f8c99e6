"""
The Redis names of one consumer group.

Owns their order in scripts. Does not own their spelling (realtime.redis.keys).
"""

from dataclasses import dataclass

from realtime.redis.keys import Keys

__all__ = ["GroupKeys"]

# A stream's key has its prefix already.
_KEYS = Keys()


@dataclass(frozen=True, slots=True)
class GroupKeys:
    """
    Args:
        stream: The key of the stream.
        group: The consumer group.
    """

    stream: str
    group: str

    @property
    def dead_letters(self) -> str:
        """The stream of what the group has given up."""
        return _KEYS.dead_letters(self.stream, self.group)

    @property
    def kept(self) -> str:
        """The entries in lines."""
        return _KEYS.kept_entries(self.stream, self.group)

    @property
    def due(self) -> str:
        """When each line that nobody works on is due."""
        return _KEYS.due_lines(self.stream, self.group)

    @property
    def owners(self) -> str:
        """Who works on each key."""
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
            self.kept,
            self.due,
            _KEYS.line(self.stream, self.group, ""),
            self.worker_lease(""),
        ]
