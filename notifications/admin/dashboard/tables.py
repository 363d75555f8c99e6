"""
The values that the dashboard's templates and its CSV are made from: tables of cells.

Owns their form, so that the page and the CSV always have the same figures. Does not own their content (sections).
"""

import datetime
from dataclasses import dataclass

from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

__all__ = ["OUTCOMES_DRAWN", "Bar", "Cell", "Table", "Value", "duration", "moment", "number", "share", "text"]

# What became of deliveries, in the order in which bars and columns show it.
OUTCOMES_DRAWN = ("sent", "skipped", "unfinished", "failed")

_BAD = mark_safe(' class="sb-bad"')
# What a spreadsheet gets.
type Value = int | float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A part of a horizontal bar, in percent of its width. `state` names its colour."""

    state: str
    x: float
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """
    One figure or text.

    Attributes:
        text: As the page shows it.
        value: For programs: a number without separators, or the text.
        url: The list of the rows that it counts; "" if there is none, or the user may not see it.
        is_bad: Whether it is a sign of trouble. The heading or the text says so too.
        bars: A horizontal bar beneath the text.
        live: The name of the live number that replaces the text between two refreshes.
        may_be_long: Whether it may have several lines: a text from outside.
    """

    text: str
    value: Value
    url: str = ""
    is_bad: bool = False
    bars: tuple[Bar, ...] = ()
    live: str = ""
    may_be_long: bool = False

    @property
    def html(self) -> SafeString:
        """
        Its markup, made here because there are hundreds of cells: a template for each takes ten times as long.

        The text has the direction of its own script (`dir="auto"`): on a page from right to left it may be English, or
        come from outside.
        """
        bad = _BAD if self.is_bad else ""
        live = format_html(' data-live="{}"', self.live) if self.live else ""
        if self.url:
            return format_html('<a href="{}"{}{} dir="auto">{}</a>', self.url, bad, live, self.text)
        return format_html('<span{}{} dir="auto">{}</span>', bad, live, self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """
    One section of the dashboard.

    Attributes:
        name: In URLs, and as the id of its element.
        columns: The headings. The first column names the rows.
        lead: One line beside the title.
        note: What the figures mean.
        empty: What the page says if there are no rows.
        more: The text and the URL of a link to a page with more.
        is_wide: Whether it needs the full width of the page.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    lead: str = ""
    note: str = ""
    empty: str = ""
    more: tuple[str, str] | None = None
    is_wide: bool = False


def text(content: str, **attributes: object) -> Cell:
    """A cell with a text."""
    return Cell(text=content, value=content, **attributes)  # type: ignore[arg-type]


def number(count: int | None, url: str = "", *, is_bad: bool = False, live: str = "") -> Cell:
    """A cell with a number; None is unknown. A number that is 0 is never bad."""
    if count is None:
        return Cell(text="unknown", value=None)
    return Cell(text=f"{count:,}", value=count, url=url, is_bad=is_bad and count != 0, live=live)


def share(part: int, whole: int) -> Cell:
    """A cell with a percentage; empty if the whole is 0."""
    if not whole:
        return Cell(text="–", value=None)
    return Cell(text=f"{part / whole:.1%}", value=round(part / whole, 4))


def duration(seconds: float | None) -> Cell:
    """A cell with a duration, for programs in seconds with four significant digits; None is unknown."""
    if seconds is None:
        return Cell(text="–", value=None)
    if seconds < 1:
        shown = f"{seconds * 1000:.3g} ms"
    elif seconds < 120:
        shown = f"{seconds:.3g} s"
    else:
        shown = f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
    return Cell(text=shown, value=float(f"{seconds:.4g}"))


def moment(at: datetime.datetime, form: str = "%Y-%m-%d %H:%M:%S", url: str = "") -> Cell:
    """A cell with a time (aware): in the site's time zone on the page, with its zone for programs."""
    return Cell(text=f"{timezone.localtime(at):{form}}", value=at.isoformat(), url=url)
