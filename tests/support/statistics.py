"""Rows for the dashboard, and the figures that they must have by counting one after another."""

import datetime
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from django.contrib.auth.models import User

from notifications.database.clock import moment_of, stored
from notifications.models import Delivery, Event, Notification
from notifications.statistics.figures import Funnel, Rows, TransportFigures

__all__ = ["expected_rows", "figures_of", "make_rows"]

STATES = ("pending", "sending", "sent", "sent", "sent", "failed", "skipped", "held")


def make_rows(
    users: Sequence[User], times: Sequence[datetime.datetime], *, kinds: Sequence[str], seed: int = 1
) -> list[Notification]:
    """A notification created at each time, with states and deliveries of every sort."""
    chance = random.Random(seed)  # noqa: S311 - the same rows in each run
    made = []
    for number, time in enumerate(times):
        at = stored(time)
        event = Event.objects.create(
            kind=kinds[number % len(kinds)],
            message="m",
            created_at=at,
            published_at=None if chance.random() < 0.2 else at,
        )
        states = [name for name in ("relayed_at", "dispatched_at", "seen_at", "read_at") if chance.random() < 0.6]
        made.append(
            Notification.objects.create(
                event=event, recipient=chance.choice(users), created_at=at, **dict.fromkeys(states, at)
            )
        )
        for transport in chance.sample(["email", "chat", "sms"], chance.randrange(3)):
            state = chance.choice(STATES)
            Delivery.objects.create(
                notification=made[-1],
                transport=transport,
                state=state,
                attempts=chance.randrange(4),
                due_at=at if state in ("pending", "sending") else None,
                finished_at=at if state in ("sent", "failed", "skipped") else None,
                # A bot plans some deliveries later, maybe in the next minute, hour or day.
                created_at=stored(time + datetime.timedelta(seconds=chance.choice([0, 0, 5, 3600]))),
            )
    return made


def expected_rows(since: datetime.datetime) -> tuple[Funnel, dict[str, Funnel], dict[str, TransportFigures]]:
    """The funnel, the funnel by kind and the transports of what was created since: each row is looked at."""
    funnels: dict[str, Counter[str]] = {}
    for each in Notification.objects.select_related("event"):
        if moment_of(each.created_at) >= since:
            for name, counts in (
                ("created", True),
                ("published", each.event.published_at is not None),
                ("relayed", each.relayed_at is not None),
                ("seen", each.seen_at is not None),
                ("read", each.read_at is not None),
            ):
                funnels.setdefault(each.event.kind, Counter())[name] += counts
    outcomes: dict[str, Counter[str]] = {}
    for delivery in Delivery.objects.all():
        if moment_of(delivery.created_at) >= since:
            counts = outcomes.setdefault(delivery.transport, Counter())
            counts[delivery.state if delivery.state in ("sent", "failed", "skipped") else "unfinished"] += 1
            counts["retried"] += delivery.attempts > 1
    whole = sum(funnels.values(), Counter[str]())
    return (
        Funnel(**whole),
        {kind: Funnel(**counts) for kind, counts in funnels.items()},
        {name: TransportFigures(transport=name, **counts) for name, counts in outcomes.items()},
    )


def figures_of(rows: Rows) -> tuple[Funnel, dict[str, Funnel], dict[str, TransportFigures]]:
    """The same figures of what was read; its points must add up to them."""
    assert _sum(point.funnel for point in rows.points) == _sum([rows.funnel])
    by_points: dict[str, Counter[str]] = {}
    for point in rows.points:
        for name, figures in point.transports.items():
            by_points.setdefault(name, Counter()).update(_fields(figures))
    assert by_points == {each.transport: Counter(_fields(each)) for each in rows.transports}
    return (
        rows.funnel,
        {each.kind: each.funnel for each in rows.kinds},
        {each.transport: each for each in rows.transports},
    )


def _fields(figures: Any) -> dict[str, int]:
    return {name: getattr(figures, name) for name in figures.__slots__ if name != "transport"}


def _sum(funnels: Any) -> Counter[str]:
    total: Counter[str] = Counter()
    for funnel in funnels:
        total.update(_fields(funnel))
    return total
