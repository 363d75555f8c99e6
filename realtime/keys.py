"""
Every Redis name that the project uses, in one place.

Owns the spelling of keys and Redis channels, and which of them may live for ever. Keys of one stream share a hash tag,
so that a script may touch them together on a Redis Cluster.
"""

from dataclasses import dataclass

__all__ = ["Keys"]


@dataclass(frozen=True, slots=True)
class Keys:
    """
    The names under one prefix.

    Args:
        prefix: Put before every name; tests use one each, two projects on one Redis likewise. Empty by default.
    """

    prefix: str = ""

    def stream(self, name: str) -> str:
        """The Redis Stream `name`. Permanent."""
        return f"{self.prefix}{name}"

    def stream_guard(self, name: str, guard: str) -> str:
        """Says that the batch `guard` is on the stream `name` already. Expires."""
        return f"{{{self.prefix}{name}}}:appended:{guard}"

    def dead_letters(self, name: str, group: str) -> str:
        """The stream of entries of stream `name` that `group` has given up on. Permanent."""
        return f"{{{self.prefix}{name}}}:dead:{group}"

    def topic_position(self, topic: str) -> str:
        """Epoch and offset of the newest publication of `topic`. Expires a day after the last one."""
        return f"{self.prefix}signalbox:{{{topic}}}:position"

    def topic_history(self, topic: str) -> str:
        """The newest publications of `topic`, newest first. Expires."""
        return f"{self.prefix}signalbox:{{{topic}}}:history"

    def topic_idempotency(self, topic: str, key: str) -> str:
        """Where a publication stands that was published under the idempotency key `key`. Expires."""
        return f"{self.prefix}signalbox:{{{topic}}}:once:{key}"

    def lease(self, name: str) -> str:
        """Who holds the lease `name`: the holder's id. Expires."""
        return f"{self.prefix}signalbox:lease:{name}"

    def counters(self, name: str) -> str:
        """A hash of counters, field → how many since the hash was made. Permanent."""
        return f"{self.prefix}signalbox:counters:{name}"

    def ingress_channel(self) -> str:
        """The Redis channel on which any program may ask for a notification."""
        return f"{self.prefix}notification"
