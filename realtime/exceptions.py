"""The errors that `realtime` raises on purpose. Owns no behaviour."""

from collections.abc import Mapping, Sequence

__all__ = [
    "EntriesFailed",
    "EntryRejected",
    "FrameRefused",
    "PermanentError",
    "PublicationRefused",
    "PublicationTooLarge",
    "RealtimeError",
    "Retry",
    "SnapshotFull",
    "StreamFull",
    "StreamUnavailable",
    "SubscriberTooSlow",
    "SubscriptionClosed",
    "SubscriptionGap",
    "TaskDiscarded",
    "TaskQueueFull",
    "TaskTimedOut",
    "TaskUnknown",
    "TasksUnavailable",
    "TopicUnknown",
    "Unavailable",
    "WorkerLost",
    "WorkerStopped",
]


class RealtimeError(Exception):
    """Base of all errors of the transport."""


class SubscriptionGap(RealtimeError):
    """
    Messages of this subscription may be missing: its connection to Redis was lost and has been opened again.

    Raised once for each gap, at its place in the order of messages. The subscription continues after it.
    """

    def __init__(self) -> None:
        super().__init__("the Redis connection was lost and opened again: messages may be missing, reload the state")


class SubscriberTooSlow(SubscriptionGap):
    """
    A subscriber fell behind its high-water mark and lost its oldest messages.

    Attributes:
        dropped_count: How many messages were lost since the last time this was raised.
        high_water_mark: The most messages that are held for this subscriber.
    """

    def __init__(self, *, dropped_count: int, high_water_mark: int) -> None:
        self.dropped_count = dropped_count
        self.high_water_mark = high_water_mark
        RealtimeError.__init__(
            self,
            f"{dropped_count} messages were dropped, the subscriber holds at most {high_water_mark}: "
            "read faster or raise its high_water_mark, and reload the state",
        )


class SubscriptionClosed(RealtimeError):
    """The subscription has ended, or its multiplexer is not running. No more messages will arrive."""

    def __init__(self) -> None:
        super().__init__("the subscription is closed: receive within `async with multiplexer.subscribe(…)`")


class FrameRefused(RealtimeError):
    """
    A client sent something that is not an object of `signalbox.v1`.

    Attributes:
        code: One word for programs: "bad_json" or "bad_frame".
        detail: One sentence for people.
    """

    def __init__(self, *, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"{code}: {detail}")


class PublicationTooLarge(RealtimeError):
    """
    The data of a publication is over the limit; nothing was published.

    Attributes:
        size_bytes, limit_bytes: The size of the data, and the limit.
    """

    def __init__(self, *, size_bytes: int, limit_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        super().__init__(
            f"the data is {size_bytes} bytes, the limit is {limit_bytes}: publish an id and let the client fetch"
        )


class PublicationRefused(RealtimeError):
    """
    The topic does not take this publication, or its `check_data` refused the data. Nothing was published.

    Attributes:
        topic: The topic.
        reason: What is wrong with it.
    """

    def __init__(self, topic: str, reason: str) -> None:
        self.topic = topic
        self.reason = reason
        super().__init__(f"this cannot be published on {topic}: {reason}")


class SnapshotFull(RealtimeError):
    """
    A topic's snapshot has no room for another key, or for more bytes. These publications were not sent.

    Attributes:
        keys: (topic, key) of each.
    """

    def __init__(self, keys: Sequence[tuple[str, str]]) -> None:
        self.keys = list(keys)
        topic, key = self.keys[0]
        others = f" and {len(self.keys) - 1} more" if len(self.keys) > 1 else ""
        super().__init__(
            f"the snapshot of {topic} is full, so the key {key!r}{others} was not published: remove keys, let them "
            "expire (absent_after_seconds), or raise key_limit or bytes_limit of the topic's Snapshot"
        )


class TopicUnknown(RealtimeError):
    """No app declares this topic."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        super().__init__(
            f"no app declares the topic {topic!r}: add a realtime.topics.Topic with its pattern to a topics.py; a "
            "topic has at most 99 letters, digits, '-', '_' and '.'"
        )


class Unavailable(RealtimeError):
    """
    Something that the work needs is unavailable for now: a database, Redis, the network. The work is not at fault.

    A stream handler raises it to be called again until it succeeds. No attempt is counted.
    """


class StreamUnavailable(Unavailable):
    """Redis did not confirm that the entries were appended. Appending them again with the same guard is safe."""


class StreamFull(StreamUnavailable):
    """
    The stream has reached its limit, because its workers are too slow or none run. Nothing was appended, and appending
    again with the same guard is safe.
    """


class Retry(RealtimeError):
    """
    The attempt failed, and the service that refused it says when to try again. It counts as an attempt.

    Attributes:
        after_seconds: The shortest wait before the next attempt; at most a week counts.
        reason: What the service answered.
    """

    def __init__(self, after_seconds: float, reason: str = "") -> None:
        self.after_seconds = float(after_seconds)
        self.reason = reason
        super().__init__(reason or f"try again after {self.after_seconds:.1f} s")


class PermanentError(RealtimeError):
    """
    No further attempt will ever succeed: a stream handler raises it to have the entry moved to the dead letters.

    Attributes:
        reason: Why not.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class EntriesFailed(RealtimeError):
    """
    Some entries of a batch failed. A stream handler raises it when all others are done.

    Attributes:
        errors: The id of each failed entry → its error, which is treated as if the handler had raised it for this entry
            alone. If an id is not in the batch, the whole batch has failed. If there are none, the batch is done.
    """

    def __init__(self, errors: Mapping[bytes, Exception]) -> None:
        self.errors = errors
        super().__init__(f"{len(errors)} entries failed")


class EntryRejected(PermanentError):
    """The entry itself is malformed; `reason` says what is wrong with it."""


class TasksUnavailable(Unavailable):
    """
    Redis did not confirm that a task was enqueued, or a task could not be read.

    If `enqueue` raises it, the task may have been enqueued all the same.
    """


class TaskQueueFull(TasksUnavailable):
    """The queue has reached its limit, because its workers are too slow or none run. Nothing was enqueued."""


class TaskUnknown(PermanentError):
    """The function of a task cannot be found: it was moved, renamed or removed, or lacks the decorator `@task`."""


class TaskTimedOut(RealtimeError, TimeoutError):
    """
    An attempt of a task took longer than its `timeout`.

    Attributes:
        timeout_seconds: The limit. 0 while the function of a sync task is being interrupted.
    """

    def __init__(self, timeout_seconds: float = 0.0) -> None:
        self.timeout_seconds = timeout_seconds
        super().__init__(f"the task took longer than its timeout of {timeout_seconds:g} s")


class WorkerLost(RealtimeError):
    """The worker that ran a task was lost: its process died, or stood still for longer than its lease."""


class WorkerStopped(RealtimeError):
    """The worker that ran a task was stopped, and its deadline passed before the task had ended."""


class TaskDiscarded(RealtimeError):
    """A task was discarded before it ran."""
