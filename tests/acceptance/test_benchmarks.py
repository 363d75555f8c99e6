"""The benchmark itself works: what it quotes comes from a real server, a real load client and nothing lost."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import charts, results, tables, targets
from benchmarks.load_client import compiler
from benchmarks.scenarios import SCENARIOS
from benchmarks.servers import SERVERS

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent]
needs_load_client = pytest.mark.skipif(
    compiler() is None or not Path("/proc/self/smaps_rollup").exists(),
    reason="the load client is C and Linux: install a C compiler",
)
ROOT = Path(__file__).resolve().parent.parent.parent


def quick_run(*words: str) -> dict[str, Any]:
    """What `make bench ARGS="--quick --json …"` prints, from 20 connections and about a second."""
    environment = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DATABASE_URL")}
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--json", "--server", "signalbox", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


@needs_load_client
def test_a_quick_run_counts_every_message_on_every_socket() -> None:
    """Fan-out to 20 real sockets: each got each message once, and the figures are there; nothing kept is changed."""
    before = results.load()
    figures = quick_run("--scenario", "fanout")["fanout"]["signalbox"]
    assert figures["published"] > 0
    assert figures["delivered"] == 20 * figures["published"]
    assert (figures["lost"], figures["doubled"], figures["closed"]) == (0, 0, 0)
    assert figures["deliveries_per_second"] > 0
    assert figures["runs"] == 1
    assert results.load() == before


def test_tables_and_charts_show_what_is_there_and_nothing_else() -> None:
    """Figures of two runs become their median; a server or figure that was not measured leaves a dash."""
    runs = [
        {"deliveries_per_second": rate, "server_cpu_us": 1.0, "lost": lost, "doubled": 0.0}
        for rate, lost in ((2e6, 0.0), (4e6, 3.0), (3e6, 0.0))
    ]
    measured = {"fanout": {"signalbox": results.summarize(runs)}}
    assert measured["fanout"]["signalbox"]["deliveries_per_second"] == 3e6
    assert measured["fanout"]["signalbox"]["lost"] == 3.0, "a single lossy run is not hidden by two good ones"
    text = tables.markdown(measured)
    assert "| Signalbox, uvicorn, raw frames | 3.00 M | – | – | 1.00 µs | 3 | – |" in text
    (lost, *rest) = targets.check(measured)
    assert lost.is_met is False
    assert {outcome.is_met for outcome in rest} == {None}
    svg = charts.bar_chart("Speed", "more is better", [("<ours>", 3e6, "ours"), ("stock", 3e3, "stock")], form=str)
    assert "&lt;ours&gt;" in svg
    assert "prefers-color-scheme: dark" in svg


def test_every_server_and_scenario_has_its_place_in_the_tables() -> None:
    """What can be measured can be shown."""
    assert set(tables.COLUMNS) == set(SCENARIOS)
    assert {tables.FAST, tables.STOCK} <= set(SERVERS)


def test_the_readme_quotes_what_was_measured_last() -> None:
    """`make bench` writes both; figures are not copied by hand."""
    readme = (ROOT / "README.md").read_text()
    measured = results.load()
    assert tables.quote(measured) in readme
    assert tables.with_quote(readme, measured) == readme
    for server in ("signalbox", "signalbox-daphne", "uwebsockets", "channels-pubsub-uvicorn"):
        assert f"| {SERVERS[server].title} |" in tables.quote(measured)
