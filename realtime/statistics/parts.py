"""
The counters of this process's parts, for monitoring: `collect()` returns them.

Owns the register of the parts that count with attributes of their own, and their sum. Does not own the meanings of the
counters (metrics), nor the counting, which each part does itself, nor where the numbers are sent (pusher).

A field `x` of `HubStatistics` is the metric `hub.x`, and so on.
"""

import os
import threading
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

from realtime.statistics.counting import announce_use

__all__ = [
    "ClientStatistics",
    "HubStatistics",
    "LayerStatistics",
    "MultiplexerStatistics",
    "Now",
    "ProcessStatistics",
    "SocketStatistics",
    "Source",
    "Total",
    "Totals",
    "ViewStatistics",
    "WorkerStatistics",
    "collect",
    "register",
    "unregister",
]

# How many there are at this moment.
type Now = int
# How many there have been since the process started; it never falls.
type Total = int
# Totals by name.
type Totals = Mapping[Any, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStatistics:
    """The WebSocket connections of signed-in users, on every web server."""

    open_count: Now = 0
    opened_count: Total = 0
    refused_counts: Totals
    closed_counts: Totals
    revoked_count: Total = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketStatistics:
    """The sockets that `realtime.server` has taken over from uvicorn."""

    open_count: Now = 0
    dead_count: Total = 0
    aborted_count: Total = 0
    refused_count: Total = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HubStatistics:
    """The fan-out from topics to sockets."""

    topic_count: Now = 0
    membership_count: Now = 0
    publication_count: Total = 0
    delivery_count: Total = 0
    frame_count: Total = 0
    slow_count: Total = 0
    failed_count: Total = 0
    resumed_count: Total = 0
    unresumed_count: Total = 0
    gap_count: Total = 0
    healed_count: Total = 0
    reread_count: Total = 0
    unrecovered_count: Total = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewStatistics:
    """The filtered subscriptions to topics with a snapshot."""

    view_count: Now = 0
    feed_count: Now = 0
    item_count: Now = 0
    tick_count: Total = 0
    change_count: Total = 0
    batch_count: Total = 0
    delivery_count: Total = 0
    written_bytes: Total = 0
    skipped_count: Total = 0
    thinned_count: Total = 0
    loaded_count: Total = 0
    reread_count: Total = 0
    failed_count: Total = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiplexerStatistics:
    """The pub/sub connections to Redis: one for each host and event loop, for the ingress, and for the log intake."""

    connected_count: Now = 0
    name_count: Now = 0
    listener_count: Now = 0
    received_count: Total = 0
    batch_count: Total = 0
    dropped_count: Total = 0
    failed_count: Total = 0
    lost_connection_count: Total = 0
    deaf_count: Total = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStatistics:
    """The channel layer: messages for consumers of Channels, and publications on topics with a snapshot."""

    dropped_count: Total = 0
    unreadable_count: Total = 0
    full_count: Total = 0
    silent_count: Total = 0
    unregistered_count: Total = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatistics:
    """The workers of one consumer group."""

    in_flight_count: Now
    handled_count: Total
    retried_count: Total
    dead_count: Total
    parked_count: Total
    claimed_count: Total
    lost_count: Total
    vanished_count: Total
    repaired_count: Total
    trimmed_count: Total


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStatistics:
    """
    All counters of this process, over all its event loops and threads.

    Attributes:
        workers: Consumer group → the workers of the group.
        others: Name → counters that other apps have registered under this name.
    """

    clients: ClientStatistics
    sockets: SocketStatistics
    hub: HubStatistics
    views: ViewStatistics
    multiplexer: MultiplexerStatistics
    layer: LayerStatistics
    workers: Mapping[str, WorkerStatistics]
    others: Mapping[str, Totals]


type Part = (
    ClientStatistics
    | SocketStatistics
    | HubStatistics
    | ViewStatistics
    | MultiplexerStatistics
    | LayerStatistics
    | WorkerStatistics
)


class Source(Protocol):
    """A part of the process that counts something."""

    def statistics(self) -> Part | Totals:
        """Its counters now. Called from any thread, about once a second: must be cheap and must not raise."""


_lock = threading.Lock()
if hasattr(os, "register_at_fork"):
    # A child has only the thread that forked: a lock of another thread would stay locked in it.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
# The parts that are counting, with their names. Held weakly, so that a forgotten part drops out.
_sources: dict[int, tuple[str, weakref.ref[Source]]] = {}
# The totals of the parts that have ended, by name and type.
_ended: dict[tuple[str, type], Part | Totals] = {}


def register(source: Source, name: str = "", *, starts_pushing: bool = False) -> None:
    """
    Add a part that counts to the sum of `collect`.

    Args:
        source: Held by a weak reference only.
        name: The consumer group of a worker; the name under which other counters appear. Parts of one name are summed.
        starts_pushing: Whether this process begins to push its counters now, instead of when it counts something.
            Leave it False for parts that also exist in commands that need no Redis.
    """
    with _lock:
        for key in [key for key, (_, reference) in _sources.items() if reference() is None]:
            del _sources[key]
        _sources[id(source)] = name, weakref.ref(source)
    if starts_pushing:
        announce_use()


def unregister(source: Source) -> None:
    """Remove a part that has ended: its totals stay in the sum, its present state does not. Idempotent."""
    with _lock:
        name, reference = _sources.pop(id(source), ("", None))
        if reference is not None and reference() is source:
            counted = _totals_of(source.statistics())
            key = name, _kind(counted)
            _ended[key] = _sum([_ended[key], counted]) if key in _ended else counted


def collect() -> ProcessStatistics:
    """
    The counters of this process.

    Guarantees:
        May be called from any thread while event loops run. It takes microseconds, whatever the number of connections
        and topics. The numbers are read at nearly the same moment.
    """
    with _lock:
        found: dict[tuple[str, type], list[Any]] = {key: [counted] for key, counted in _ended.items()}
        for name, reference in _sources.values():
            if (source := reference()) is not None:
                counted = source.statistics()
                found.setdefault((name, _kind(counted)), []).append(counted)
    sums = {key: _sum(counted) for key, counted in found.items()}
    return ProcessStatistics(
        clients=sums.get(("", ClientStatistics), ClientStatistics(refused_counts={}, closed_counts={})),
        sockets=sums.get(("", SocketStatistics), SocketStatistics()),
        hub=sums.get(("", HubStatistics), HubStatistics()),
        views=sums.get(("", ViewStatistics), ViewStatistics()),
        multiplexer=sums.get(("", MultiplexerStatistics), MultiplexerStatistics()),
        layer=sums.get(("", LayerStatistics), LayerStatistics()),
        workers={name: counted for (name, kind), counted in sums.items() if kind is WorkerStatistics},
        others={name: dict(counted) for (name, kind), counted in sums.items() if kind is Mapping},
    )


def _kind(counted: Any) -> type:
    return Mapping if isinstance(counted, Mapping) else type(counted)


def _sum(counted: Iterable[Any]) -> Any:
    first, *rest = counted
    for each in rest:
        if isinstance(first, Mapping):
            first = _added(first, each)
        else:
            names = [field.name for field in fields(first)]
            first = replace(first, **{name: _added(getattr(first, name), getattr(each, name)) for name in names})
    return first


def _added(one: Any, other: Any) -> Any:
    if isinstance(one, Mapping):
        # The sum of two Counters would drop what is 0.
        return {name: one.get(name, 0) + other.get(name, 0) for name in one.keys() | other.keys()}
    return one + other


def _totals_of(counted: Any) -> Any:
    if isinstance(counted, Mapping):
        return dict(counted)
    return replace(counted, **{field.name: 0 for field in fields(counted) if field.type is Now})
