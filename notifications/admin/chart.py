"""
The geometry of the charts of the last 24 hours: one column an hour, stacked by state.

Owns positions and sizes, in units of the SVG's view box. Does not own drawing (the template) or colours (the style
sheet).
"""

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from notifications.statistics import DeliveryHour, Hour

__all__ = ["Chart", "Column", "Segment", "Tick", "draw", "draw_deliveries"]

WIDTH, HEIGHT = 960, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 8, 12, 30
TICKS = 4
COLUMN_SHARE = 0.72
# Every third hour is labelled.
HOURS_PER_LABEL = 3
# The numbers of an hour, in the order of the table.
NAMES = ("created", "relayed", "seen", "read")
DELIVERY_NAMES = ("sent", "failed", "skipped", "pending")


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A part of a column; `state` names its colour."""

    state: str
    y: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One hour. `label` is "" if the hour is not labelled; `counts` are in the order of `Chart.names`."""

    start: datetime.datetime
    counts: tuple[int, ...]
    x: float
    width: float
    middle: float
    label: str
    text: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A horizontal line with its number."""

    y: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Everything that the template needs. `name` is the prefix of element ids, `things` is what is counted."""

    name: str
    heading: str
    title: str
    things: str
    # The names of an hour's numbers; and the colours' meanings, as (state, label).
    names: tuple[str, ...]
    legend: tuple[tuple[str, str], ...]
    width: int
    height: int
    left: int
    right: int
    bottom: int
    ticks: tuple[Tick, ...]
    columns: tuple[Column, ...]
    description: str

    @property
    def plot_width(self) -> int:
        """The width without the numbers of the axis."""
        return self.width - self.left


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bar:
    """The content of one column: its counts by name, and its parts by state, the lowest first."""

    start: datetime.datetime
    counts: dict[str, int]
    parts: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int:
        return sum(count for _, count in self.parts)


def draw(hours: Sequence[Hour]) -> Chart:
    """Lay out the notifications of these hours, oldest first."""
    return _draw(
        [_Bar(start=hour.start, counts=_counts(hour, NAMES), parts=_parts(hour)) for hour in hours],
        name="hours",
        heading="Created in the last 24 hours",
        title="Notifications created in the last 24 hours, by hour (UTC)",
        things="notifications",
        names=NAMES,
        legend=(("read", "read"), ("seen", "seen"), ("relayed", "relayed"), ("waiting", "not relayed")),
        ends=f"{sum(hour.read for hour in hours):,} have been read",
    )


def draw_deliveries(hours: Sequence[DeliveryHour]) -> Chart:
    """Lay out the deliveries of these hours, oldest first."""
    states = ("sent", "skipped", "pending", "failed")
    bars = []
    for hour in hours:
        counts = _counts(hour, DELIVERY_NAMES)
        bars.append(_Bar(start=hour.start, counts=counts, parts=tuple((state, counts[state]) for state in states)))
    sent, failed = sum(hour.sent for hour in hours), sum(hour.failed for hour in hours)
    return _draw(
        bars,
        name="delivery-hours",
        heading="Deliveries of the last 24 hours",
        title="Deliveries of the last 24 hours, by hour (UTC)",
        things="deliveries",
        names=DELIVERY_NAMES,
        legend=tuple((state, state) for state in states),
        ends=f"{sent:,} have been sent, {failed:,} have failed",
    )


def _counts(hour: Hour | DeliveryHour, names: Sequence[str]) -> dict[str, int]:
    return {name: getattr(hour, name) for name in names}


def _draw(bars: Sequence[_Bar], *, things: str, ends: str, **texts: Any) -> Chart:
    step, top = _scale(max((bar.total for bar in bars), default=0))
    bottom = HEIGHT - BOTTOM
    per_unit = (bottom - TOP) / top
    pitch = (WIDTH - LEFT - RIGHT) / max(len(bars), 1)
    return Chart(
        **texts,
        things=things,
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        bottom=bottom,
        ticks=tuple(
            Tick(y=round(bottom - value * per_unit, 2), label=f"{value:,}") for value in range(0, top + 1, step)
        ),
        columns=tuple(_column(bar, LEFT + index * pitch, pitch, per_unit, index) for index, bar in enumerate(bars)),
        description=_description(bars, things, ends),
    )


def _column(bar: _Bar, x: float, pitch: float, per_unit: float, index: int) -> Column:
    width = pitch * COLUMN_SHARE
    segments = []
    y = float(HEIGHT - BOTTOM)
    for state, count in bar.parts:
        height = count * per_unit
        y -= height
        if count:
            segments.append(Segment(state=state, y=round(y, 2), height=round(height, 2)))
    counts = ", ".join(f"{count:,} {name}" for name, count in bar.counts.items())
    return Column(
        start=bar.start,
        counts=tuple(bar.counts.values()),
        x=round(x + (pitch - width) / 2, 2),
        width=round(width, 2),
        middle=round(x + pitch / 2, 2),
        label=f"{bar.start:%H:%M}" if index % HOURS_PER_LABEL == 0 else "",
        text=f"{bar.start:%H:%M} UTC: {counts}",
        segments=tuple(segments),
    )


def _parts(hour: Hour) -> tuple[tuple[str, int], ...]:
    """How many are in each state now; their sum is the number created."""
    # A notification may be read in the inbox before it is relayed.
    arrived = max(hour.relayed, hour.seen, hour.read)
    return (
        ("read", hour.read),
        ("seen", max(hour.seen - hour.read, 0)),
        ("relayed", arrived - max(hour.seen, hour.read)),
        ("waiting", hour.created - arrived),
    )


def _scale(most: int) -> tuple[int, int]:
    """A round distance between two lines, and the value of the topmost line, which is at least `most`."""
    rough = max(most / TICKS, 1)
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(int(factor * magnitude) for factor in (1, 2, 5, 10) if factor * magnitude >= rough)
    return step, step * max(math.ceil(most / step), 1)


def _description(bars: Sequence[_Bar], things: str, ends: str) -> str:
    count = sum(bar.total for bar in bars)
    if not count:
        return f"No {things} were created in these hours."
    busiest = max(bars, key=lambda bar: bar.total)
    return (
        f"{count:,} {things} were created in these hours, most of them ({busiest.total:,}) from "
        f"{busiest.start:%H:%M} UTC; {ends}."
    )
