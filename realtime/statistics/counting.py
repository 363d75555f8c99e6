"""
Counting in this process, by labels: one addition to a dict of the calling thread, without a lock.

Owns the counters. Does not own their names (metrics) nor where they go (pusher). Parts that count with attributes of
their own are in `parts`.
"""

import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable

from realtime.statistics.histograms import BUCKETS, bucket_of
from realtime.statistics.metrics import METRICS

__all__ = ["OTHER", "Key", "announce_use", "count", "counted", "observe", "observe_all", "on_use"]

# A metric, its labels, and, for a histogram, the bucket as the last label.
type Key = tuple[str, ...]

# The most different keys of a process. Further ones are counted under OTHER instead of their labels.
KEYS_LIMIT = 5_000
OTHER = "(other)"
# Characters of a label; the rest is cut off.
LABEL_LIMIT = 64


class _Counts:
    """The counters of one thread. Only this thread writes to them, so no addition is lost."""

    __slots__ = ("__weakref__", "of")

    def __init__(self, of: dict[Key, int]) -> None:
        self.of = of


_local = threading.local()
# The counters of living threads: an object that dies with the thread, and the dict, which does not.
_threads: list[tuple[weakref.ref[_Counts], dict[Key, int]]] = []
# The sum of threads that have ended.
_ended: Counter[Key] = Counter()
_lock = threading.Lock()
# All keys of this process, for KEYS_LIMIT. Threads that add at the same moment may exceed it by a few.
_keys: set[Key] = set()
# The functions of `on_use`.
_on_use: list[Callable[[], None]] = []


def count(metric: str, number: int = 1, *labels: str) -> None:
    """
    Add to a total of this process.

    Args:
        metric: A name in METRICS.
        number: At least 0.
        labels: One for each label of the metric, in its order. Only the first 64 characters of each count.

    Guarantees:
        No I/O, and no lock after the first call of a thread. Beyond 5,000 different combinations of metric and labels
        in a process, new ones are counted under "(other)" instead of their labels.
    """
    key = (metric, *labels)
    try:
        _local.counts.of[key] += number
    except (AttributeError, KeyError):
        _add_first(key, number)


def observe(metric: str, seconds: float, *labels: str) -> None:
    """Add a duration to a histogram. The labels and guarantees are those of `count`."""
    key = (metric, *labels, BUCKETS[bucket_of(seconds)])
    try:
        _local.counts.of[key] += 1
    except (AttributeError, KeyError):
        _add_first(key, 1)


def observe_all(metric: str, seconds: Iterable[float]) -> None:
    """Add many durations to a histogram without labels: cheaper than one after another."""
    for bucket, number in Counter(map(bucket_of, seconds)).items():
        count(metric, number, BUCKETS[bucket])


def counted() -> Counter[Key]:
    """
    The totals of all threads since the process started.

    Guarantees:
        May be called from any thread, while others count. An addition made meanwhile is in this result or in the next.
    """
    with _lock:
        _add_ended()
        found = Counter(_ended)
        for _, of in _threads:
            # dict.copy() is one step of the interpreter.
            found.update(of.copy())
        return found


def on_use(call: Callable[[], None]) -> None:
    """Have this function called when a thread first counts, and by `announce_use`. It must not raise."""
    _on_use.append(call)


def announce_use() -> None:
    """Call the functions of `on_use`: this process has begun to count, or registers a part that works."""
    for call in _on_use:
        call()


def _forget_parent() -> None:
    """In a forked process: begin at 0. Called without another thread running."""
    global _local, _lock
    _local, _lock = threading.local(), threading.Lock()
    _threads.clear()
    _ended.clear()
    _keys.clear()


def _add_ended() -> None:
    """Add what ended threads have counted to the sum of these, and forget the threads. The caller holds the lock."""
    # They are found before their counters are read, so their last additions are read too.
    ended = [(reference, of) for reference, of in _threads if reference() is None]
    for each in ended:
        _threads.remove(each)
        _ended.update(each[1])


def _add_first(key: Key, number: int) -> None:
    """The slow path, for the first addition of a thread or to a key."""
    counts = getattr(_local, "counts", None)
    if counts is None:
        counts = _local.counts = _Counts({})
        with _lock:
            # Here too, in case nothing calls counted().
            _add_ended()
            _threads.append((weakref.ref(counts), counts.of))
        announce_use()
    key = _admitted((key[0], *(label[:LABEL_LIMIT] for label in key[1:])))
    counts.of[key] = counts.of.get(key, 0) + number


def _admitted(key: Key) -> Key:
    """The key itself, or the key that is counted in its place once there are too many."""
    if key in _keys:
        return key
    if len(_keys) < KEYS_LIMIT:
        _keys.add(key)
        return key
    metric, *labels = key
    is_histogram = metric in METRICS and METRICS[metric].kind == "histogram"
    bucket = [labels.pop()] if is_histogram else []
    return (metric, *(OTHER for _ in labels), *bucket)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
