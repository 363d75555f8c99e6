"""
The sections of the dashboard, made from its figures.

Owns their order, headings and explanations. Does not own the figures (statistics.figures), their links (links) or how
sections are drawn (the templates).
"""

import datetime
from collections.abc import Iterable

from django.utils import timezone

from notifications.admin.dashboard.links import Links
from notifications.admin.dashboard.tables import Bar, Cell, Table, number, share, text
from notifications.conf import PARTS
from notifications.statistics.balances import BROWSERS, PLANNING
from notifications.statistics.figures import Balance, Dashboard, Funnel, Latency, Process, TransportFigures
from notifications.statistics.tally import OTHER_KINDS
from realtime.streams.status import GroupStatus

__all__ = ["tables"]

# The live numbers of `statistics.live` that the table "Now" shows: its name → the label.
_LIVE_FIGURES = {
    "outbox": "Events in the outbox",
    "lag": "Lag: entries that are not read yet",
    "pending": "Pending: entries read, and not acked yet",
    "delayed": "Delayed: entries that wait for another attempt",
}
_STAGES = ("created", "published", "relayed", "seen", "read")
_OUTCOMES = ("sent", "skipped", "unfinished", "failed")


def tables(dashboard: Dashboard, links: Links) -> tuple[Table, ...]:
    """Every table that the user may see, except those of the charts, in the order of the page."""
    return (
        _funnel(dashboard, links),
        _balances(dashboard, links),
        _now(dashboard, links),
        _latencies(dashboard),
        _transports(dashboard, links),
        _kinds(dashboard, links),
        *([_errors(dashboard, links)] if links.may_view_deliveries else []),
        _groups(dashboard, links),
        _workers(dashboard),
        *([_tasks(dashboard, links)] if dashboard.tasks else []),
        _processes(dashboard),
    )


def _now(dashboard: Dashboard, links: Links) -> Table:
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


def _sum(counts: Iterable[int | None]) -> int | None:
    """None if there is none, or one of them is unknown."""
    found = list(counts)
    return None if not found or None in found else sum(count for count in found if count is not None)


def _funnel(dashboard: Dashboard, links: Links) -> Table:
    funnel = dashboard.rows.funnel
    return Table(
        name="funnel",
        title="How far notifications have come",
        columns=("Stage", "Notifications", "Of created"),
        rows=tuple(
            (
                text(name),
                number(getattr(funnel, name), links.notifications("" if name == "created" else name)),
                _stage_share(funnel, name),
            )
            for name in _STAGES
        ),
    )


def _stage_share(funnel: Funnel, name: str) -> Cell:
    count = getattr(funnel, name)
    cell = share(count, funnel.created)
    if not funnel.created:
        return cell
    width = round(100 * min(count / funnel.created, 1), 2)
    return Cell(text=cell.text, value=cell.value, bars=(Bar(state="read", x=0, width=width),))


def _balances(dashboard: Dashboard, links: Links) -> Table:
    return Table(
        name="balances",
        title="Is everything accounted for?",
        columns=("Of", "Accepted", "Delivered", "Failed", "Expired", "In hand", "Difference"),
        rows=tuple(
            _stream_balance(balance, dashboard, links)
            if balance.name in (BROWSERS, PLANNING)
            else _transport_balance(balance, links)
            for balance in dashboard.balances
        ),
        lead="Accepted = delivered + failed + expired + in hand",
        note=(
            "Browsers counts notifications: they are delivered once the relay has published them. Planning counts them "
            "too: they are delivered once the bot has decided by which transports they are sent. Both include what "
            "was published in the last seven days and still waits. The transports count deliveries. Failed: given up. "
            "Expired: not sent, for example because it was read before. In hand: on the stream, due at a time, or held."
        ),
        is_wide=True,
    )


def _stream_balance(balance: Balance, dashboard: Dashboard, links: Links) -> tuple[Cell, ...]:
    """What the relay or the bot reads from the stream. Only the relay's work is a state of notifications."""
    is_relay = balance.name == BROWSERS and balance.delivered == dashboard.rows.funnel.relayed
    return (
        text(balance.name),
        number(balance.accepted),
        number(balance.delivered, links.notifications("relayed") if is_relay else ""),
        number(balance.failed, is_bad=True),
        number(balance.expired),
        number(balance.in_hand),
        _difference(balance.difference),
    )


def _transport_balance(balance: Balance, links: Links) -> tuple[Cell, ...]:
    name, difference = balance.name, balance.difference

    def rows(figure: str = "") -> str:
        return links.deliveries(name, figure)

    # Deliveries that nobody handles count whatever their age, so these figures are then more than the list shows.
    exact = not difference
    return (
        text(name, may_be_long=True),
        number(balance.accepted, rows() if exact else ""),
        number(balance.delivered, rows("sent")),
        number(balance.failed, rows("failed"), is_bad=True),
        number(balance.expired, rows("skipped")),
        number(balance.in_hand, rows("unfinished") if exact else ""),
        _difference(difference, links.never_due(name) if difference else ""),
    )


def _difference(difference: int, url: str = "") -> Cell:
    if difference == 0:
        return Cell(text="0: all accounted for", value=0)
    words = "not accounted for" if difference > 0 else "counted twice"
    return Cell(text=f"{difference:,}: {abs(difference):,} {words}", value=difference, url=url, is_bad=True)


def _transports(dashboard: Dashboard, links: Links) -> Table:
    return Table(
        name="transports",
        title="Success by transport",
        columns=("Transport", "Success", "Sent", "Failed", "Skipped", "Unfinished", "Retried"),
        rows=tuple(_transport(each, links) for each in dashboard.rows.transports),
        note=(
            "Success: sent, of those that are sent or failed. Skipped: not sent, for example because it was read "
            "before or the user has no address. Unfinished: pending, sending or held. Retried: attempts beyond the "
            "first of each delivery."
        ),
        empty="There are no deliveries in this time.",
        is_wide=True,
    )


def _transport(figures: TransportFigures, links: Links) -> tuple[Cell, ...]:
    name = figures.transport
    success = share(figures.sent, figures.sent + figures.failed)
    return (
        text(name, may_be_long=True),
        Cell(text=success.text, value=success.value, bars=_outcomes(figures)),
        number(figures.sent, links.deliveries(name, "sent")),
        number(figures.failed, links.deliveries(name, "failed"), is_bad=True),
        number(figures.skipped, links.deliveries(name, "skipped")),
        number(figures.unfinished, links.deliveries(name, "unfinished")),
        number(figures.retried, links.retried(name)),
    )


def _outcomes(figures: TransportFigures) -> tuple[Bar, ...]:
    total = sum(getattr(figures, name) for name in _OUTCOMES)
    bars, x = [], 0.0
    for name in _OUTCOMES:
        if count := getattr(figures, name):
            width = 100 * count / total
            bars.append(Bar(state=name, x=round(x, 2), width=round(width, 2)))
            x += width
    return tuple(bars)


def _latencies(dashboard: Dashboard) -> Table:
    return Table(
        name="latencies",
        title="Latency",
        columns=("From … to …", "Median", "95 %", "99 %", "Count"),
        rows=tuple(
            (
                text(_path(each)),
                _duration(each.p50_seconds),
                _duration(each.p95_seconds),
                _duration(each.p99_seconds),
                number(each.count),
            )
            for each in dashboard.counters.latencies
        ),
        note="95 % took at most the second figure, 99 % the third. Counted by the processes, at most 10 % off.",
        empty="Nothing was measured in this time.",
    )


def _path(latency: Latency) -> str:
    if latency.name == "socket":
        return "publish to socket"
    if latency.name == "relay":
        return "notify() to relay"
    kind, _, name = latency.name.partition(" ")
    return f"notify() to {name}" if kind == "transport" and name else latency.name


def _duration(seconds: float | None) -> Cell:
    if seconds is None:
        return Cell(text="–", value=None)
    if seconds < 1:
        shown = f"{seconds * 1000:.3g} ms"
    elif seconds < 120:
        shown = f"{seconds:.3g} s"
    else:
        shown = f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
    return Cell(text=shown, value=seconds)


def _kinds(dashboard: Dashboard, links: Links) -> Table:
    def rows(kind: str, name: str) -> str:
        # The smallest kinds may be counted together.
        return "" if kind == OTHER_KINDS else links.notifications("" if name == "created" else name, kind=kind)

    return Table(
        name="kinds",
        title="Top kinds",
        columns=("Kind", "Created", "Relayed", "Seen", "Read"),
        rows=tuple(
            (
                text(each.kind, may_be_long=True),
                *(number(getattr(each.funnel, name), rows(each.kind, name)) for name in _STAGES if name != "published"),
            )
            for each in dashboard.rows.kinds
        ),
        empty="There are no notifications in this time.",
    )


def _errors(dashboard: Dashboard, links: Links) -> Table:
    return Table(
        name="errors",
        title="Errors",
        columns=("Answer", "Transport", "Count", "Newest"),
        rows=tuple(
            (
                text(each.answer or "(none)", may_be_long=True),
                text(each.transport, may_be_long=True),
                number(each.count),
                _moment(each.at, "%m-%d %H:%M:%S", links.delivery(each.delivery_id)),
            )
            for each in dashboard.errors
        ),
        note="Count: how many of the latest failures in this time had this answer. Newest: leads to that delivery.",
        empty="No delivery has failed in this time.",
    )


def _groups(dashboard: Dashboard, links: Links) -> Table:
    return Table(
        name="groups",
        title="Consumer groups of the stream",
        columns=("Group", "Lag", "Pending", "Delayed", "Stuck keys", "Dead letters", "Oldest", "Consumers", "Alive"),
        rows=tuple(_group(each, links) for each in dashboard.groups),
        note=(
            "Lag: entries not yet read. Pending: read, not yet acked. Delayed: waiting for another attempt, or behind "
            "an older entry of the same user. Stuck keys: repaired within a lease. Dead letters: entries that could "
            "not be handled. Oldest: the age of the oldest entry that is neither finished nor a dead letter. Alive: "
            "consumers with a lease."
        ),
        empty="Redis is unavailable.",
        is_wide=True,
    )


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


def _workers(dashboard: Dashboard) -> Table:
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
                _duration(each.idle_seconds),
            )
            for each in dashboard.workers
        ),
        note="Pending: entries that it has read, and not acked. Idle: since it last asked Redis for entries.",
        empty="No worker has read the stream yet.",
    )


def _alive(is_alive: bool, *, has_work: bool = False) -> Cell:
    """Whether it is alive. One that has ended is only a sign of trouble if it has left work."""
    if is_alive:
        return text("yes")
    return text("no, with work", is_bad=True) if has_work else text("no")


def _moment(at: datetime.datetime, form: str = "%Y-%m-%d %H:%M:%S", url: str = "") -> Cell:
    """A time: of the site on the page, with its zone for programs."""
    return Cell(text=f"{timezone.localtime(at):{form}}", value=at.isoformat(), url=url)


def _tasks(dashboard: Dashboard, links: Links) -> Table:
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
    )


def _processes(dashboard: Dashboard) -> Table:
    return Table(
        name="processes",
        title="Processes",
        columns=("Process", "Role", "Alive", "Connections", "Topics", "Started", "Last seen"),
        rows=tuple(_process(each) for each in sorted(dashboard.counters.processes, key=lambda each: not each.is_alive)),
        note="Those that were seen in the last hour. Each pushes its counters once a second.",
        empty="No process has pushed its counters in the last hour.",
        is_wide=True,
    )


def _process(process: Process) -> tuple[Cell, ...]:
    return (
        text(process.name, may_be_long=True),
        text(process.role),
        _alive(process.is_alive),
        number(process.now.get("clients.open_count", 0)),
        number(process.now.get("hub.topic_count", 0)),
        _moment(process.started_at),
        _moment(process.seen_at),
    )
