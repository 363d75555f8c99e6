"""
Runs as tables: on the terminal and as Markdown, with the same columns.

Owns which figures of a scenario are shown and how; and the comparisons with a fast peer and with the usual one, which
are made within one run only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.results import Run, find
from benchmarks.scenarios import SCENARIOS
from benchmarks.servers import SERVERS

__all__ = [
    "COLUMNS",
    "FAST",
    "FAST_MAP",
    "FAST_TASKS",
    "QUICKEST_QUEUE",
    "STOCK",
    "Column",
    "heads_and_rows",
    "markdown",
    "quote",
    "terminal",
    "with_quote",
]

FAST, STOCK, QUICKEST_QUEUE = "uwebsockets", "channels-pubsub-uvicorn", "huey"
FAST_MAP = "uwebsockets-map"
FAST_TASKS = "threadmill"
# The server that pushes no statistics.
SILENT = "signalbox-silent"
_NO_FIGURE = "–"


@dataclass(frozen=True, slots=True)
class Column:
    """A figure and how it is shown; `against` makes it a multiple of another contender's in the same run."""

    title: str
    figure: str
    form: Callable[[float], str]
    against: str | None = None

    def text(self, servers: Mapping[str, Mapping[str, Any]], name: str) -> str:
        """The cell of one contender, beside the others of its run."""
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


def _results(value: float) -> str:
    return "kept" if value == 1 else f"{value:.0%} kept"


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
        Column("ratio to uWebSockets.js", "deliveries_per_second", _times, FAST),
        Column("ratio to Channels on uvicorn", "deliveries_per_second", _times, STOCK),
        _CPU,
        _LOST,
        Column("client's core", "client_core_used", "{:.0%}".format),
    ),
    "statistics": (
        Column("deliveries/s", "deliveries_per_second", _count),
        Column("ratio to without", "deliveries_per_second", _times, SILENT),
        _CPU,
        _LOST,
    ),
    "paced": (
        *_LATENCIES,
        Column("p99, ratio to uWebSockets.js", "p99_ms", _times, FAST),
        _CPU,
        Column("CPU, ratio to uWebSockets.js", "server_cpu_us", _times, FAST),
        _LOST,
        Column("kept pace", "fell_behind", lambda value: "no" if value else "yes"),
    ),
    "unicast": (
        _CPU,
        Column("ratio to uWebSockets.js", "server_cpu_us", _times, FAST),
        Column("ratio to Channels on uvicorn", "server_cpu_us", _times, STOCK),
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
    "map": (
        Column("viewers", "viewers", _count),
        Column("server CPU a delivered change", "server_cpu_us", _micro),
        Column("ratio to uWebSockets.js", "server_cpu_us", _times, FAST_MAP),
        Column("server CPU a publication", "cpu_us_per_publication", _micro),
        Column("bytes, ratio to an exact crop", "bytes_to_crop", "{:.2f} ×".format),
        Column("p50 ms", "p50_ms", _milli),
        Column("p99 ms", "p99_ms", _milli),
        Column("move answered, p99 ms", "answer_p99_ms", _milli),
        Column("first snapshot, p99 ms", "snapshot_p99_ms", _milli),
        Column("replaced by newer", "skipped_share", "{:.1%}".format),
        _LOST,
        Column("server's core", "server_core_used", "{:.0%}".format),
    ),
    "worker": (
        Column("jobs/s", "jobs_per_second", _count),
        Column("ratio to huey", "jobs_per_second", _times, QUICKEST_QUEUE),
        Column("worker CPU a job", "worker_cpu_us", _micro),
        Column("Redis CPU a job", "redis_cpu_us", _micro),
        Column("worker's core", "worker_core_used", "{:.0%}".format),
        _LOST,
        Column("doubled", "doubled", _count),
    ),
    "deliver": (
        Column("deliveries/s", "deliveries_per_second", _count),
        Column("bot CPU a delivery", "bot_cpu_us", _micro),
        Column("Redis CPU a delivery", "redis_cpu_us", _micro),
        Column("bot's core", "bot_core_used", "{:.0%}".format),
        Column("receiver's core", "receiver_core_used", "{:.0%}".format),
        Column("call p50 ms", "call_p50_ms", _milli),
        Column("call p99 ms", "call_p99_ms", _milli),
        _LOST,
        Column("doubled", "doubled", _count),
    ),
    "notify": (
        Column("1 person, ms", "ms_1", "{:.2f}".format),
        Column("100 people, ms", "ms_100", "{:.2f}".format),
        Column("10,000 people, ms", "ms_10000", _milli),
        Column("people/s", "recipients_per_second", _count),
        _LOST,
    ),
    "dashboard": (
        Column("an hour, ms", "ms_hour", _milli),
        Column("a day, ms", "ms_day", _milli),
        Column("a month, ms", "ms_month", _milli),
        Column("longest, ms", "max_ms_month", _milli),
        Column("counting all hours, s", "count_seconds", "{:.1f}".format),
        _LOST,
    ),
    "publish": (
        Column("one after another, each", "in_turn_us", _micro),
        Column("CPU", "cpu_us", _micro),
        Column("all together, each", "together_us", _micro),
        Column("one after another, ratio to publish()", "in_turn_us", _times, "signalbox-publish"),
    ),
    "log": (
        Column("handler, a record", "handle_us", _micro),
        Column("whole call", "call_us", _micro),
        Column("whole call in a burst", "burst_call_us", _micro),
        Column("records/s until they are in Redis", "records_per_second", _count),
        Column("program's CPU a record", "cpu_us", _micro),
        _LOST,
    ),
    "sink": (
        Column("records/s", "records_per_second", _count),
        Column("worker CPU a record", "worker_cpu_us", _micro),
        Column("Redis CPU a record", "redis_cpu_us", _micro),
        Column("worker's core", "worker_core_used", "{:.0%}".format),
        _LOST,
        Column("doubled", "doubled", _count),
    ),
    "tasks": (
        Column("enqueued/s", "enqueued_per_second", _count),
        Column("enqueued/s, many at a time", "many_enqueued_per_second", _count),
        Column("no-op tasks/s", "nothing_per_second", _count),
        Column("ratio to threadmill", "nothing_per_second", _times, FAST_TASKS),
        Column("1 ms tasks/s", "sleep_per_second", _count),
        Column("worker CPU a no-op task", "worker_cpu_us", _micro),
        Column("no-op tasks/s, enqueued meanwhile", "running_per_second", _count),
        Column("enqueue to start, p50 ms", "p50_ms", "{:.2f}".format),
        Column("enqueue to start, p99 ms", "p99_ms", "{:.2f}".format),
        Column("2 ms away: no-op tasks/s", "far_nothing_per_second", _count),
        Column("2 ms away: 1 ms tasks/s", "far_sleep_per_second", _count),
        Column("proxy's core", "proxy_core_used", "{:.0%}".format),
        Column("results", "results_share", _results),
        _LOST,
        Column("doubled", "doubled", _count),
    ),
}


# What docs/topics/performance.md quotes: a scenario and one of its figures.
_QUOTED = (
    ("fanout", Column("full speed, 1,000 sockets: deliveries/s", "deliveries_per_second", _count)),
    ("paced", Column("20 messages/s to 1,000 sockets: p99 ms", "p99_ms", _milli)),
    ("unicast", Column("1,000 users in turn: server CPU a message", "server_cpu_us", _micro)),
    ("idle", Column("idle connection, of 10,000", "kb_per_connection_10000", _kilobytes)),
    ("storm", Column("2,000 sessions at once: connections/s", "connects_per_second", _count)),
)
# Further down, each a table of its own.
_QUOTED_TABLES = ("map", "worker", "deliver", "notify", "dashboard", "log", "sink", "tasks")
_QUOTE = ("<!-- from benchmarks/results/latest.json -->\n", "<!-- end -->\n")


def heads_and_rows(scenario: str, runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """
    The table of a scenario: the heads of its columns, and a row for each contender that was measured.

    The first column has the titles of the contenders. A column in which no contender has a figure is left out.
    """
    columns = COLUMNS[scenario]
    return _without_empty_columns(
        ["", *(column.title for column in columns)],
        [
            [contender.title, *(column.text(run.measured[scenario], name) for column in columns)]
            for name, contender in SCENARIOS[scenario].contenders.items()
            if (run := find(runs, scenario, name))
        ],
    )


def terminal(scenario: str, runs: Sequence[Run]) -> Table:
    """For rich."""
    (first, *heads), rows = heads_and_rows(scenario, runs)
    table = Table(title=SCENARIOS[scenario].title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column(first, no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def markdown(runs: Sequence[Run]) -> str:
    """A page: what the runs were, and all scenarios, each a table under its title."""
    parts = ["What is measured has one core to itself; everything else shares the other.\n"]
    parts += [
        f"Run `{run.id}`: {run.machine}; {', '.join(f'{name} {version}' for name, version in run.versions.items())}; "
        f"load before: {run.load:.1f}. Scenarios: {', '.join(run.measured)}.\n"
        for run in runs
    ]
    parts += [
        f"### {SCENARIOS[scenario].title}\n\n{_table(scenario, runs)}"
        for scenario in SCENARIOS
        if any(scenario in run.measured for run in runs)
    ]
    return "\n".join(parts)


def quote(runs: Sequence[Run]) -> str:
    """The main figure of each scenario, server by server: Markdown for the page on performance."""
    rows = []
    for name, server in SERVERS.items():
        cells = [
            column.text(run.measured[scenario], name) if (run := find(runs, scenario, name)) else _NO_FIGURE
            for scenario, column in _QUOTED
        ]
        if set(cells) != {_NO_FIGURE}:
            rows.append([server.title, *cells])
    tables = [
        f"\n{SCENARIOS[name].title}:\n\n{_table(name, runs)}"
        for name in _QUOTED_TABLES
        if any(run.measured.get(name) for run in runs)
    ]
    heads, rows = _without_empty_columns(["", *(column.title for _, column in _QUOTED)], rows)
    return _markdown_table(heads, rows) + "".join(tables)


def with_quote(text: str, runs: Sequence[Run]) -> str:
    """`text` with what stands between the two marks of a quotation replaced."""
    before, start, rest = text.partition(_QUOTE[0])
    _, end, after = rest.partition(_QUOTE[1])
    return before + start + quote(runs) + end + after if end else text


def _table(scenario: str, runs: Sequence[Run]) -> str:
    return _markdown_table(*heads_and_rows(scenario, runs))


def _markdown_table(heads: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *["---:"] * len(heads[1:])]
    return "\n".join(_line(cells) for cells in (heads, rule, *rows)) + "\n"


def _without_empty_columns(heads: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    kept = [place for place in range(len(heads)) if any(row[place] != _NO_FIGURE for row in rows)]
    return [heads[place] for place in kept], [[row[place] for place in kept] for row in rows]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
