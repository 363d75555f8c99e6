"""
The sections of the dashboard about what runs: what waits, latencies, groups, workers, tasks and processes.

Owns their headings and explanations. Does not own their order on the page (sections), their figures
(statistics.figures) or their links (links).
"""

from collections.abc import Iterable

from notifications.admin.dashboard.links import Links
from notifications.admin.dashboard.tables import Cell, Table, duration, moment, number, text
from notifications.conf import PARTS
from notifications.statistics.figures import Dashboard, Latency, Process
from realtime.statistics.metrics import METRICS
from realtime.streams.status import GroupStatus

__all__ = ["groups", "latencies", "processes", "tasks", "waiting", "workers"]

_DELAYED = METRICS["streams.delayed_count"].meaning
# What the figures of a group count: the name of each → its label.
_GROUP_FIGURES = {
    "lag": "Lag: entries that are not read yet",
    "pending": "Pending: entries read, and not acked yet",
    "delayed": f"Delayed: {_DELAYED[0].lower()}{_DELAYED[1:]}",
}
# The live numbers of `statistics.live` that the table "Waiting now" shows: the name of each → its label.
_LIVE_FIGURES = {"outbox": "Events in the outbox", **_GROUP_FIGURES}

_UNKNOWN = "Unknown, because Redis is unavailable."


def waiting(dashboard: Dashboard, links: Links) -> Table:
    """What waits at this moment. Live numbers replace these between two refreshes."""
    groups = [group for group in dashboard.groups if group.name in PARTS]
    counts = {
        "outbox": dashboard.outbox,
        "lag": _sum(group.lag for group in groups),
        "pending": _sum(group.pending for group in groups),
        "delayed": _sum(group.delayed for group in groups),
    }
    urls = {"outbox": links.events("outbox")}
    rows = [(text(label), number(counts[name], urls.get(name, ""), live=name)) for name, label in _LIVE_FIGURES.items()]
    rows.insert(1, (text("Events scheduled"), number(dashboard.scheduled, links.events("scheduled"))))
    return Table(
        name="now",
        title="Waiting now",
        columns=("What", "Number"),
        rows=tuple(rows),
        note="Each notification is one entry, which the relay and the bot read separately.",
    )


def latencies(dashboard: Dashboard) -> Table:
    return Table(
        name="latencies",
        title="Latency",
        columns=("From … to …", "Median", "95 %", "99 %", "Count"),
        rows=tuple(
            (
                text(_path(each)),
                duration(each.p50_seconds),
                duration(each.p95_seconds),
                duration(each.p99_seconds),
                number(each.count),
            )
            for each in dashboard.counters.latencies
        ),
        note="95 % took at most the second figure, 99 % the third. Counted by the processes, at most 10 % off.",
        empty=_UNKNOWN if dashboard.redis_error else "Nothing was measured in this time.",
    )


def groups(dashboard: Dashboard, links: Links) -> Table:
    return Table(
        name="groups",
        title="Consumer groups of the stream",
        columns=("Group", "Lag", "Pending", "Delayed", "Stuck keys", "Dead letters", "Oldest", "Consumers", "Alive"),
        rows=tuple(_group(each, links) for each in dashboard.groups),
        note=(
            f"{'. '.join(_GROUP_FIGURES.values())}. Stuck keys: users with entries that no worker holds and that are "
            "not due; workers repair them within a lease. Dead letters: entries that could not be handled. Oldest: the "
            "age of the oldest entry that is neither finished nor a dead letter. Alive: consumers with a lease."
        ),
        empty="Redis is unavailable.",
        is_wide=True,
    )


def workers(dashboard: Dashboard) -> Table:
    return Table(
        name="workers",
        title="Workers of the stream",
        columns=("Worker", "Group", "Alive", "Pending", "Idle"),
        rows=tuple(
            (
                text(each.consumer, may_be_long=True),
                text(each.group),
                _alive(each.is_alive, has_work=each.pending > 0),
                number(each.pending),
                duration(each.idle_seconds),
            )
            for each in dashboard.workers
        ),
        note="Pending: entries that it has read, and not acked. Idle: time since it last asked Redis for entries.",
        empty=_UNKNOWN if dashboard.redis_error else "No worker is running.",
    )


def tasks(dashboard: Dashboard, links: Links) -> Table:
    states = ("ready", "scheduled", "running", "failed", "successful")
    url = links.tasks()
    return Table(
        name="tasks",
        title="Background tasks",
        columns=("Queue", *(state.capitalize() for state in states)),
        rows=tuple(
            (
                text(each.queue),
                *(
                    number(getattr(each, state), links.tasks(each.queue, state), is_bad=state == "failed")
                    for state in states
                ),
            )
            for each in dashboard.tasks
        ),
        note=(
            "Ready: waiting for a worker. Scheduled: due later, for the first time or for another attempt. Failed and "
            "successful: the newest that are still kept."
        ),
        more=("Show them", url) if url else None,
        is_wide=True,
    )


def processes(dashboard: Dashboard) -> Table:
    return Table(
        name="processes",
        title="Processes",
        columns=("Process", "Role", "Alive", "Connections", "Topics", "Started", "Last seen"),
        rows=tuple(_process(each) for each in sorted(dashboard.counters.processes, key=lambda each: not each.is_alive)),
        note="Those that were seen in the last hour. Each pushes its counters once a second.",
        empty=_UNKNOWN if dashboard.redis_error else "No process has pushed its counters in the last hour.",
        is_wide=True,
    )


def _sum(counts: Iterable[int | None]) -> int | None:
    """None if there is none, or one of them is unknown."""
    found = list(counts)
    return None if not found or None in found else sum(count for count in found if count is not None)


def _path(latency: Latency) -> str:
    if latency.name == "socket":
        return "publish to socket"
    if latency.name == "relay":
        return "notify() to relay"
    kind, _, name = latency.name.partition(" ")
    return f"notify() to {name}" if kind == "transport" and name else latency.name


def _group(group: GroupStatus, links: Links) -> tuple[Cell, ...]:
    alive = number(group.workers) if group.workers else Cell(text="0: none", value=0, is_bad=True)
    return (
        text(group.name),
        number(group.lag),
        number(group.pending),
        number(group.delayed),
        number(group.standing, is_bad=True),
        number(group.dead, _dead_letters(links, group.name, group.dead), is_bad=True),
        Cell(text=group.oldest, value=group.oldest_seconds),
        number(group.consumers),
        alive,
    )


def _dead_letters(links: Links, group: str, count: int) -> str:
    # A group that does not exist yet has no page.
    return links.dead_letters(group) if count else ""


def _alive(is_alive: bool, *, has_work: bool = False) -> Cell:
    """Whether it is alive. One that has ended is only a sign of trouble if it has left work."""
    if is_alive:
        return text("yes")
    return text("no, with work", is_bad=True) if has_work else text("no")


def _process(process: Process) -> tuple[Cell, ...]:
    return (
        text(process.name, may_be_long=True),
        text(process.role),
        _alive(process.is_alive),
        number(process.now.get("clients.open_count", 0)),
        number(process.now.get("hub.topic_count", 0)),
        moment(process.started_at, "%m-%d %H:%M"),
        moment(process.seen_at, "%H:%M:%S"),
    )
