"""`manage.py simulate_vehicles`, and the switch of the map page: what is published, and that only one runs."""

import asyncio
import functools
import io
import json
import os
import signal
import threading
import time
import types
from collections.abc import Iterable
from typing import Any

import pytest
from channels.layers import get_channel_layer
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client

from project.demo.management.commands import simulate_vehicles
from project.demo.stopping import StopOrder
from project.demo.vehicles.lines import build_network
from project.demo.vehicles.simulation import ASK_SECONDS, Simulation
from project.demo.vehicles.switch import LEASE_SECONDS, AlreadyRunning, Switch, hold_lease
from realtime import conf
from realtime.broker.publication import Publication
from realtime.exceptions import Unavailable
from realtime.live.places import point
from realtime.publisher import Item
from realtime.topics import resolve
from tests.support.relevances import decode_relevance
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.usefixtures("signalbox"), pytest.mark.database_independent]
ABOUT = {"feeds": 2, "vehicles": 20, "time_lapse": 1.0}


def run(*arguments: str) -> dict[str, Any]:
    out = io.StringIO()
    call_command("simulate_vehicles", "--json", *arguments, stdout=out, stderr=io.StringIO())
    result: dict[str, Any] = json.loads(out.getvalue())
    return result


def load(topic: str) -> list[Publication]:
    """What a web process loads of a topic."""

    async def read() -> list[Publication]:
        match = resolve(topic)
        assert match is not None
        found = await get_channel_layer().read_snapshot(topic, match.family.snapshot)
        await conf.close_async_redis()
        return list(found.publications)

    return asyncio.run(read())


def test_the_vehicles_of_each_city_are_on_its_topic() -> None:
    """Each topic has the newest position of each of its vehicles; when they are removed, it has none."""
    network = build_network(3, 60)
    simulation = Simulation(network, rate=20)
    simulation.run(has_ended=lambda: simulation.totals.published_count + simulation.totals.unchanged_count >= 200)
    for feed in network.feeds:
        names = {decode_relevance(each.relevance).key for each in load(f"vehicles.{feed.slug}")}
        assert names == {vehicle.key for vehicle in feed.vehicles}
    simulation.remove()
    assert simulation.totals.removed_count == 60
    assert [load(f"vehicles.{feed.slug}") for feed in network.feeds] == [[], [], []]


def test_what_is_beside_the_data_is_what_filters_need() -> None:
    """The place of the data, the mode and the delay as tags, and the level of the mode."""
    published: list[Item] = []
    simulation = Simulation(build_network(2, 50), rate=20, publish=published.extend)
    simulation.run(has_ended=lambda: len(published) >= 50)
    assert len({(item.topic, item.key) for item in published}) == 50
    for item in published:
        assert item.at == (item.data["lon"], item.data["lat"])
        assert item.tags == {"mode": item.data["mode"], "delay": item.data["delay"]}
        assert item.level == {"rail": 0, "ferry": 6, "metro": 8, "tram": 10, "bus": 11}[item.data["mode"]]


def test_the_place_that_redis_keeps_is_that_of_the_data() -> None:
    """In the units of the grid, without looking into the data."""
    feed = build_network(1, 5).feeds[0]
    simulation = Simulation(build_network(1, 5), rate=20)
    simulation.run(has_ended=lambda: simulation.totals.published_count >= 5)
    loaded = load(f"vehicles.{feed.slug}")
    assert len(loaded) == 5
    for publication in loaded:
        relevance, data = decode_relevance(publication.relevance), json.loads(publication.frame)["data"]
        assert relevance.place == point(data["lon"], data["lat"])
        assert relevance.tags["mode"] == data["mode"]
    simulation.remove()


def test_a_vehicle_that_stands_still_is_published_once_in_a_while() -> None:
    """At a stop nothing changes; but before it would fall silent, it is published again."""
    published: list[Item] = []
    network = build_network(5, 200)
    simulation = Simulation(network, rate=20, time_lapse=0.0001, publish=published.extend)
    simulation.run(has_ended=lambda: simulation.totals.unchanged_count >= 400)
    assert len(published) < 400


def test_has_ended_is_asked_during_a_long_pause() -> None:
    """With 100 s between two positions of a vehicle, a lease of a few seconds is still renewed."""
    pauses: list[float] = []
    simulation = Simulation(build_network(1, 1), rate=0.01, publish=lambda items: None, pause=pauses.append)
    simulation.run(has_ended=lambda: len(pauses) >= 20)
    assert max(pauses) <= ASK_SECONDS < LEASE_SECONDS / 2


def test_an_outage_of_redis_costs_a_batch_and_not_the_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on with the next batch."""
    monkeypatch.setattr("project.demo.vehicles.simulation.RETRY_SECONDS", 0.0)
    published: list[Item] = []
    failures = iter([True, True, False])

    def publish(items: Any) -> None:
        if next(failures, False):
            raise Unavailable("Redis is away")
        published.extend(items)

    simulation = Simulation(build_network(1, 10), rate=20, publish=publish)
    simulation.run(has_ended=lambda: len(published) >= 10)
    assert simulation.totals.failed_count == 2


def test_the_command_ends_after_its_time_and_says_what_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one JSON object, or one sentence; its vehicles and its lease are gone."""
    # Only pauses take time.
    passed: list[float] = []
    clock = types.SimpleNamespace(monotonic=lambda: sum(passed), time=time.time)
    monkeypatch.setattr("project.demo.vehicles.simulation.time", clock)
    monkeypatch.setattr(StopOrder, "wait", lambda self, seconds: passed.append(seconds))
    result = run("--feeds", "2", "--vehicles", "20", "--rate", "20", "--seconds", "2")
    assert (result["feeds"], result["vehicles"], result["ended_by"]) == (2, 20, "time")
    assert result["published_count"] >= 20
    assert result["removed_count"] == 20
    assert Switch.of_the_project().state() is None
    out = io.StringIO()
    call_command("simulate_vehicles", feeds=1, vehicles=4, rate=20, seconds=2, stdout=out)
    assert "positions of 4 vehicles" in out.getvalue()
    assert "4 vehicles removed" in out.getvalue()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_breaks_no_publication_off(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """It comes in the middle of one, and again while the vehicles are removed."""
    whole: list[Item] = []

    def publish(items: Iterable[Item]) -> None:
        os.kill(os.getpid(), number)
        whole.extend(items)

    monkeypatch.setattr(simulate_vehicles, "Simulation", functools.partial(Simulation, publish=publish))
    result = run("--feeds", "1", "--vehicles", "4", "--rate", "0.01")
    assert (result["ended_by"], result["published_count"], result["removed_count"]) == ("interrupted", 4, 4)
    # It did not wait for the next position, which was due after 100 s.
    assert result["seconds"] < 90
    assert len(whole) == 8
    assert Switch.of_the_project().state() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--feeds", "501"], "--feeds must be from 1 to 500"),
        (["--feeds", "10", "--vehicles", "5"], "--vehicles must be at least the number of feeds"),
        (["--rate", "0"], "--rate must be from"),
        (["--time-lapse", "-1"], "--time-lapse must be from"),
        (["--seconds", "0"], "--seconds must be more than 0"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        run(*arguments)


def test_only_one_simulation_runs() -> None:
    """The second says how to end the first; a program that crashed does not block it for long."""
    with hold_lease(ABOUT, is_watched_only=False):
        with pytest.raises(CommandError, match="running already: stop it in its terminal, or with the switch"):
            run("--feeds", "1", "--vehicles", "4", "--seconds", "0.3")
        with pytest.raises(AlreadyRunning), hold_lease(ABOUT, is_watched_only=False):
            pass
        assert Switch.of_the_project().state() == {**ABOUT, "is_stopping": False}
    assert Switch.of_the_project().state() is None


def test_the_switch_stops_a_simulation_that_runs_anywhere() -> None:
    """It removes its vehicles before another one may start."""
    results: list[dict[str, Any]] = []
    switch = Switch.of_the_project()

    def simulate() -> None:
        with hold_lease(ABOUT, is_watched_only=False) as lease:
            Simulation(build_network(1, 4), rate=20).run(has_ended=lease.is_lost)
            results.append({"lost_by": lease.lost_by, "state": switch.state()})

    thread = threading.Thread(target=simulate)
    thread.start()
    wait_until_sync(lambda: switch.state() is not None)
    switch.stop()
    thread.join(30)
    assert results == [{"lost_by": "stopped", "state": {**ABOUT, "is_stopping": True}}]
    assert switch.state() is None


def test_a_lease_that_expired_is_taken_again_unless_another_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop was asleep for longer than the lease."""
    monkeypatch.setattr("project.demo.vehicles.switch.RENEW_SECONDS", 0.0)
    switch = Switch.of_the_project()
    with hold_lease(ABOUT, is_watched_only=False) as lease:
        conf.sync_redis().delete(switch.lease_key)
        assert not lease.is_lost()
        assert switch.state() == {**ABOUT, "is_stopping": False}
        conf.sync_redis().delete(switch.lease_key)
        with hold_lease(ABOUT, is_watched_only=False):
            assert lease.is_lost()
            assert lease.lost_by == "stopped"


def test_a_simulation_of_the_page_ends_when_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """And when the web process that started it has ended."""
    monkeypatch.setattr("project.demo.vehicles.switch.RENEW_SECONDS", 0.0)
    Switch.of_the_project().watch()
    with hold_lease(ABOUT, is_watched_only=True) as lease:
        assert not lease.is_lost()
        monkeypatch.setattr(os, "getppid", lambda: -1)
        assert lease.is_lost()
        assert lease.lost_by == "parent"
    with hold_lease(ABOUT, is_watched_only=True) as lease:
        assert not lease.is_lost()
        conf.sync_redis().delete(Switch.of_the_project().watched_key)
        assert lease.is_lost()
        assert lease.lost_by == "unwatched"


@pytest.mark.django_db
class TestPage:
    @pytest.fixture
    def browser(self, alice: User) -> Client:
        client = Client()
        client.force_login(alice)
        return client

    def test_it_needs_a_user(self) -> None:
        """As its topics do."""
        for path in ("/map/", "/map/simulation/"):
            assert Client().get(path).headers["Location"] == f"/login/?next={path}"

    def test_it_is_linked_and_says_where_its_code_is(self, browser: Client) -> None:
        """In the navigation, and in a sentence with paths that exist."""
        assert '<a href="/map/">Live map</a>' in browser.get("/").content.decode()
        page = browser.get("/map/").content.decode()
        assert '<a href="/map/" aria-current="page">Live map</a>' in page
        assert "project/demo/vehicles/simulation.py" in page

    def test_the_switch_exists_in_development_only(self, browser: Client, settings: Any) -> None:
        settings.DEBUG = False
        assert "data-switch" not in browser.get("/map/").content.decode()
        assert browser.get("/map/simulation/").status_code == 404
        assert browser.post("/map/simulation/", {"action": "start"}).status_code == 404
        settings.DEBUG = True
        assert "data-switch" in browser.get("/map/").content.decode()
        assert browser.get("/map/simulation/").json() == {"simulation": None}

    def test_the_switch_needs_a_token(self, alice: User, settings: Any) -> None:
        """Another site cannot start anything."""
        settings.DEBUG = True
        client = Client(enforce_csrf_checks=True)
        client.force_login(alice)
        assert client.post("/map/simulation/", {"action": "start"}).status_code == 403

    def test_looking_is_noted_and_a_running_simulation_is_not_started_again(
        self, browser: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nor anything else done for another word."""
        settings.DEBUG = True
        started: list[Any] = []
        monkeypatch.setattr("subprocess.Popen", lambda *arguments, **options: started.append(arguments))
        switch = Switch.of_the_project()
        assert browser.post("/map/simulation/", {"action": "pause"}).status_code == 400
        with hold_lease(ABOUT, is_watched_only=False):
            answer = browser.post("/map/simulation/", {"action": "start"}, headers={"accept": "application/json"})
            assert answer.json() == {"simulation": {**ABOUT, "is_stopping": False}}
            assert browser.post("/map/simulation/", {"action": "stop"}).headers["Location"] == "/map/"
            assert switch.state() == {**ABOUT, "is_stopping": True}
        assert started == []
        assert browser.get("/map/simulation/").json() == {"simulation": None}
