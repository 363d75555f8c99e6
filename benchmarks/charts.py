"""
Bar charts as SVG, by hand: no library, light and dark by the reader's own setting.

Owns the drawing. Does not own the figures (results).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.results import Run, find
from benchmarks.scenarios import SCENARIOS

__all__ = ["bar_chart", "draw_all"]

WIDTH, LABEL_WIDTH, VALUE_WIDTH, ROW_HEIGHT, BAR_HEIGHT, TOP = 760, 250, 110, 30, 18, 58
STYLE = """
svg { font: 13px system-ui, sans-serif; }
.title { font-weight: 600; font-size: 15px; }
.ours { fill: #2563eb; } .peer { fill: #94a3b8; } .stock { fill: #d97706; }
text { fill: #0f172a; } .note { fill: #64748b; font-size: 12px; }
@media (prefers-color-scheme: dark) {
  text { fill: #e2e8f0; } .note { fill: #94a3b8; }
  .ours { fill: #60a5fa; } .peer { fill: #64748b; } .stock { fill: #f59e0b; }
}
""".strip()


@dataclass(frozen=True, slots=True)
class _Chart:
    scenario: str
    figure: str
    title: str
    note: str
    form: Callable[[float], str]
    # Where the largest is a thousand times the smallest, bars of their logarithms.
    is_logarithmic: bool = False


def _rate(value: float) -> str:
    return f"{value / 1e6:.2f} M/s" if value >= 1e6 else f"{value / 1e3:.1f} k/s"


_CHARTS = (
    _Chart(
        "fanout",
        "deliveries_per_second",
        "Fan-out at full speed: deliveries a second",
        "one process, one topic, 1,000 sockets, 154-byte messages; more is better; logarithmic",
        _rate,
        is_logarithmic=True,
    ),
    _Chart(
        "paced",
        "p99_ms",
        "20 messages a second to 1,000 sockets: 99th percentile of latency",
        "from before publishing to the client's read; less is better; those that cannot hold the pace are left out",
        "{:.1f} ms".format,
    ),
    _Chart(
        "unicast",
        "server_cpu_us",
        "Unicast to 1,000 users: server CPU a delivery",
        "one message to each in turn; less is better; logarithmic",
        "{:.1f} µs".format,
        is_logarithmic=True,
    ),
    _Chart(
        "idle",
        "kb_per_connection_10000",
        "Memory of an idle connection, of 10,000",
        "growth of the server's memory; less is better",
        "{:.1f} KB".format,
    ),
    _Chart(
        "worker",
        "jobs_per_second",
        "One worker process: jobs a second that do nothing",
        "on one core; ours with leases, acks and the order of each key; more is better; logarithmic",
        _rate,
        is_logarithmic=True,
    ),
    _Chart(
        "deliver",
        "deliveries_per_second",
        "One bot process: deliveries a second, claimed, called and recorded",
        "on one core, to a receiver that takes all at once; more is better",
        "{:,.0f}/s".format,
    ),
    _Chart(
        "tasks",
        "nothing_per_second",
        "One worker process of background tasks: tasks a second that do nothing",
        "on one core, beside its server, results kept; more is better; logarithmic",
        "{:,.0f}/s".format,
        is_logarithmic=True,
    ),
)


def draw_all(runs: Sequence[Run]) -> dict[str, str]:
    """Draw what was measured: file name → SVG."""
    drawn = {}
    for chart in _CHARTS:
        bars = [
            (contender.title, float(figures[chart.figure]), _kind(name))
            for name, contender in SCENARIOS[chart.scenario].contenders.items()
            if (run := find(runs, chart.scenario, name))
            and (figures := run.measured[chart.scenario][name]).get(chart.figure)
            and not figures.get("fell_behind")
        ]
        if bars:
            drawn[f"{chart.scenario}.svg"] = bar_chart(
                chart.title, chart.note, bars, form=chart.form, is_logarithmic=chart.is_logarithmic
            )
    return drawn


def bar_chart(
    title: str,
    note: str,
    bars: Sequence[tuple[str, float, str]],
    *,
    form: Callable[[float], str],
    is_logarithmic: bool = False,
) -> str:
    """
    One SVG image.

    Args:
        bars: (label, value above 0, "ours" | "peer" | "stock"), from top to bottom.
        form: Says a value in words.
    """
    values = [value for _, value, _ in bars]
    # On a logarithmic scale the smallest has a bar too: a tenth of a decade below it is the left edge.
    floor = math.log10(min(values)) - 0.1 if is_logarithmic else 0.0
    scale = (lambda value: math.log10(value) - floor) if is_logarithmic else (lambda value: value)
    largest = max(map(scale, values))
    room = WIDTH - LABEL_WIDTH - VALUE_WIDTH
    height = TOP + ROW_HEIGHT * len(bars) + 8
    label = escape(f"{title}: " + ", ".join(f"{name} {form(value)}" for name, value, _ in bars), quote=True)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="0" y="18">{escape(title)}</text>',
        f'<text class="note" x="0" y="38">{escape(note)}</text>',
    ]
    for index, (name, value, kind) in enumerate(bars):
        y = TOP + index * ROW_HEIGHT
        width = max(1.0, scale(value) / largest * room)
        parts += [
            f'<text x="{LABEL_WIDTH - 10}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="{kind}" x="{LABEL_WIDTH}" y="{y}" width="{width:.1f}" height="{BAR_HEIGHT}" rx="2"/>',
            f'<text x="{LABEL_WIDTH + width + 8:.1f}" y="{y + 14}">{escape(form(value))}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _kind(server: str) -> str:
    if server.startswith("signalbox"):
        return "ours"
    return "stock" if server.startswith("channels") else "peer"
