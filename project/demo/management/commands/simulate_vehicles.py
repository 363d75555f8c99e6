"""`manage.py simulate_vehicles`: moves the vehicles of the demo's map until Ctrl-C."""

import argparse
import dataclasses
import json
import sys
import time
from typing import Any

from django.core.management.base import CommandError, CommandParser

from project.demo.stopping import StopOrder
from project.demo.vehicles.lines import Network, build_network, load_cities
from project.demo.vehicles.simulation import Simulation
from project.demo.vehicles.switch import AlreadyRunning, Lease, hold_lease
from realtime.exceptions import RealtimeError
from realtime.management.base import EscapingCommand
from realtime.management.streams import HelpFormatter, redis_errors

EXAMPLES = """
examples:
  manage.py simulate_vehicles                                    20,000 vehicles in 500 cities, once a second
  manage.py simulate_vehicles --feeds 20 --vehicles 800          less work for a small machine
  manage.py simulate_vehicles --time-lapse 20                    the movement is visible from afar
  manage.py simulate_vehicles --seconds 60 --json                for programs: one JSON object at the end

Open /map/ to see them. Each city is one live topic, such as vehicles.bern, and each vehicle is one key in it. A
position is published with one call:

  publish("vehicles.bern", {"lon": 7.44, "lat": 46.95, "line": "9"},
          key="tram-7", at=(7.44, 46.95), tags={"mode": "tram"}, level=10)

The lines are made up, the cities are real. A vehicle that stands still is published every 30 seconds. When the command
ends (Ctrl-C too), it removes its vehicles from the map. If it is killed, they fall silent, and the topic's
absent_after_seconds removes them. Only one simulation runs at a time.
"""
STATUS_SECONDS = 1.0


class Command(EscapingCommand):
    """Shows one line while it runs, and the totals at the end."""

    help = "Move simulated vehicles on the demo's map (/map/) along plausible lines, until Ctrl-C."
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own declaration

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=EXAMPLES, formatter_class=HelpFormatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--feeds", type=int, default=500, metavar="N", help="cities, largest first (default: 500)")
        parser.add_argument("--vehicles", type=int, default=20_000, metavar="N", help="in all cities (default: 20000)")
        parser.add_argument(
            "--rate", type=float, default=1.0, metavar="R", help="positions a second of each (default: 1)"
        )
        parser.add_argument(
            "--seconds", type=float, metavar="S", help="end after this time (default: run until Ctrl-C)"
        )
        parser.add_argument(
            "--time-lapse", type=float, default=1.0, metavar="X", help="let time pass X times as fast (default: 1)"
        )
        parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object at the end")
        # Used by the switch of the page: ends with the web process, and when no page shows the map.
        parser.add_argument("--started-by-page", action="store_true", help=argparse.SUPPRESS)

    def handle(self, *args: Any, **options: Any) -> None:
        _check(options)
        stop = StopOrder()
        with redis_errors(), stop.on_signals():
            network = build_network(options["feeds"], options["vehicles"])
            about = {name: options[name] for name in ("feeds", "vehicles", "time_lapse")}
            try:
                with hold_lease(about, is_watched_only=options["started_by_page"]) as lease:
                    self._run(network, lease, stop, options)
            except AlreadyRunning:
                raise CommandError(
                    "a simulation is running already: stop it in its terminal, or with the switch on /map/"
                ) from None
            except RealtimeError as error:
                raise CommandError(str(error)) from error

    def _run(self, network: Network, lease: Lease, stop: StopOrder, options: dict[str, Any]) -> None:
        simulation = Simulation(network, rate=options["rate"], time_lapse=options["time_lapse"], pause=stop.wait)
        began, cpu_began = time.monotonic(), time.process_time()
        status = _Status(self.stderr, is_shown=sys.stderr.isatty() and not options["as_json"])

        def has_ended() -> bool:
            status.show(simulation, network)
            if stop.is_given and lease.lost_by is None:
                lease.lost_by = "interrupted"
            return lease.is_lost()

        simulation.run(seconds=options["seconds"], has_ended=has_ended)
        seconds, cpu_seconds = time.monotonic() - began, time.process_time() - cpu_began
        status.clear()
        if lease.lost_by != "parent":
            # Otherwise the site is stopping, and Redis may be gone already.
            simulation.remove()
        result = {
            "feeds": len(network.feeds),
            "vehicles": network.vehicle_count,
            "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu_seconds, 1),
            "ended_by": lease.lost_by or "time",
            **dataclasses.asdict(simulation.totals),
        }
        self.stdout.write(json.dumps(result) if options["as_json"] else _sentence(result))


class _Status:
    """One line on a terminal, written again each second."""

    def __init__(self, stream: Any, *, is_shown: bool) -> None:
        self._stream = stream
        self._is_shown = is_shown
        self._shown_at = time.monotonic()
        self._published_count = 0

    def show(self, simulation: Simulation, network: Network) -> None:
        passed = time.monotonic() - self._shown_at
        if not self._is_shown or passed < STATUS_SECONDS:
            return
        totals = simulation.totals
        rate = (totals.published_count - self._published_count) / passed
        self._shown_at, self._published_count = time.monotonic(), totals.published_count
        text = f"{network.vehicle_count} vehicles in {len(network.feeds)} feeds: {rate:.0f} positions/s"
        if totals.failed_count:
            text += f", Redis refused {totals.failed_count} batches"
        if totals.late_count:
            text += f", {totals.late_count} times late"
        self._stream.write(f"\r\x1b[K{text}   (Ctrl-C removes them and ends)", ending="")
        self._stream.flush()

    def clear(self) -> None:
        if self._is_shown:
            self._stream.write("\r\x1b[K", ending="")


def _check(options: dict[str, Any]) -> None:
    if not 1 <= options["feeds"] <= len(load_cities()):
        raise CommandError(f"--feeds must be from 1 to {len(load_cities())}")
    if not options["feeds"] <= options["vehicles"] <= 1_000_000:
        raise CommandError("--vehicles must be at least the number of feeds, and at most 1000000")
    if not 0.01 <= options["rate"] <= 20:
        raise CommandError("--rate must be from 0.01 to 20 positions a second")
    if not 0.01 <= options["time_lapse"] <= 1000:
        raise CommandError("--time-lapse must be from 0.01 to 1000")
    if options["seconds"] is not None and not options["seconds"] > 0:
        raise CommandError("--seconds must be more than 0")


def _sentence(result: dict[str, Any]) -> str:
    reasons = {
        "stopped": "stopped by the switch",
        "unwatched": "stopped because nobody looks at the map",
        "parent": "stopped with the site",
        "interrupted": "stopped",
        "time": "done",
    }
    return (
        f"{reasons[result['ended_by']]}: {result['published_count']} positions of {result['vehicles']} vehicles in "
        f"{result['seconds']} s ({result['cpu_seconds']} s of CPU), {result['removed_count']} vehicles removed"
    )
