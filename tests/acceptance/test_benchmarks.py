"""The benchmark itself works: what it quotes comes from a real server, a real load client and nothing lost."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import charts, results, tables, targets
from benchmarks.callers import NOTIFIERS, PUBLISHERS
from benchmarks.deliverers import DELIVERERS
from benchmarks.load_client import compiler
from benchmarks.queues.ledger import Ledger
from benchmarks.scenarios import SCENARIOS
from benchmarks.servers import SERVERS
from benchmarks.workers import WORKERS

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent]
needs_load_client = pytest.mark.skipif(
    compiler() is None or not Path("/proc/self/smaps_rollup").exists(),
    reason="the load client is C and Linux: install a C compiler",
)
ROOT = Path(__file__).resolve().parent.parent.parent


def quick_run(*words: str) -> dict[str, Any]:
    """What `make bench ARGS="--quick --json …"` prints, from about a second or a few thousand jobs."""
    environment = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DATABASE_URL")}
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--json", *words],
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
    figures = quick_run("--scenario", "fanout", "--server", "signalbox")["fanout"]["signalbox"]
    assert figures["published"] > 0
    assert figures["delivered"] == 20 * figures["published"]
    assert (figures["lost"], figures["doubled"], figures["closed"]) == (0, 0, 0)
    assert figures["deliveries_per_second"] > 0
    assert figures["runs"] == 1
    assert results.load() == before


@needs_load_client
def test_a_quick_run_of_messages_to_one_user_each_loses_none() -> None:
    """Unicast publishes on the topics of users, where a project may publish notifications only."""
    figures = quick_run("--scenario", "unicast", "--server", "signalbox")["unicast"]["signalbox"]
    assert figures["delivered"] == figures["published"] > 0
    assert (figures["lost"], figures["doubled"]) == (0, 0)


@needs_load_client
def test_a_quick_run_of_workers_and_callers_loses_nothing() -> None:
    """Both forms of our worker run each job once; notify() writes every row and every entry; publishing is timed."""
    scenarios = ("--scenario", "worker", "--scenario", "notify", "--scenario", "publish")
    names = ("signalbox-batches", "signalbox-single", "signalbox-sqlite", *PUBLISHERS)
    measured = quick_run(*scenarios, *(word for name in names for word in ("--server", name)))
    for name in ("signalbox-batches", "signalbox-single"):
        figures = measured["worker"][name]
        assert figures["jobs"] >= 1000
        assert figures["jobs_per_second"] > 0
        assert (figures["lost"], figures["doubled"]) == (0, 0)
    figures = measured["notify"]["signalbox-sqlite"]
    assert (figures["lost"], figures["doubled"]) == (0, 0)
    assert 0 < figures["ms_1"] < figures["ms_10000"]
    assert all(measured["publish"][name]["in_turn_us"] > 0 for name in PUBLISHERS)


@needs_load_client
def test_a_quick_run_of_the_bot_delivers_each_once() -> None:
    """A real bot process and real receivers: each row says sent, and each key came once."""
    names = ("signalbox-bot", "signalbox-bot-one-user", "signalbox-bot-webhook", "signalbox-bot-email")
    measured = quick_run("--scenario", "deliver", *(word for name in names for word in ("--server", name)))["deliver"]
    for name in names:
        figures = measured[name]
        assert figures["deliveries"] == 100
        assert figures["deliveries_per_second"] > 0
        assert (figures["lost"], figures["doubled"]) == (0, 0)
        assert 0 < figures["call_p50_ms"] <= figures["call_p99_ms"]
        assert ("receiver_core_used" in figures) == (name in ("signalbox-bot-webhook", "signalbox-bot-email"))


def test_a_ledger_tells_what_was_lost_from_what_was_doubled(tmp_path: Path) -> None:
    """Another process's marks count too, as they are in the file."""
    ledger, other = (Ledger(tmp_path / "ledger", 5) for _ in range(2))
    for number in (0, 1, 1):
        ledger.mark(number)
    other.mark(4)
    assert (ledger.done_count(), ledger.doubled_count()) == (3, 1)


def test_the_worker_is_compared_with_the_best_library_of_the_run() -> None:
    """Our faster way beside their fastest one; without either the target is left open."""
    rates = {"signalbox-unordered": 80_000, "signalbox-single": 30_000, "arq": 1_000, "huey": 5_000}
    measured = {"worker": {name: {"jobs_per_second": rate, "lost": 0, "doubled": 0} for name, rate in rates.items()}}
    (outcome,) = [each for each in targets.check(measured) if each.target.text == "no-op worker, × the best library"]
    assert (outcome.value, outcome.is_met) == (16, False)
    (alone,) = [each for each in targets.check({}) if each.target.text == outcome.target.text]
    assert alone.is_met is None
    assert "| huey, 1 thread | 5,000 | 1.00 × |" in tables.markdown(measured)
    assert tables.quote(measured).count("| Signalbox, batches of up to 100 | 80.0 k | 16 × |") == 1


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
    assert tables.QUICKEST_QUEUE in WORKERS
    names = [name for each in (SERVERS, WORKERS, DELIVERERS, NOTIFIERS, PUBLISHERS) for name in each]
    assert len(names) == len(set(names)), "a name says who it is"


def test_what_is_kept_is_of_as_many_runs_as_the_docs_say() -> None:
    """Three of each, of memory one; a single run is what the machine did just then."""
    for name, found in results.load().items():
        assert min(each["runs"] for each in found.values()) >= min(3, SCENARIOS[name].runs), name


def test_the_page_on_performance_quotes_what_was_measured_last() -> None:
    """`make bench` writes both; figures are not copied by hand."""
    page = (ROOT / "docs" / "topics" / "performance.md").read_text()
    measured = results.load()
    assert tables.quote(measured) in page
    assert tables.with_quote(page, measured) == page
    for server in ("signalbox", "signalbox-daphne", "uwebsockets", "channels-pubsub-uvicorn"):
        assert f"| {SERVERS[server].title} |" in tables.quote(measured)
