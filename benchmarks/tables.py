"""
The results as tables: on the terminal and as Markdown, with the same columns.

Owns which figures of a scenario are shown and how; and the comparisons with uWebSockets.js and with stock Channels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.results import Results
from benchmarks.scenarios import SCENARIOS
from benchmarks.servers import SERVERS

__all__ = ["COLUMNS", "FAST", "STOCK", "Column", "markdown", "quote", "rows", "terminal", "with_quote"]

FAST, STOCK = "uwebsockets", "channels-pubsub-uvicorn"
_NO_FIGURE = "–"


@dataclass(frozen=True, slots=True)
class Column:
    """A figure and how it is shown; `against` makes it a multiple of another server's."""

    title: str
    figure: str
    form: Callable[[float], str]
    against: str | None = None

    def text(self, servers: Mapping[str, Mapping[str, Any]], name: str) -> str:
        """The cell of one server."""
        value = servers[name].get(self.figure)
        if value is None:
            return _NO_FIGURE
        if self.against is None:
            return self.form(value)
        other = servers.get(self.against, {}).get(self.figure)
        return self.form(value / other) if other else _NO_FIGURE


def _count(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.2f} M"
    return f"{value / 1e3:.1f} k" if value >= 1e4 else f"{value:,.0f}"


def _micro(value: float) -> str:
    return f"{value:.2f} µs" if value < 10 else f"{value:,.1f} µs"


def _milli(value: float) -> str:
    return f"{value:.1f}"


def _times(value: float) -> str:
    return f"{value:,.2f} ×" if value < 10 else f"{value:,.0f} ×"


def _kilobytes(value: float) -> str:
    return f"{value:.1f} KB"


_LATENCIES = (
    Column("p50 ms", "p50_ms", _milli),
    Column("p99 ms", "p99_ms", _milli),
    Column("max ms", "max_ms", _milli),
)
_CPU = Column("server CPU a delivery", "server_cpu_us", _micro)
_LOST = Column("lost", "lost", _count)
COLUMNS: dict[str, tuple[Column, ...]] = {
    "fanout": (
        Column("deliveries/s", "deliveries_per_second", _count),
        Column("to uWebSockets.js", "deliveries_per_second", _times, FAST),
        Column("to stock", "deliveries_per_second", _times, STOCK),
        _CPU,
        _LOST,
        Column("client's core", "client_core_used", "{:.0%}".format),
    ),
    "paced": (
        *_LATENCIES,
        Column("p99 to uWebSockets.js", "p99_ms", _times, FAST),
        _CPU,
        Column("CPU to uWebSockets.js", "server_cpu_us", _times, FAST),
        _LOST,
        Column("held", "fell_behind", lambda value: "no" if value else "yes"),
    ),
    "unicast": (
        _CPU,
        Column("to uWebSockets.js", "server_cpu_us", _times, FAST),
        Column("to stock", "server_cpu_us", _times, STOCK),
        Column("deliveries/s", "deliveries_per_second", _count),
        *_LATENCIES[:2],
        _LOST,
    ),
    "idle": (
        Column("a connection, of 5,000", "kb_per_connection_5000", _kilobytes),
        Column("a connection, of 10,000", "kb_per_connection_10000", _kilobytes),
        Column("failed", "failed_10000", _count),
    ),
    "storm": (
        Column("connections/s", "connects_per_second", _count),
        Column("server CPU a connection", "server_cpu_us", _micro),
        *_LATENCIES,
        Column("failed", "failed", _count),
    ),
    "end-to-end": (*_LATENCIES, _LOST),
    "slow": (
        *_LATENCIES,
        Column("p99 without them", "alone_p99_ms", _milli),
        Column("memory grown by", "grown_mb", "{:.0f} MB".format),
        Column("of the 5, closed", "stalled_closed", _count),
        _LOST,
    ),
}


# What the README quotes: a scenario and one of its figures.
_QUOTED = (
    ("fanout", Column("flat out, 1,000 sockets: deliveries/s", "deliveries_per_second", _count)),
    ("paced", Column("20 messages/s to 1,000 sockets: p99 ms", "p99_ms", _milli)),
    ("unicast", Column("1,000 users in turn: server CPU a message", "server_cpu_us", _micro)),
    ("idle", Column("idle connection, of 10,000", "kb_per_connection_10000", _kilobytes)),
    ("storm", Column("2,000 sessions at once: connections/s", "connects_per_second", _count)),
)
_QUOTE = ("<!-- from benchmarks/results/latest.json -->\n", "<!-- end -->\n")


def rows(scenario: str, results: Results) -> list[list[str]]:
    """The body of a scenario's table: a title and a cell for each column, server by server."""
    servers = results.get(scenario, {})
    known = [name for name in SERVERS if name in servers]
    return [[SERVERS[name].title, *(column.text(servers, name) for column in COLUMNS[scenario])] for name in known]


def terminal(scenario: str, results: Results) -> Table:
    """For rich."""
    table = Table(title=SCENARIOS[scenario].title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for column in COLUMNS[scenario]:
        table.add_column(column.title, justify="right")
    for row in rows(scenario, results):
        table.add_row(*row)
    return table


def markdown(results: Results) -> str:
    """All scenarios, each a table under its title."""
    parts = []
    for scenario in SCENARIOS:
        if scenario not in results:
            continue
        titles = ["", *(column.title for column in COLUMNS[scenario])]
        lines = [f"### {SCENARIOS[scenario].title}", "", _line(titles), _line(["---", *["---:"] * len(titles[1:])])]
        lines += [_line(row) for row in rows(scenario, results)]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def quote(results: Results) -> str:
    """The main figure of each scenario, server by server: Markdown for the README."""
    scenarios = [(results.get(scenario, {}), column) for scenario, column in _QUOTED]
    titles = ["", *(column.title for _, column in scenarios)]
    lines = [_line(titles), _line(["---", *["---:"] * len(scenarios)])]
    for name, server in SERVERS.items():
        cells = [column.text(servers, name) if name in servers else _NO_FIGURE for servers, column in scenarios]
        if set(cells) != {_NO_FIGURE}:
            lines.append(_line([server.title, *cells]))
    return "\n".join(lines) + "\n"


def with_quote(text: str, results: Results) -> str:
    """`text` with what stands between the two marks of a quotation replaced."""
    before, start, rest = text.partition(_QUOTE[0])
    _, end, after = rest.partition(_QUOTE[1])
    return before + start + quote(results) + end + after if end else text


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
