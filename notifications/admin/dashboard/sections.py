"""
The sections of the dashboard, made from its figures: their order, and those about notifications and deliveries.

Owns the order of all sections, and the headings and explanations of these. Does not own the figures
(statistics.figures), their links (links), the sections about what runs (processes), or drawing (the templates).
"""

from notifications.admin.dashboard import processes
from notifications.admin.dashboard.links import Links
from notifications.admin.dashboard.tables import OUTCOMES_DRAWN, Bar, Cell, Table, moment, number, share, text
from notifications.statistics.balances import BROWSERS, PLANNING
from notifications.statistics.errors import DUE_LIMIT, FAILURES_LIMIT
from notifications.statistics.figures import Balance, Dashboard, Funnel, TransportFigures
from notifications.statistics.tally import FUNNEL, OTHER_KINDS

__all__ = ["tables"]


def tables(dashboard: Dashboard, links: Links) -> tuple[Table, ...]:
    """Every table that the user may see, except those of the charts, in the order of the page."""
    return (
        _funnel(dashboard, links),
        _balances(dashboard, links),
        processes.waiting(dashboard, links),
        processes.latencies(dashboard),
        _transports(dashboard, links),
        _kinds(dashboard, links),
        *([_errors(dashboard, links)] if links.may_view_deliveries else []),
        processes.groups(dashboard, links),
        processes.workers(dashboard),
        *([processes.tasks(dashboard, links)] if dashboard.tasks else []),
        processes.processes(dashboard),
    )


def _funnel(dashboard: Dashboard, links: Links) -> Table:
    funnel = dashboard.rows.funnel
    return Table(
        name="funnel",
        title="How far notifications have come",
        columns=("Stage", "Notifications", "Share of created"),
        rows=tuple(
            (
                text(name),
                number(getattr(funnel, name), links.notifications("" if name == "created" else name)),
                _stage_share(funnel, name),
            )
            for name in FUNNEL
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
        columns=("What", "Accepted", "Delivered", "Failed", "Skipped", "In progress", "Difference"),
        rows=tuple(
            _stream_balance(balance, links)
            if balance.name in (BROWSERS, PLANNING)
            else _transport_balance(balance, links)
            for balance in dashboard.balances
        ),
        lead="Accepted = delivered + failed + skipped + in progress",
        note=(
            "Browsers counts notifications: they are delivered once the relay has published them. Planning counts them "
            "too: they are delivered once the bot has decided by which transports they are sent. Both include what "
            "was published in the last seven days and still waits. The transports count deliveries. Failed: given up. "
            "Skipped: it expired or was not to be sent any more, for example because it was read before. In "
            "progress: on the stream, due at a time, or held."
        ),
        is_wide=True,
    )


def _stream_balance(balance: Balance, links: Links) -> tuple[Cell, ...]:
    """What the relay or the bot reads from the stream. Only the relay's work is a state of notifications."""
    return (
        text(balance.name),
        number(balance.accepted),
        number(balance.delivered, links.notifications("relayed") if balance.name == BROWSERS else ""),
        number(balance.failed, is_bad=True),
        number(balance.skipped),
        number(balance.in_progress),
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
        number(balance.skipped, rows("skipped")),
        number(balance.in_progress, rows("unfinished") if exact else ""),
        _difference(difference, links.never_due(name) if difference else ""),
    )


def _difference(difference: int, url: str = "") -> Cell:
    if difference == 0:
        return Cell(text="0: all accounted for", value=0)
    return Cell(text=f"{difference:,}: {difference:,} not accounted for", value=difference, url=url, is_bad=True)


def _transports(dashboard: Dashboard, links: Links) -> Table:
    return Table(
        name="transports",
        title="Success by transport",
        columns=("Transport", "Success", "Sent", "Failed", "Skipped", "Unfinished", "Retried"),
        rows=tuple(_transport(each, links) for each in dashboard.rows.transports),
        note=(
            "Success: sent, of those that are sent or failed. Unfinished: pending, sending or held. Retried: with "
            "more than one attempt."
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
    total = sum(getattr(figures, name) for name in OUTCOMES_DRAWN)
    bars, x = [], 0.0
    for name in OUTCOMES_DRAWN:
        if count := getattr(figures, name):
            width = 100 * count / total
            bars.append(Bar(state=name, x=round(x, 2), width=round(width, 2)))
            x += width
    return tuple(bars)


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
                *(number(getattr(each.funnel, name), rows(each.kind, name)) for name in FUNNEL if name != "published"),
            )
            for each in dashboard.rows.kinds
        ),
        empty="There are no notifications in this time.",
    )


def _errors(dashboard: Dashboard, links: Links) -> Table:
    return Table(
        name="errors",
        title="Errors",
        columns=("Answer", "Transport", "State", "Count", "Newest"),
        rows=tuple(
            (
                text(each.answer or "(none)", may_be_long=True),
                text(each.transport, may_be_long=True),
                text("failed" if each.is_final else "to be tried again"),
                number(each.count),
                moment(each.at, "%m-%d %H:%M:%S", links.delivery(each.delivery_id)),
            )
            for each in dashboard.errors
        ),
        note=(
            "Failed: given up in this time. To be tried again: those that wait for another attempt now. Count: how "
            f"many had this answer, of the newest {FAILURES_LIMIT:,} failures, or of the {DUE_LIMIT:,} deliveries due "
            "next. Newest: leads to that delivery."
        ),
        empty="No delivery has failed in this time, and none waits for another attempt.",
    )
