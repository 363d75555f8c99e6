"""
The counters of this process, for monitoring: `collect()` returns them.

Owns the names and meanings of all counters, and the register of the parts that count. Does not own the counting, which
each part does itself, nor where the numbers are sent. docs/reference/statistics.md lists them.
"""

import os
import threading
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

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

    # Open connections.
    open_count: Now = 0
    # Connections that were accepted.
    opened_count: Total = 0
    # Objects from clients that were answered with an error, by error code.
    refused_counts: Totals
    # Connections that the server refused or closed, by close code. Failed writes are in `HubStatistics`; restarts are
    # not counted.
    closed_counts: Totals
    # Subscriptions that ended because the user had lost the permission for the topic.
    revoked_count: Total = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketStatistics:
    """The sockets that `realtime.server` has taken over from uvicorn."""

    # Open sockets.
    open_count: Now = 0
    # Sockets that did not answer a ping.
    dead_count: Total = 0
    # Sockets that were aborted because the client did not take its close frame in time.
    aborted_count: Total = 0
    # Sockets that were closed because of what the client sent: broken frames, or too many or too large ones.
    refused_count: Total = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HubStatistics:
    """The fan-out from topics to sockets."""

    # Topics that at least one socket is subscribed to.
    topic_count: Now = 0
    # Subscriptions of sockets to topics.
    membership_count: Now = 0
    # Publications that reached this process for a topic with members.
    publication_count: Total = 0
    # The same publications, counted once for each member that they were sent to.
    delivery_count: Total = 0
    # WebSocket frames made. One frame has all publications of a topic that one read from Redis brought.
    frame_count: Total = 0
    # Sockets closed because they read too slowly.
    slow_count: Total = 0
    # Sockets closed because writing to them failed.
    failed_count: Total = 0
    # Times that a topic was brought up to date from its history after a gap.
    healed_count: Total = 0
    # Histories that were read again for this because publications were missed meanwhile.
    reread_count: Total = 0
    # Members that were notified of a gap because the history did not have all that they had missed.
    unrecovered_count: Total = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewStatistics:
    """The filtered subscriptions to topics with a snapshot."""

    # Open views.
    view_count: Now = 0
    # Topics that are mirrored in this process.
    feed_count: Now = 0
    # Keys in these mirrors.
    item_count: Now = 0
    # Times that changes were applied and sent together.
    tick_count: Total = 0
    # Keys that changed, counted once for each tick.
    change_count: Total = 0
    # Batches sent to views.
    batch_count: Total = 0
    # The same changes, counted once for each view that they were sent to; without those of a snapshot.
    delivery_count: Total = 0
    # Bytes of these batches, those of snapshots included.
    written_bytes: Total = 0
    # Times that a view got nothing more for a while because its client read too slowly.
    skipped_count: Total = 0
    # Publications dropped because newer ones replaced them while they waited for a slow process. Nothing is lost: only
    # the newest of each key is sent. A snapshot that was read again counts as one.
    thinned_count: Total = 0
    # Snapshots read from Redis, to begin a mirror or after a gap.
    loaded_count: Total = 0
    # Snapshots, and registrations of a family's topics, that were read again: publications were missed meanwhile.
    reread_count: Total = 0
    # Views closed because serving them failed.
    failed_count: Total = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiplexerStatistics:
    """The pub/sub connections to Redis: one for each host and event loop, for the ingress, and for the log intake."""

    # Open connections.
    connected_count: Now = 0
    # Redis channels and patterns that have at least one listener.
    name_count: Now = 0
    # Local listeners.
    listener_count: Now = 0
    # Messages read from Redis.
    received_count: Total = 0
    # Reads from the connections. received_count / batch_count is how many messages one wake-up serves.
    batch_count: Total = 0
    # Messages dropped because a subscriber was too slow.
    dropped_count: Total = 0
    # Calls of a listener's callback that raised.
    failed_count: Total = 0
    # Connections lost, for whatever reason.
    lost_connection_count: Total = 0
    # Lost connections that looked healthy but delivered nothing: a probe did not come back.
    deaf_count: Total = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStatistics:
    """The channel layer: messages for consumers of Channels, and publications on topics with a snapshot."""

    # Messages dropped because a consumer's queue was full.
    dropped_count: Total = 0
    # Messages that could not be decoded.
    unreadable_count: Total = 0
    # Publications refused because the snapshot of their topic was full.
    full_count: Total = 0
    # Keys removed from snapshots because they had been silent for too long. Each is counted by the process that did it.
    silent_count: Total = 0
    # Times that Redis did not accept where the topics of a family publish. It is tried again.
    unregistered_count: Total = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatistics:
    """The workers of one consumer group. All numbers count entries of the stream."""

    # Entries that are being handled, or wait for it.
    in_flight_count: Now
    # Entries handled and acked.
    handled_count: Total
    # Attempts that failed and were followed by another one.
    retried_count: Total
    # Entries given up: moved to the dead letters.
    dead_count: Total
    # Entries read that had to be parked, because an older entry of their key was with another worker or had failed.
    parked_count: Total
    # Entries taken from workers that died or stopped answering.
    claimed_count: Total
    # Entries that Redis had given to another worker while this one held them: they may be handled twice.
    lost_count: Total
    # Entries that disappeared from the stream before they were handled. Trimming never does that.
    vanished_count: Total
    # Stuck keys and entries that were repaired. Nothing else would have led to their being handled.
    repaired_count: Total
    # Entries removed from the stream because all groups had finished them.
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


def register(source: Source, name: str = "") -> None:
    """
    Add a part that counts to the sum of `collect`.

    Args:
        source: Held by a weak reference only.
        name: The consumer group of a worker; the name under which other counters appear. Parts of one name are summed.
    """
    with _lock:
        for key in [key for key, (_, reference) in _sources.items() if reference() is None]:
            del _sources[key]
        _sources[id(source)] = name, weakref.ref(source)


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
