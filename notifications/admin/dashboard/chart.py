"""
The geometry of the charts: one column a minute, hour or day, stacked by state.

Owns positions and sizes, in units of the SVG's view box. Does not own drawing (the template) or colours (the style
sheet).
"""

import datetime
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from notifications.admin.dashboard.links import Between, Links
from notifications.admin.dashboard.tables import OUTCOMES_DRAWN, Cell, Table, number, text
from notifications.statistics.figures import Funnel, Period, Point, TransportFigures

__all__ = ["Chart", "Column", "Segment", "Tick", "as_table", "draw_deliveries", "draw_notifications"]

WIDTH, HEIGHT = 960, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 8, 12, 30
TICKS = 4
COLUMN_SHARE = 0.72
# The figures of a column, in the order of the table.
NAMES = ("created", "relayed", "seen", "read")
DELIVERY_NAMES = ("sent", "failed", "skipped", "unfinished")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """What one column stands for, in a period."""

    name: str
    # How its start is written beneath the columns, and in texts.
    label: str
    text: str
    # How many columns have one label.
    columns_per_label: int


_STEPS: dict[Period, _Step] = {
    "hour": _Step(name="minute", label="%H:%M", text="%H:%M", columns_per_label=10),
    "day": _Step(name="hour", label="%H:%M", text="%H:%M", columns_per_label=3),
    "month": _Step(name="day", label="%m-%d", text="%Y-%m-%d", columns_per_label=5),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A part of a column; `state` names its colour."""

    state: str
    y: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One step. `label` is "" if it is not labelled; `cells` are in the order of `Chart.names`."""

    start: datetime.datetime
    cells: tuple[Cell, ...]
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
    # What a column stands for: "minute", "hour" or "day".
    step: str
    # The names of a column's figures; and the colours' meanings, as (state, label).
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
class _Stack:
    """The content of one column: its cells by name, and its parts by state, the lowest first."""

    start: datetime.datetime
    cells: dict[str, Cell]
    parts: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int:
        return sum(count for _, count in self.parts)


def draw_notifications(points: Sequence[Point], period: Period, links: Links) -> Chart:
    """Lay out the notifications of these points, oldest first."""
    bars = []
    for point, between in _between(points):
        cells = {}
        for name in NAMES:
            count = getattr(point.funnel, name)
            url = links.notifications("" if name == "created" else name, between=between) if count else ""
            cells[name] = number(count, url)
        bars.append(_Stack(start=point.start, cells=cells, parts=_parts(point.funnel)))
    return _draw(
        bars,
        period,
        name="notifications",
        heading="Notifications created",
        things="notifications",
        names=NAMES,
        legend=(("read", "read"), ("seen", "seen"), ("relayed", "relayed"), ("waiting", "not relayed")),
        ends=f"{sum(point.funnel.read for point in points):,} have been read",
    )


def draw_deliveries(points: Sequence[Point], period: Period, links: Links) -> Chart:
    """Lay out the deliveries of these points on all transports, oldest first."""
    bars = []
    for point, between in _between(points):
        counts = {name: sum(getattr(each, name) for each in point.transports.values()) for name in DELIVERY_NAMES}
        cells = {}
        for name, count in counts.items():
            url = links.deliveries("", name, between=between) if count else ""
            cells[name] = number(count, url, is_bad=name == "failed")
        bars.append(
            _Stack(start=point.start, cells=cells, parts=tuple((state, counts[state]) for state in OUTCOMES_DRAWN))
        )
    every = [each for point in points for each in point.transports.values()]
    return _draw(
        bars,
        period,
        name="deliveries",
        heading="Deliveries created",
        things="deliveries",
        names=DELIVERY_NAMES,
        legend=tuple((state, state) for state in OUTCOMES_DRAWN),
        ends=f"{_sum(every, 'sent'):,} have been sent, {_sum(every, 'failed'):,} have failed",
    )


def as_table(chart: Chart, *, is_newest_first: bool = False) -> Table:
    """The same figures as a table."""
    columns = reversed(chart.columns) if is_newest_first else chart.columns
    return Table(
        name=f"{chart.name}-over-time",
        title=f"{chart.things} by {chart.step}",
        columns=(f"{chart.step.capitalize()} (UTC)", *(name.capitalize() for name in chart.names)),
        rows=tuple((text(f"{column.start:%Y-%m-%d %H:%M}"), *column.cells) for column in columns),
    )


def _between(points: Sequence[Point]) -> Iterator[tuple[Point, Between]]:
    """Each point with the times of its rows. The last one has no end: it counts rows from the future too."""
    for point, following in itertools.zip_longest(points, points[1:]):
        yield point, (point.start, following.start if following else None)


def _sum(every: Sequence[TransportFigures], name: str) -> int:
    return sum(getattr(each, name) for each in every)


def _draw(bars: Sequence[_Stack], period: Period, *, things: str, heading: str, ends: str, **texts: Any) -> Chart:
    of = _STEPS[period]
    step, top = _scale(max((bar.total for bar in bars), default=0))
    bottom = HEIGHT - BOTTOM
    per_unit = (bottom - TOP) / top
    pitch = (WIDTH - LEFT - RIGHT) / max(len(bars), 1)
    return Chart(
        **texts,
        things=things,
        heading=f"{heading}, by {of.name}",
        title=f"{heading}, by {of.name} (UTC)",
        step=of.name,
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        bottom=bottom,
        ticks=tuple(
            Tick(y=round(bottom - value * per_unit, 2), label=f"{value:,}") for value in range(0, top + 1, step)
        ),
        columns=tuple(_column(bar, of, LEFT + index * pitch, pitch, per_unit, index) for index, bar in enumerate(bars)),
        description=_description(bars, of, things, ends),
    )


def _column(bar: _Stack, of: _Step, x: float, pitch: float, per_unit: float, index: int) -> Column:
    width = pitch * COLUMN_SHARE
    segments = []
    y = float(HEIGHT - BOTTOM)
    for state, count in bar.parts:
        height = count * per_unit
        y -= height
        if count:
            segments.append(Segment(state=state, y=round(y, 2), height=round(height, 2)))
    counts = ", ".join(f"{cell.text} {name}" for name, cell in bar.cells.items())
    return Column(
        start=bar.start,
        cells=tuple(bar.cells.values()),
        x=round(x + (pitch - width) / 2, 2),
        width=round(width, 2),
        middle=round(x + pitch / 2, 2),
        # Not the first one, whose label has no room at its left.
        label=f"{bar.start:{of.label}}" if index % of.columns_per_label == of.columns_per_label // 2 else "",
        text=f"{bar.start:{of.text}} UTC: {counts}",
        segments=tuple(segments),
    )


def _parts(funnel: Funnel) -> tuple[tuple[str, int], ...]:
    """How many are in each state now; their sum is the number created."""
    # A notification may be read in the inbox before it is relayed.
    arrived = max(funnel.relayed, funnel.seen, funnel.read)
    return (
        ("read", funnel.read),
        ("seen", max(funnel.seen - funnel.read, 0)),
        ("relayed", arrived - max(funnel.seen, funnel.read)),
        ("waiting", funnel.created - arrived),
    )


def _scale(most: int) -> tuple[int, int]:
    """A round distance between two lines, and the value of the topmost line, which is at least `most`."""
    rough = max(most / TICKS, 1)
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(int(factor * magnitude) for factor in (1, 2, 5, 10) if factor * magnitude >= rough)
    return step, step * max(math.ceil(most / step), 1)


def _description(bars: Sequence[_Stack], of: _Step, things: str, ends: str) -> str:
    count = sum(bar.total for bar in bars)
    if not count:
        return f"No {things} were created in this time."
    busiest = max(bars, key=lambda bar: bar.total)
    return (
        f"{count:,} {things} were created in this time, most of them ({busiest.total:,}) from "
        f"{busiest.start:{of.text}} UTC; {ends}."
    )
