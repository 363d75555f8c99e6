"""
The chart of the last 24 hours, as places and sizes: one column an hour, stacked by how far its notifications have come.

Pure geometry in the units of the SVG's view box; the template draws it, the stylesheet colours it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from notifications.statistics import Hour

__all__ = ["Chart", "Column", "Segment", "Tick", "draw"]

WIDTH, HEIGHT = 960, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 8, 12, 30
TICKS = 4
COLUMN_SHARE = 0.72
# Every third hour has its name below.
HOURS_PER_LABEL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A part of a column; `state` is read, seen, relayed or waiting."""

    state: str
    y: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One hour; `label` is empty for those whose name is left out."""

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
    """All that the template needs."""

    width: int
    height: int
    left: int
    right: int
    bottom: int
    ticks: tuple[Tick, ...]
    columns: tuple[Column, ...]
    description: str


def draw(hours: Sequence[Hour]) -> Chart:
    """Lay out the hours, oldest first."""
    step, top = _scale(max((hour.created for hour in hours), default=0))
    bottom = HEIGHT - BOTTOM
    per_unit = (bottom - TOP) / top
    pitch = (WIDTH - LEFT - RIGHT) / max(len(hours), 1)
    return Chart(
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        bottom=bottom,
        ticks=tuple(
            Tick(y=round(bottom - value * per_unit, 2), label=f"{value:,}") for value in range(0, top + 1, step)
        ),
        columns=tuple(
            _column(hour, LEFT + index * pitch, pitch, bottom, per_unit, index) for index, hour in enumerate(hours)
        ),
        description=_description(hours),
    )


def _column(hour: Hour, x: float, pitch: float, bottom: int, per_unit: float, index: int) -> Column:
    width = pitch * COLUMN_SHARE
    segments = []
    y = float(bottom)
    for state, count in _parts(hour):
        height = count * per_unit
        y -= height
        if count:
            segments.append(Segment(state=state, y=round(y, 2), height=round(height, 2)))
    text = (
        f"{hour.start:%H:%M} UTC: {hour.created:,} created, {hour.relayed:,} relayed, {hour.seen:,} seen, "
        f"{hour.read:,} read"
    )
    return Column(
        x=round(x + (pitch - width) / 2, 2),
        width=round(width, 2),
        middle=round(x + pitch / 2, 2),
        label=f"{hour.start:%H:%M}" if index % HOURS_PER_LABEL == 0 else "",
        text=text,
        segments=tuple(segments),
    )


def _parts(hour: Hour) -> tuple[tuple[str, int], ...]:
    """How many have come as far as each state and no further; the sum is what was created."""
    # An inbox may show what the relay has not handed out yet.
    arrived = max(hour.relayed, hour.seen)
    return (
        ("read", hour.read),
        ("seen", max(hour.seen - hour.read, 0)),
        ("relayed", arrived - max(hour.seen, hour.read)),
        ("waiting", hour.created - arrived),
    )


def _scale(most: int) -> tuple[int, int]:
    """A round step between lines, and the topmost line, at or above `most`."""
    rough = max(most / TICKS, 1)
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(int(factor * magnitude) for factor in (1, 2, 5, 10) if factor * magnitude >= rough)
    return step, step * max(math.ceil(most / step), 1)


def _description(hours: Sequence[Hour]) -> str:
    created = sum(hour.created for hour in hours)
    if not created:
        return "Nothing was created in these hours."
    busiest = max(hours, key=lambda hour: hour.created)
    return (
        f"{created:,} notifications were created in these hours, most of them ({busiest.created:,}) from "
        f"{busiest.start:%H:%M} UTC; {sum(hour.read for hour in hours):,} have been read."
    )
