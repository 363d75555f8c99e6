"""
The ledger of one notification: every step that it and its deliveries have taken, with time and process.

Owns which steps there are, their order and their words. Does not own the rows that it reads (models), the history of a
delivery (delivery.history), or pages and commands.

Times come from the clocks of the processes, which may differ a little. Steps that follow from one another stay in their
order all the same.
"""

import datetime
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from notifications.database.clock import moment_of
from notifications.delivery.history import HistoryStep, history_of
from notifications.models import Delivery, Event, Notification
from realtime.untrusted.shown import shown_text

__all__ = ["LedgerStep", "describe", "read_ledger"]

State = Delivery.State
# What people read for a step, where its name alone does not say it.
DESCRIPTIONS = {
    "retried": "attempt failed",
    "not counted": "attempt interrupted, not counted",
    "lost": "no result, the claim lapsed",
    "sending": "being sent",
    "due": "next attempt is due",
    "never due": "no attempt is planned",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerStep:
    """
    One step of a notification, or of one of its deliveries.

    Attributes:
        at: When it happened (for an attempt, when it ended), in UTC. Of the step "due", the time for which it is
            planned.
        what: "scheduled", "created", "published", "relayed", "deliveries planned", "seen", "read", "archived" or
            "replaced"; of a delivery "planned", "put on the stream again", "due", "never due", "sending",
            "not counted", "left out", a state in which it ended, or a step of its history (delivery.history).
        process: The process, as host:pid; "" if it is not known.
        transport: Of a delivery, the transport; otherwise "".
        attempt: Of an attempt, its number; the first is 1. Sending a failed delivery again starts at 1.
        began_at: Of an attempt, when it began, if that is known.
        seconds: Of an attempt, how long it took.
        until: When the next attempt was due or, while it is being sent, when its claim lapses.
        answer: The provider's answer, or the reason. On one line, and without secrets.
        delivery_id: The delivery, if it is a step of one.
    """

    at: datetime.datetime
    what: str
    process: str = ""
    transport: str = ""
    attempt: int | None = None
    began_at: datetime.datetime | None = None
    seconds: float | None = None
    until: datetime.datetime | None = None
    answer: str = ""
    delivery_id: int | None = None


# A step with the time by which it is sorted.
type _Placed = tuple[datetime.datetime, LedgerStep]


def read_ledger(notification: Notification, *, with_deliveries: bool) -> list[LedgerStep]:
    """
    The steps of a notification, in the order of time.

    Args:
        with_deliveries: Whether to include the steps of its deliveries, which have the answers of providers.

    Raises:
        OperationalError, InterfaceError: The database is unavailable.
    """
    event = notification.event
    deliveries = _deliveries_of(notification) if with_deliveries else []
    created = _in_order(_creation(notification, event))
    published = _in_order(_publishing(notification, event), after=created)
    relayed = _in_order(_relaying(notification), after=published)
    planned = _in_order(_planning(notification, None if not with_deliveries else deliveries), after=published)
    placed = [*created, *published, *relayed, *planned]
    placed += _in_order(_reading(notification), after=created)
    for delivery in deliveries:
        placed += _in_order(_steps_of(notification, delivery), after=planned)
    # Stable: of two steps at the same time, the one that was placed first comes first.
    return [step for _, step in sorted(placed, key=lambda pair: pair[0])]


def describe(step: LedgerStep) -> str:
    """The step in words."""
    return DESCRIPTIONS.get(step.what, step.what)


def _deliveries_of(notification: Notification) -> list[Delivery]:
    rows = Delivery.objects.using(notification._state.db).filter(notification_id=notification.pk)
    return list(rows.select_related("digest").order_by("transport"))


def _in_order(steps: Iterable[LedgerStep], *, after: list[_Placed] | None = None) -> list[_Placed]:
    """Place steps that follow from one another: none comes before the one that precedes it."""
    placed: list[_Placed] = []
    earliest = after[-1][0] if after else None
    for step in steps:
        earliest = step.at if earliest is None else max(earliest, step.at)
        placed.append((earliest, step))
    return placed


def _creation(notification: Notification, event: Event) -> Iterator[LedgerStep]:
    if event.scheduled_at is not None:
        yield LedgerStep(at=moment_of(event.scheduled_at), what="scheduled", process=event.scheduled_by or "")
    replaced = f"replaces notification {notification.replaces}" if notification.replaces else ""
    at = moment_of(notification.created_at)
    yield LedgerStep(at=at, what="created", process=event.created_by or "", answer=replaced)


def _publishing(notification: Notification, event: Event) -> Iterator[LedgerStep]:
    if event.published_at is None:
        return
    # It is recorded when all notifications of the event are on the stream. This one may have been relayed before.
    known = (event.published_at, notification.relayed_at, notification.dispatched_at)
    at = min(moment_of(each) for each in known if each is not None)
    left = "by the sweep: it was still in the outbox" if event.is_swept else ""
    yield LedgerStep(at=at, what="published", process=event.published_by or "", answer=left)


def _relaying(notification: Notification) -> Iterator[LedgerStep]:
    if notification.relayed_at is not None:
        at = moment_of(notification.relayed_at)
        yield LedgerStep(at=at, what="relayed", process=notification.relayed_by or "")


def _planning(notification: Notification, deliveries: list[Delivery] | None) -> Iterator[LedgerStep]:
    """The step in which the bot decided on deliveries. It does not name them if they are None."""
    if notification.dispatched_at is not None:
        names = ", ".join(delivery.transport for delivery in deliveries or ())
        answer = "" if deliveries is None else names or "none: the recipient or the kind excludes all transports"
        at = moment_of(notification.dispatched_at)
        yield LedgerStep(
            at=at, what="deliveries planned", process=notification.dispatched_by or "", answer=shown_text(answer)
        )


def _reading(notification: Notification) -> Iterator[LedgerStep]:
    times = {"seen": notification.seen_at, "read": notification.read_at, "replaced": notification.replaced_at}
    if notification.archived_at != notification.replaced_at:
        times["archived"] = notification.archived_at
    steps = [LedgerStep(at=moment_of(at), what=what) for what, at in times.items() if at is not None]
    for step in sorted(steps, key=lambda step: step.at):
        yield _with_newer(notification, step) if step.what == "replaced" else step


def _with_newer(notification: Notification, step: LedgerStep) -> LedgerStep:
    """The step with the notification that replaced this one, if it is still there."""
    rows = Notification.objects.using(notification._state.db).select_related("event").defer("event__data")
    newer = rows.filter(
        recipient_id=notification.recipient_id,
        collapse_key=notification.collapse_key,
        replaces=notification.pk,
        pk__gt=notification.pk,
    ).first()
    if newer is None:
        return replace(step, answer="by a newer notification")
    return replace(step, process=newer.event.created_by or "", answer=f"by notification {newer.pk}")


def _steps_of(notification: Notification, delivery: Delivery) -> Iterator[LedgerStep]:
    """The steps of one delivery, in their order."""
    # It is drafted a moment before the transaction that plans it.
    planned = (delivery.created_at, notification.dispatched_at or delivery.created_at)
    yield LedgerStep(
        at=max(moment_of(each) for each in planned),
        what="planned",
        process=notification.dispatched_by or "",
        transport=delivery.transport,
        answer=_plan_of(delivery),
        delivery_id=delivery.pk,
    )
    history = history_of(delivery.history)
    number = 0
    for step, following in itertools.zip_longest(history, history[1:]):
        if number and step.number > number + 1:
            missing = step.number - number - 1
            yield _remark(delivery, step.at, f"{missing:,} {'step is' if missing == 1 else 'steps are'} left out")
        elif not number:
            yield from _unrecorded(delivery, step.at, step.attempt)
        number = step.number
        if not _is_superseded(step, following, delivery):
            yield _past(delivery, step)
    yield from _present(delivery, history)


def _plan_of(delivery: Delivery) -> str:
    if (digest := delivery.digest) is not None:
        return f"in digest {digest.pk}, which goes out at {moment_of(digest.ends_at):%Y-%m-%d %H:%M} UTC"
    return "only if it is unread by then" if delivery.if_unread else ""


def _is_superseded(step: HistoryStep, following: HistoryStep | None, delivery: Delivery) -> bool:
    """Whether the step says that an attempt has no result, although its process recorded one before the next claim."""
    if step.what != "lost":
        return False
    if following is None:
        return delivery.finished_at is not None and delivery.attempts == step.attempt
    return following.what in ("retried", "failed") and following.attempt == step.attempt


def _past(delivery: Delivery, step: HistoryStep) -> LedgerStep:
    return LedgerStep(
        at=step.at,
        what=step.what if step.is_counted else "not counted",
        process=step.by or "",
        transport=delivery.transport,
        attempt=step.attempt,
        began_at=step.began,
        seconds=step.seconds,
        until=step.until,
        answer=shown_text(step.answer),
        delivery_id=delivery.pk,
    )


def _present(delivery: Delivery, history: Sequence[HistoryStep]) -> Iterator[LedgerStep]:
    """The steps that the columns of the row describe: its current or last attempt, and when the next one is due."""
    last = history[-1] if history else None
    if last is None:
        yield from _unrecorded(delivery, moment_of(delivery.created_at), delivery.attempts)
    state, due_at = State(delivery.state), delivery.due_at
    if state == State.PENDING:
        if delivery.queued_at is not None:
            yield _at(delivery, delivery.queued_at, "put on the stream again")
        # The answer of an attempt is in the history.
        reason = "" if delivery.answer in {step.answer for step in history} else delivery.answer
        # A row without a time is never claimed: it comes from a defect or another program.
        step = _at(delivery, delivery.attempt_at, "never due") if due_at is None else _at(delivery, due_at, "due")
        yield replace(step, answer=shown_text(reason))
    elif state == State.SENDING:
        lapses = None if due_at is None else moment_of(due_at)
        yield replace(_attempt(delivery, delivery.attempt_at, "sending"), seconds=None, until=lapses)
    elif state == State.HELD:
        if last is None or last.what != "held":
            yield replace(_at(delivery, None, "held"), answer=shown_text(delivery.answer))
    elif last is None or last.what != "skipped":
        yield replace(_attempt(delivery, delivery.finished_at, state.value), answer=shown_text(delivery.answer))


def _attempt(delivery: Delivery, at: datetime.datetime | None, what: str) -> LedgerStep:
    """A step of the last attempt."""
    return replace(
        _at(delivery, at, what),
        process=delivery.attempt_by or "",
        attempt=delivery.attempts or None,
        began_at=None if delivery.attempt_at is None else moment_of(delivery.attempt_at),
        seconds=delivery.latency_seconds,
    )


def _at(delivery: Delivery, at: datetime.datetime | None, what: str) -> LedgerStep:
    """A step of the delivery at this time. Steps of earlier releases may have no time: they are placed at its start."""
    return LedgerStep(
        at=moment_of(at or delivery.created_at), what=what, transport=delivery.transport, delivery_id=delivery.pk
    )


def _unrecorded(delivery: Delivery, at: datetime.datetime, attempt: int | None) -> Iterator[LedgerStep]:
    """A remark if earlier attempts were not recorded: without a history, a row only has its last one."""
    if attempt is not None and attempt > 1:
        yield _remark(delivery, at, f"attempts before number {attempt} were not recorded")


def _remark(delivery: Delivery, at: datetime.datetime, text: str) -> LedgerStep:
    return replace(_at(delivery, None, "left out"), at=at, answer=text)
