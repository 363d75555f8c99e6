"""
What operators do with background tasks: run them again and discard them.

Owns the size of a step, and the reasons why tasks were left out. Does not own what happens in Redis (store),
permissions nor the log of actions (admin).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import redis

from realtime.tasks.status import KnownQueue

__all__ = ["Done", "discard", "run_again"]

# How many tasks one step takes: a script must not block Redis for long.
STEP_SIZE = 500
_FINISHED = (b"SUCCESSFUL", b"FAILED")


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """
    How many tasks an action changed, and how many it left out for which reason.

    Attributes:
        done: Run again or discarded.
        missing: They do not exist (any more).
        unfinished: Left out because they had not finished (run again), or were running (discard).
        key_taken: Not run again because another unfinished task has their unique key.
        changed: Left out because their state changed during the action.
    """

    done: int = 0
    missing: int = 0
    unfinished: int = 0
    key_taken: int = 0
    changed: int = 0

    def __add__(self, other: "Done") -> "Done":
        return Done(
            done=self.done + other.done,
            missing=self.missing + other.missing,
            unfinished=self.unfinished + other.unfinished,
            key_taken=self.key_taken + other.key_taken,
            changed=self.changed + other.changed,
        )


def run_again(client: redis.Redis, queue: KnownQueue, ids: Sequence[str]) -> Iterator[Done]:
    """
    Let finished tasks of a queue run again, in steps. Yields the result of each step.

    Raises:
        redis.RedisError: Redis is unavailable. The step that raised may have been done all the same.
    """
    return _in_steps(client, queue, ids, queue.tasks.run_again, refused=(b"READY", b"RUNNING"))


def discard(client: redis.Redis, queue: KnownQueue, ids: Sequence[str]) -> Iterator[Done]:
    """
    Fail tasks that wait and delete finished ones, in steps. Yields the result of each step.

    Raises:
        redis.RedisError: Redis is unavailable. The step that raised may have been done all the same.
    """
    return _in_steps(client, queue, ids, queue.tasks.discard, refused=(b"RUNNING",))


def _in_steps(
    client: redis.Redis,
    queue: KnownQueue,
    ids: Sequence[str],
    act: Callable[[redis.Redis, Sequence[str]], int],
    *,
    refused: tuple[bytes, ...],
) -> Iterator[Done]:
    for start in range(0, len(ids), STEP_SIZE):
        step = ids[start : start + STEP_SIZE]
        before = _statuses(client, queue, step)
        count = act(client, step)
        if count == len(step):
            yield Done(done=count)
            continue
        after = _statuses(client, queue, step)
        missing = before.count(None)
        unfinished = sum(status in refused for status in before)
        key_taken = sum(was in _FINISHED and status in _FINISHED for was, status in zip(before, after, strict=True))
        rest = len(step) - count - missing - unfinished - key_taken
        yield Done(done=count, missing=missing, unfinished=unfinished, key_taken=key_taken, changed=max(0, rest))


def _statuses(client: redis.Redis, queue: KnownQueue, ids: Sequence[str]) -> list[bytes | None]:
    pipeline = client.pipeline(transaction=False)
    for id in ids:
        pipeline.hget(queue.tasks.task_key(id), "status")
    found: list[bytes | None] = pipeline.execute()
    return found
