"""
Every metric: its name, its unit, and one sentence that says what it means.

Owns these. Does not own counting (parts, counting) nor where the figures go (pusher). docs/reference/statistics.md has
the same table, and a test holds it to this module.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["METRICS", "OTHERS", "Kind", "Metric"]

# now: how many there are at this moment. total: how many there have been; it never falls. histogram: how many took how
# long.
type Kind = Literal["now", "total", "histogram"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """
    One metric.

    Attributes:
        name: "part.what"; the part is a heading of the documentation.
        kind: How it is counted.
        unit: What is counted, in the plural; "seconds" for a histogram.
        meaning: One sentence without its full stop, as the documentation and the dashboard show it.
        labels: What it is counted by, in this order, for example ("kind", "transport").
    """

    name: str
    kind: Kind
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()


def _metrics(
    part: str, *rows: tuple[str, Kind, str, str] | tuple[str, Kind, str, str, tuple[str, ...]]
) -> dict[str, Metric]:
    return {
        f"{part}.{name}": Metric(
            name=f"{part}.{name}", kind=kind, unit=unit, meaning=meaning, labels=labels[0] if labels else ()
        )
        for name, kind, unit, meaning, *labels in rows
    }


METRICS: dict[str, Metric] = {
    **_metrics(
        "notifications",
        ("created", "total", "notifications", "Notifications written by notify(), after their commit", ("kind",)),
        ("published", "total", "notifications", "Notifications whose event is completely on the stream", ("kind",)),
        ("relayed", "total", "notifications", "Notifications that the relay published to browsers", ("kind",)),
        ("seen", "total", "notifications", "Notifications that were marked as seen before they were read"),
        ("read", "total", "notifications", "Notifications that were marked as read"),
        ("archived", "total", "notifications", "Notifications that were archived"),
        ("relay_seconds", "histogram", "seconds", "From notify() until the relay had published it to browsers"),
    ),
    **_metrics(
        "deliveries",
        ("sent", "total", "deliveries", "Deliveries that a provider accepted", ("kind", "transport")),
        ("retried", "total", "attempts", "Attempts that failed and are followed by another one", ("kind", "transport")),
        ("failed", "total", "deliveries", "Deliveries that are given up", ("kind", "transport")),
        (
            "skipped",
            "total",
            "deliveries",
            "Deliveries that were skipped, because nothing was to be sent any more or there was no address",
            ("kind", "transport"),
        ),
        (
            "send_seconds",
            "histogram",
            "seconds",
            "From notify() until a provider had accepted it; without deliveries that wait on purpose",
            ("transport",),
        ),
    ),
    **_metrics(
        "publications",
        ("published", "total", "publications", "Publications that this process put on topics"),
        (
            "socket_seconds",
            "histogram",
            "seconds",
            "From publishing on a topic until it was written to all of a process's sockets; of samples, at most "
            "20 a second from each publishing process",
        ),
    ),
    **_metrics(
        "clients",
        ("open_count", "now", "connections", "Open connections"),
        ("opened_count", "total", "connections", "Connections that were accepted"),
        (
            "refused_counts",
            "total",
            "objects",
            "Objects from clients that were answered with an error, by error code",
            ("code",),
        ),
        (
            "closed_counts",
            "total",
            "connections",
            "Connections that the server refused or closed, by close code. Failed writes of the hub are in "
            "`hub.failed_count`; restarts are not counted",
            ("code",),
        ),
        (
            "revoked_count",
            "total",
            "subscriptions",
            "Subscriptions that ended because the user had lost the permission for the topic",
        ),
    ),
    **_metrics(
        "sockets",
        ("open_count", "now", "sockets", "Open sockets"),
        ("dead_count", "total", "sockets", "Sockets that did not answer a ping"),
        (
            "aborted_count",
            "total",
            "sockets",
            "Sockets that were aborted because the client did not take its close frame in time",
        ),
        (
            "refused_count",
            "total",
            "sockets",
            "Sockets that were closed because of what the client sent: broken frames, or too many or too large ones",
        ),
    ),
    **_metrics(
        "hub",
        ("topic_count", "now", "topics", "Topics that at least one socket is subscribed to"),
        ("membership_count", "now", "subscriptions", "Subscriptions of sockets to topics"),
        (
            "publication_count",
            "total",
            "publications",
            "Publications that reached this process for a topic with members",
        ),
        (
            "delivery_count",
            "total",
            "publications",
            "Publications written to sockets, counted once for each member",
        ),
        (
            "frame_count",
            "total",
            "frames",
            "WebSocket frames made. One frame has all publications of a topic that one read from Redis brought",
        ),
        ("slow_count", "total", "sockets", "Sockets closed because they read too slowly"),
        ("failed_count", "total", "sockets", "Sockets closed because writing to them failed"),
        ("resumed_count", "total", "subscriptions", "Subscriptions that a client resumed from its last position"),
        (
            "unresumed_count",
            "total",
            "subscriptions",
            "Resumed subscriptions for which publications since that position were lost: the client was notified how "
            "many",
        ),
        (
            "gap_count",
            "total",
            "gaps",
            "Times that publications of a topic may have been missed, after a lost connection or publication",
        ),
        (
            "healed_count",
            "total",
            "gaps",
            "Times that a topic was brought up to date from its history after a gap",
        ),
        (
            "reread_count",
            "total",
            "reads",
            "Histories read again during a catch-up, because publications were missed meanwhile",
        ),
        (
            "unrecovered_count",
            "total",
            "subscriptions",
            "Members that were notified of a gap because the history did not have all that they had missed",
        ),
    ),
    **_metrics(
        "views",
        ("view_count", "now", "views", "Open views"),
        ("feed_count", "now", "topics", "Topics that are mirrored in this process"),
        ("item_count", "now", "keys", "Keys in the mirrors of this process"),
        ("tick_count", "total", "ticks", "Times that changes were applied and sent together"),
        ("change_count", "total", "keys", "Keys that changed, counted once for each tick"),
        ("batch_count", "total", "batches", "Batches sent to views"),
        (
            "delivery_count",
            "total",
            "keys",
            "Changes sent to views, counted once for each view; without those of a snapshot",
        ),
        ("written_bytes", "total", "bytes", "Bytes of the batches sent to views, those of snapshots included"),
        (
            "skipped_count",
            "total",
            "pauses",
            "Times that a view got nothing more for a while because its client read too slowly, or too much changed "
            "at once",
        ),
        (
            "thinned_count",
            "total",
            "publications",
            "Publications dropped because newer ones replaced them while they waited for a slow process. Nothing is "
            "lost: only the newest of each key is sent. A snapshot that was read again counts as one",
        ),
        ("loaded_count", "total", "snapshots", "Snapshots read from Redis, to begin a mirror or after a gap"),
        (
            "reread_count",
            "total",
            "snapshots",
            "Snapshots, and registrations of a family's topics, that were read again because publications were missed "
            "meanwhile: the connection was lost, or more arrived than may wait. If it grows steadily, reading takes "
            "too long",
        ),
        (
            "failed_count",
            "total",
            "views",
            "Views closed because serving them failed. Their connections are in `clients.closed_counts`, under 4006",
        ),
    ),
    **_metrics(
        "multiplexer",
        ("connected_count", "now", "connections", "Open connections"),
        ("name_count", "now", "names", "Redis channels and patterns that have at least one listener"),
        ("listener_count", "now", "listeners", "Local listeners"),
        ("received_count", "total", "messages", "Messages read from Redis"),
        (
            "batch_count",
            "total",
            "reads",
            "Reads from the connections. `received_count / batch_count` is how many messages one wake-up serves",
        ),
        ("dropped_count", "total", "messages", "Messages dropped because a subscriber was too slow"),
        ("failed_count", "total", "calls", "Calls of a listener's callback that raised"),
        ("lost_connection_count", "total", "connections", "Connections lost, for whatever reason"),
        (
            "deaf_count",
            "total",
            "connections",
            "Lost connections that looked healthy but delivered nothing: a probe did not come back",
        ),
    ),
    **_metrics(
        "layer",
        ("dropped_count", "total", "messages", "Messages dropped because a consumer's queue was full"),
        ("unreadable_count", "total", "messages", "Messages that could not be decoded"),
        ("full_count", "total", "publications", "Publications refused because the snapshot of their topic was full"),
        (
            "silent_count",
            "total",
            "keys",
            "Keys removed from snapshots because they had been silent for too long. Each is counted by the process "
            "that did it",
        ),
        (
            "unregistered_count",
            "total",
            "failures",
            "Times that a process could not register in which area a topic of a family publishes. It tries again after "
            "five seconds, with the next publication. Until then, subscribers to that area may miss a new topic",
        ),
    ),
    **_metrics(
        "workers",
        ("in_flight_count", "now", "entries", "Entries that are being handled, or wait to be handled", ("group",)),
        ("handled_count", "total", "entries", "Entries handled and acked", ("group",)),
        ("retried_count", "total", "attempts", "Attempts that failed and were followed by another one", ("group",)),
        ("dead_count", "total", "entries", "Entries given up: moved to the dead letters", ("group",)),
        (
            "parked_count",
            "total",
            "entries",
            "Entries read that had to be parked, because an older entry of their key was with another worker or had "
            "failed",
            ("group",),
        ),
        ("claimed_count", "total", "entries", "Entries taken from workers that died or stopped answering", ("group",)),
        (
            "lost_count",
            "total",
            "entries",
            "Entries that Redis had given to another worker while this one held them: they may be handled twice",
            ("group",),
        ),
        (
            "vanished_count",
            "total",
            "entries",
            "Entries that disappeared from the stream before they were handled. Trimming never does that",
            ("group",),
        ),
        (
            "repaired_count",
            "total",
            "keys or entries",
            "Stuck keys and entries that were repaired. Nothing else would have led to their being handled",
            ("group",),
        ),
        (
            "trimmed_count",
            "total",
            "entries",
            "Entries removed from the stream because all groups had finished them",
            ("group",),
        ),
    ),
    **_metrics(
        "tasks",
        ("enqueued", "total", "tasks", "Background tasks that were enqueued", ("queue",)),
        ("successful", "total", "tasks", "Background tasks that have returned", ("queue",)),
        ("failed", "total", "tasks", "Background tasks that have failed and do not run again", ("queue",)),
        (
            "retried",
            "total",
            "attempts",
            "Attempts that raised an error and are followed by another one",
            ("queue",),
        ),
    ),
    **_metrics(
        "sinks",
        ("files", "total", "files", "Files that sinks have completed", ("sink",)),
    ),
    **_metrics(
        "streams",
        ("lag_count", "now", "entries", "Entries that no worker of the group has read yet", ("group",)),
        (
            "delayed_count",
            "now",
            "entries",
            "Entries that wait for another attempt, or behind an older entry of the same user",
            ("group",),
        ),
    ),
    **_metrics("others", ("totals", "total", "", "Counters of other parts, by the part's name", ("part", "what"))),
}

# The counters of `others.totals` that parts of ours have: part → what it counts → the meaning. Parts of the project may
# add their own. "<…>" stands for a name.
OTHERS: dict[str, dict[str, str]] = {
    "ingress": {
        "accepted": "Requests of other programs that were accepted",
        "refused:<reason>": "Requests that were refused",
        "dropped": "Requests that arrived while too many waited, or that waited when the process had to end",
        "left to others": "Requests that were left to the next holder of the lease",
    },
    "log handler <stream>": {
        "queued": "Log records that the handler has taken",
        "sent": "Log records that the handler has appended to the stream",
        "spilled": "Log records written to the disk because Redis was unavailable",
        "refused": "Log records that were not taken, because the queue in memory was full or the record too large",
        "lost": "Log records that could neither be sent nor spilled before the handler was closed",
        "replayed": "Log records that were read from spill files and then sent",
    },
    "log intake": {
        "accepted": "Log records of other programs that are on the stream",
        "refused": "Log records of other programs that could not be read",
        "dropped": "Log records of other programs that came faster than the stream took them",
    },
    "outbox": {"left_to_sweep": "Events that notify() did not publish on commit because Redis had failed"},
}
