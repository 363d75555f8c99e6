"""The benchmark itself works: its figures come from a real server and a real load client, and nothing is lost."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from benchmarks import charts, keeping, results, tables, targets
from benchmarks.callers import NOTIFIERS, PUBLISHERS, READERS
from benchmarks.deliverers import DELIVERERS
from benchmarks.load_client import compiler
from benchmarks.map.servers import MAP_SERVERS
from benchmarks.map.world import PERIOD, World
from benchmarks.processes import free_port
from benchmarks.queues.ledger import Ledger
from benchmarks.scenarios import SCENARIOS
from benchmarks.servers import SERVERS
from benchmarks.tasks.contenders import TASK_BACKENDS
from benchmarks.tasks.ledger import Ledger as TaskLedger
from benchmarks.workers import WORKERS
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent]
needs_load_client = pytest.mark.skipif(
    compiler() is None or not Path("/proc/self/smaps_rollup").exists(),
    reason="the load client is C and Linux: install a C compiler",
)
ROOT = Path(__file__).resolve().parent.parent.parent


def bench(*words: str, var: Path) -> subprocess.CompletedProcess[str]:
    """`make bench` with these words and with `var` as VAR_DIR."""
    environment = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DATABASE_URL")}
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words],
        cwd=ROOT,
        env=environment | {"VAR_DIR": str(var)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run


def quick_run(var: Path, *words: str) -> dict[str, Any]:
    """The figures that `make bench ARGS="--quick --json …"` prints, from about a second or a few thousand jobs."""
    answer: dict[str, Any] = json.loads(bench("--quick", "--json", *words, var=var).stdout)
    return answer["measured"]  # type: ignore[no-any-return]


def run_of(at: str = "2026-01-01T00:00+00:00", **measured: dict[str, dict[str, float]]) -> results.Run:
    """A run that measured each of these figures once."""
    values = {scenario: {name: [each] for name, each in found.items()} for scenario, found in measured.items()}
    run = results.new_run(values, machine="a machine", versions={"Python": "3"}, commit="abc", load=0.1)
    return dataclasses.replace(run, at=at, id=at)


def kept() -> dict[Path, bytes]:
    """All that git keeps of benchmarks, and the page on performance."""
    paths = [*results.DIRECTORY.iterdir(), ROOT / "docs" / "topics" / "performance.md"]
    return {path: path.read_bytes() for path in paths if path.is_file()}


@needs_load_client
def test_a_quick_run_counts_every_message_on_every_socket(tmp_path: Path) -> None:
    """Fan-out to 20 real sockets: each got each message once, and the figures are there; nothing is kept."""
    before = kept()
    figures = quick_run(tmp_path, "--scenario", "fanout", "--server", "signalbox")["fanout"]["signalbox"]
    assert figures["published"] > 0
    assert figures["delivered"] == 20 * figures["published"]
    assert (figures["lost"], figures["doubled"], figures["closed"]) == (0, 0, 0)
    assert figures["deliveries_per_second"] > 0
    assert figures["runs"] == 1
    assert kept() == before
    assert not (tmp_path / "benchmarks").exists()


@needs_load_client
def test_a_quick_run_of_messages_to_one_user_each_loses_none(tmp_path: Path) -> None:
    """Unicast publishes on the topics of users, where a project may publish notifications only."""
    figures = quick_run(tmp_path, "--scenario", "unicast", "--server", "signalbox")["unicast"]["signalbox"]
    assert figures["delivered"] == figures["published"] > 0
    assert (figures["lost"], figures["doubled"]) == (0, 0)


@needs_load_client
def test_a_quick_run_of_a_map_ends_with_the_truth_on_each_screen(tmp_path: Path) -> None:
    """Viewers move while vehicles do: in the end each has what is in its box, the newest, and nothing far outside."""
    names = [word for name in ("signalbox-map", "futures-map") for word in ("--server", name)]
    measured = quick_run(tmp_path, "--scenario", "map", *names)["map"]
    for name in ("signalbox-map", "futures-map"):
        figures = measured[name]
        assert (figures["lost"], figures["doubled"], figures["closed"]) == (0, 0, 0), name
        assert figures["viewers"] == 20
        assert figures["published"] == 3 * 400
        assert figures["raw"] >= figures["needed"] > 0
        assert figures["held"] >= figures["seen"] > 0


def test_every_viewer_has_the_truth_while_everything_fails(tmp_path: Path) -> None:
    """Connections are cut, server and Redis end and come back: at each rest each viewer has exactly what it must."""
    words = ("--minutes", "0.33", "--viewers", "20", "--feeds", "20", "--vehicles", "600")
    environment = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DATABASE_URL")}
    soak = subprocess.run(
        [sys.executable, "-m", "benchmarks.map.soak", *words],
        cwd=ROOT,
        env=environment | {"VAR_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert soak.returncode == 0, soak.stdout + soak.stderr
    assert "every viewer had the truth at each rest" in soak.stdout
    assert " 0 rests" not in f" {soak.stdout}" and " 0 cuts" not in soak.stdout, "nothing happened"


def test_a_world_is_made_by_its_seed_alone() -> None:
    """The same vehicles and viewers each time; fewer viewers are the first of many; vehicles drive there and back."""
    one, other = (World(seed=3, feeds=10, vehicles=200, seen=(1, 100)) for _ in range(2))
    assert one.places == other.places and one.feeds == other.feeds
    assert sorted(vehicle for feed in one.feeds for vehicle in feed) == list(range(200))
    assert World(seed=4, feeds=10, vehicles=200).places != one.places
    moves = one.moves(viewers=20, seconds=5, every_seconds=1)
    fewer = other.moves(viewers=5, seconds=5, every_seconds=1)
    assert fewer == [move for move in moves if move.viewer < 5]
    assert [move.viewer for move in moves[:20]] == list(range(20))
    for vehicle in (0, 199):
        way = [one.place(vehicle, second) for second in range(PERIOD + 1)]
        assert way == way[::-1]
        assert len(set(way)) == PERIOD // 2 + 1


@needs_load_client
def test_a_quick_run_of_workers_and_callers_loses_nothing(tmp_path: Path) -> None:
    """Both forms of our worker run each job once; notify() and the dashboard count every row; publishing is timed."""
    scenarios = [word for name in ("worker", "notify", "dashboard", "publish") for word in ("--scenario", name)]
    names = ("signalbox-batches", "signalbox-single", "signalbox-sqlite", "signalbox-dashboard-sqlite", *PUBLISHERS)
    measured = quick_run(tmp_path, *scenarios, *(word for name in names for word in ("--server", name)))
    for name in ("signalbox-batches", "signalbox-single"):
        figures = measured["worker"][name]
        assert figures["jobs"] >= 1000
        assert figures["jobs_per_second"] > 0
        assert (figures["lost"], figures["doubled"]) == (0, 0)
    figures = measured["notify"]["signalbox-sqlite"]
    assert (figures["lost"], figures["doubled"]) == (0, 0)
    assert 0 < figures["ms_1"] < figures["ms_10000"]
    figures = measured["dashboard"]["signalbox-dashboard-sqlite"]
    assert (figures["lost"], figures["notifications"]) == (0, 10_000)
    assert figures["ms_month"] > 0
    assert all(measured["publish"][name]["in_turn_us"] > 0 for name in PUBLISHERS)


@needs_load_client
def test_a_quick_run_of_the_bot_delivers_each_once(tmp_path: Path) -> None:
    """A real bot process and real receivers: each row says sent, and each key came once."""
    names = ("signalbox-bot", "signalbox-bot-one-user", "signalbox-bot-webhook", "signalbox-bot-email")
    words = [word for name in names for word in ("--server", name)]
    measured = quick_run(tmp_path, "--scenario", "deliver", *words)["deliver"]
    for name in names:
        figures = measured[name]
        assert figures["deliveries"] == 100
        assert figures["deliveries_per_second"] > 0
        assert (figures["lost"], figures["doubled"]) == (0, 0)
        assert 0 < figures["call_p50_ms"] <= figures["call_p99_ms"]
        assert ("receiver_core_used" in figures) == (name in ("signalbox-bot-webhook", "signalbox-bot-email"))


def test_a_quick_run_of_background_tasks_runs_each_once(tmp_path: Path) -> None:
    """Near the server and 2 ms away from it, each task ran once and its result can be read."""
    names = [name for name in ("plain-list", "signalbox-tasks") if TASK_BACKENDS[name].missing() is None]
    words = [word for name in names for word in ("--server", name)]
    measured = quick_run(tmp_path, "--scenario", "tasks", *words)["tasks"]
    for name in names:
        figures = measured[name]
        assert figures["tasks"] >= 100
        assert (figures["lost"], figures["doubled"], figures["results_share"]) == (0, 0, 1), name
        rates = ("enqueued_per_second", "nothing_per_second", "sleep_per_second", "running_per_second")
        assert all(figures[rate] > 0 for rate in rates), name
        assert 0 < figures["p50_ms"] <= figures["p99_ms"]
        assert figures["far_sleep_per_second"] > 0
    # It takes one task at a time with two round trips, so at most 250 a second 2 ms away, and 1,000 that sleep.
    plain = measured["plain-list"]
    assert plain["sleep_per_second"] < 1_000
    assert plain["far_nothing_per_second"] <= 250


def test_a_server_behind_the_proxy_is_further_away(redis_server: RedisServer) -> None:
    """Each round trip takes 2 ms longer, a pipeline of many commands too, and a large value comes whole."""
    port = free_port()
    target = redis_server.url.removeprefix("unix://")
    words = [sys.executable, "-m", "benchmarks.tasks.delay", str(port), target, "2"]
    process = subprocess.Popen(words, cwd=ROOT)
    try:
        with redis.Redis(port=port, retry=Retry(ConstantBackoff(0.02), 500)) as far:
            far.ping()
            times = []
            for _ in range(20):
                begin = time.perf_counter()
                far.ping()
                times.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            answers = [far.echo(b"x" * 300_000), *far.pipeline(transaction=False).ping().ping().execute()]
            assert answers == [b"x" * 300_000, True, True]
            assert time.perf_counter() - begin >= 0.004
    finally:
        process.terminate()
        process.wait(10)
    assert min(times) >= 0.002


def test_a_ledger_of_tasks_has_their_times(tmp_path: Path) -> None:
    """From another process's marks too: which ran, which ran twice, and how long they took together."""
    ledger, other = (TaskLedger(tmp_path / "ledger", 5) for _ in range(2))
    ledger.enqueued_ns[1] = time.monotonic_ns()
    assert [other.run(number, 0.001) for number in (1, 2, 2)] == [1, 2, 2]
    assert (ledger.done_count(), ledger.done_count(range(2, 5)), ledger.doubled_count()) == (2, 1, 1)
    assert ledger.seconds_of(range(1, 3), ledger.begun_ns) >= 0.003
    assert ledger.seconds_of(range(3, 5), ledger.begun_ns) == 0
    (wait,) = ledger.waits_ms(range(5))
    assert wait > 0


def test_a_ledger_tells_what_was_lost_from_what_was_doubled(tmp_path: Path) -> None:
    """Another process's marks count too, as they are in the file."""
    ledger, other = (Ledger(tmp_path / "ledger", 5) for _ in range(2))
    for number in (0, 1, 1):
        ledger.mark(number)
    other.mark(4)
    assert (ledger.done_count(), ledger.doubled_count()) == (3, 1)


def test_a_partial_run_prints_its_own_figures_and_keeps_nothing(tmp_path: Path) -> None:
    """One of four callers, measured once: no figure of another, no ratio to a kept one, and no file in git changes."""
    before = kept()
    run = bench("--scenario", "publish", "--server", "signalbox-apublish", "--runs", "1", var=tmp_path)
    (row,) = [line for line in run.stdout.splitlines() if "µs" in line]
    assert "–" not in row and "ratio to" not in run.stdout, "there is no publish() in this run to compare with"
    assert "×" not in run.stdout
    assert f"publish stays in {results.DIRECTORY} as it is: not measured {keeping.FULL_RUNS} times: " in run.stdout
    assert kept() == before
    (path,) = (tmp_path / "benchmarks").iterdir()
    raw = json.loads(path.read_text())
    assert [list(found) for found in raw["values"].values()] == [["signalbox-apublish"]]
    assert len(raw["values"]["publish"]["signalbox-apublish"]) == 1


def test_json_has_what_was_measured_and_what_the_run_was(tmp_path: Path) -> None:
    """It has no figures of the kept run."""
    words = ("--scenario", "publish", "--server", "signalbox-apublish", "--server", "signalbox-publish")
    answer = json.loads(bench("--quick", "--json", *words, var=tmp_path).stdout)
    assert set(answer) == {"id", "at", "machine", "versions", "commit", "load", "measured"}
    assert {scenario: set(found) for scenario, found in answer["measured"].items()} == {
        "publish": {"signalbox-apublish", "signalbox-publish"}
    }
    assert answer["commit"] in answer["id"]
    assert {"Python", "Django", "redis"} <= set(answer["versions"])


def test_figures_of_two_runs_are_not_compared() -> None:
    """Each contender is shown beside those of its own run; of two runs that measured the same, the later one counts."""
    ours = {"deliveries_per_second": 4e6, "server_cpu_us": 1.0, "lost": 0.0, "doubled": 0.0}
    slow, fast = {**ours, "deliveries_per_second": 1e3}, {**ours, "deliveries_per_second": 1e6}
    other = run_of("2026-01-01T00:00+00:00", fanout={"uwebsockets": slow, "channels-pubsub-uvicorn": slow})
    run = run_of("2026-01-02T00:00+00:00", fanout={"signalbox": ours, "uwebsockets": fast})
    rows = {title: cells for title, *cells in tables.heads_and_rows("fanout", [run, other])[1]}
    assert rows[SERVERS["signalbox"].title][:3] == ["4.00 M", "4.00 ×", "–"]
    assert rows[SERVERS["channels-pubsub-uvicorn"].title][1:3] == ["1.00 ×", "1.00 ×"]
    assert rows[SERVERS["uwebsockets"].title][0] == "1.00 M"
    heads, alone = tables.heads_and_rows("fanout", [run_of(fanout={"signalbox": ours})])
    assert "×" not in str(alone) and "ratio" not in str(heads)


def whole_run() -> results.Run:
    """A run that measured everything as often as it must be, with invented figures."""
    values = {
        scenario.name: {
            contender.name: [{"lost": 0.0}] * min(keeping.FULL_RUNS, scenario.runs)
            for contender in keeping.contenders_of(scenario)
        }
        for scenario in SCENARIOS.values()
    }
    return results.new_run(values, machine="a machine", versions={}, commit="abc", load=0.1)


def test_a_scenario_is_whole_if_nothing_is_left_out() -> None:
    """One contender fewer, or one that was measured once: it is not. A peer may fail, ours may not."""
    run = whole_run()
    assert [keeping.left_out(run, name) for name in SCENARIOS] == [[]] * len(SCENARIOS)
    for name in ("huey", "signalbox-single"):
        run = whole_run()
        del run.measured["worker"][name]
        assert keeping.left_out(run, "worker") == [WORKERS[name].title]
        assert keeping.left_out(run, "fanout") == []
        failed = frozenset({("worker", name)})
        assert bool(keeping.left_out(run, "worker", failed)) == WORKERS[name].is_ours
    run = whole_run()
    run.measured["fanout"]["signalbox"]["runs"] = 1
    assert keeping.left_out(run, "fanout") == [SERVERS["signalbox"].title]


def test_a_run_replaces_the_scenarios_that_it_measured_as_a_whole() -> None:
    """Those of runs before it stay, and a scenario is never of two runs."""
    old, new = dataclasses.replace(whole_run(), id="old"), dataclasses.replace(whole_run(), id="new")
    new.measured["fanout"]["signalbox"]["runs"] = 1
    for name in SCENARIOS.keys() - {"fanout", "map"}:
        del new.measured[name]
    runs = keeping.with_run([old], new)
    assert [(run.id, set(run.measured)) for run in runs] == [("old", SCENARIOS.keys() - {"map"}), ("new", {"map"})]
    last = dataclasses.replace(whole_run(), id="last")
    assert keeping.with_run(runs, last) == [last]
    del last.measured["map"]["signalbox-map"]
    last = dataclasses.replace(last, measured={"map": last.measured["map"]})
    assert keeping.with_run(runs, last) == runs


def test_what_is_kept_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Each figure with its lowest and highest, on one line for each contender, and what made it."""
    values = {"fanout": {"signalbox": [{"lost": 0.0, "p99_ms": ms} for ms in (1.0, 3.0, 2.0)], "ws": [{"lost": 1.0}]}}
    run = results.new_run(values, machine="a machine", versions={"Python": "3"}, commit="abc", load=0.12)
    results.save([run], tmp_path / "latest.json")
    assert results.load(tmp_path / "latest.json") == [run]
    lines = (tmp_path / "latest.json").read_text().splitlines()
    assert '   "signalbox": {"runs": 3, "lost": 0.0, "p99_ms": [2.0, 1.0, 3.0]},' in lines
    assert results.load(tmp_path / "none.json") == []


def test_what_is_kept_is_small_and_without_raw_figures() -> None:
    """Medians, lowest and highest; the measurements themselves are not in git."""
    assert results.LATEST.stat().st_size < 60_000
    assert "spread" not in results.LATEST.read_text()
    assert all(run.machine and run.commit and run.versions for run in results.load())


def test_the_files_that_show_what_is_kept_are_made_from_it() -> None:
    """`make bench ARGS=--redraw` changes none of them: figures are not copied by hand."""
    for path, text in keeping.files(results.load()).items():
        assert path.read_text() == text, path


def test_the_worker_is_compared_with_the_best_library_of_the_run() -> None:
    """Our faster way beside their fastest one; without either the target is left open."""
    rates = {"signalbox-unordered": 80_000, "signalbox-single": 30_000, "arq": 1_000, "huey": 5_000}
    measured = {"worker": {name: {"jobs_per_second": rate, "lost": 0, "doubled": 0} for name, rate in rates.items()}}
    (outcome,) = [each for each in targets.check(measured) if each.target.text == "no-op worker, × the best library"]
    assert (outcome.value, outcome.is_met) == (16, False)
    (alone,) = [each for each in targets.check({}) if each.target.text == outcome.target.text]
    assert alone.is_met is None
    run = run_of(**measured)
    assert "| huey, 1 thread | 5,000 | 1.00 × |" in tables.markdown([run])
    assert tables.quote([run]).count("| Signalbox, batches of up to 100 | 80.0 k | 16 × |") == 1


def test_tables_and_charts_show_what_is_there_and_nothing_else() -> None:
    """Figures of several runs become their median. What no server has a figure for is left out, also a whole column."""
    runs = [
        {"deliveries_per_second": rate, "server_cpu_us": 1.0, "lost": lost, "doubled": 0.0}
        for rate, lost in ((2e6, 0.0), (4e6, 3.0), (3e6, 0.0))
    ]
    measured = {"fanout": {"signalbox": results.summarize(runs)}}
    assert measured["fanout"]["signalbox"]["deliveries_per_second"] == 3e6
    assert measured["fanout"]["signalbox"]["lost"] == 3.0, "a single lossy run is not hidden by two good ones"
    run = dataclasses.replace(run_of(), measured=measured)
    text = tables.markdown([run])
    assert "|  | deliveries/s | server CPU a delivery | lost |" in text
    assert "| Signalbox, realtime.web | 3.00 M | 1.00 µs | 3 |" in text
    assert "–" not in text + tables.quote([run])
    assert [column.header for column in tables.terminal("fanout", [run]).columns[1:]] == [
        "deliveries/s",
        "server CPU a delivery",
        "lost",
    ]
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
    assert tables.FAST_MAP in MAP_SERVERS
    assert tables.FAST_TASKS in TASK_BACKENDS
    groups = (SERVERS, MAP_SERVERS, WORKERS, DELIVERERS, NOTIFIERS, PUBLISHERS, READERS, TASK_BACKENDS)
    names = [name for each in groups for name in each]
    assert len(names) == len(set(names)), "a name says who it is"


def test_what_is_kept_is_of_as_many_runs_as_the_docs_say() -> None:
    """Three of each, of memory one; a single run is what the machine did just then."""
    for run in results.load():
        for name, found in run.measured.items():
            assert min(each["runs"] for each in found.values()) >= min(keeping.FULL_RUNS, SCENARIOS[name].runs), name


def test_the_page_on_performance_quotes_what_was_measured_last() -> None:
    """`make bench` writes both; figures are not copied by hand."""
    page = (ROOT / "docs" / "topics" / "performance.md").read_text()
    measured = results.load()
    assert tables.quote(measured) in page
    assert tables.with_quote(page, measured) == page
    for server in ("signalbox", "signalbox-daphne", "uwebsockets", "channels-pubsub-uvicorn"):
        assert f"| {SERVERS[server].title} |" in tables.quote(measured)
