"""
Moves the vehicles: which positions are published, and when.

Owns the pace, which vehicles have changed, and removing them at the end. Does not own where they are (lines), the
command line (simulate_vehicles) nor who may run it (switch).

The whole of publishing on a live topic is `_item`: a key, a place, tags and a level beside the data.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from project.demo.vehicles.lines import MODES, Feed, Network, Vehicle
from realtime.exceptions import Unavailable
from realtime.publisher import Item, publish_many

__all__ = ["Simulation", "Totals"]

# A second is divided into this many batches, so that neither Redis nor a page gets everything at once.
BATCHES_A_STEP = 20
# A vehicle that stands still is published again after this time, so that it does not fall silent.
STANDING_SECONDS = 30.0
# The wait after Redis did not accept a batch.
RETRY_SECONDS = 1.0
# How often it is asked whether the simulation has to end, during a longer pause.
ASK_SECONDS = 1.0
REMOVALS_AT_A_TIME = 500


@dataclass(slots=True, kw_only=True)
class Totals:
    """
    The counters of a simulation.

    Attributes:
        published_count: Positions that were published.
        unchanged_count: Positions that were not published, because the vehicle stands still.
        late_count: Batches that began more than a step too late.
        failed_count: Batches that Redis did not accept.
        removed_count: Vehicles that were removed at the end.
    """

    published_count: int = 0
    unchanged_count: int = 0
    late_count: int = 0
    failed_count: int = 0
    removed_count: int = 0


class Simulation:
    """
    Publishes the positions of all vehicles of a network, at a fixed rate.

    Args:
        rate: Positions a second of each vehicle.
        time_lapse: How many seconds of the timetable pass in one second.
        publish: `publish_many`, or a function that a test passes instead.
    """

    def __init__(
        self,
        network: Network,
        *,
        rate: float = 1.0,
        time_lapse: float = 1.0,
        publish: Callable[[Sequence[Item]], Any] = publish_many,
        pause: Callable[[float], Any] = time.sleep,
    ) -> None:
        self.totals = Totals()
        self._network = network
        self._step_seconds = 1.0 / rate
        self._time_lapse = time_lapse
        self._publish = publish
        # Waits for this many seconds, or less: then `has_ended()` may have become true.
        self._pause = pause
        self._batches = list(_batches(network.feeds))
        # The newest position of each vehicle, and when it was published.
        self._published: dict[Vehicle, tuple[dict[str, Any], float]] = {}

    def run(self, *, seconds: float | None = None, has_ended: Callable[[], bool] = lambda: False) -> None:
        """
        Publish until `seconds` have passed, or `has_ended()` is true; it is asked before each batch, and each second.

        Raises:
            SnapshotFull, PublicationRefused: The topic does not accept the vehicles.
        """
        began = time.monotonic()
        pause = self._step_seconds / len(self._batches)
        due = began

        def is_over() -> bool:
            return has_ended() or (seconds is not None and time.monotonic() - began >= seconds)

        for batch in itertools.cycle(self._batches):
            if (late := time.monotonic() - due) > self._step_seconds:
                # It cannot keep the pace: it goes on from now, without trying to catch up.
                self.totals.late_count += 1
                due += late
            while not (has_to_end := is_over()) and (wait := due - time.monotonic()) > 0:
                self._pause(min(wait, ASK_SECONDS))
            if has_to_end:
                return
            self._publish_batch(batch)
            due += pause

    def _publish_batch(self, batch: Sequence[tuple[str, Vehicle]]) -> None:
        now = time.time()
        items = [item for topic, vehicle in batch if (item := self._changed(topic, vehicle, now)) is not None]
        self.totals.unchanged_count += len(batch) - len(items)
        if not items:
            return
        try:
            self._publish(items)
        except Unavailable:
            # The next position replaces this one.
            self.totals.failed_count += 1
            self._pause(RETRY_SECONDS)
        else:
            self.totals.published_count += len(items)

    def _changed(self, topic: str, vehicle: Vehicle, now: float) -> Item | None:
        state = vehicle.state(now * self._time_lapse)
        last = self._published.get(vehicle)
        if last is not None and last[0] == state and now - last[1] < STANDING_SECONDS:
            return None
        self._published[vehicle] = (state, now)
        # With the time, so that the page can show how old a position is.
        return _item(topic, vehicle, {**state, "at": int(now * 1000)})

    def remove(self) -> None:
        """Remove all published vehicles from the map."""
        gone = (
            Item(topic, None, key=vehicle.key, removed=True)
            for batch in self._batches
            for topic, vehicle in batch
            if vehicle in self._published
        )
        for items in itertools.batched(gone, REMOVALS_AT_A_TIME):
            self._publish(items)
            self.totals.removed_count += len(items)
        self._published.clear()


def _item(topic: str, vehicle: Vehicle, state: dict[str, Any]) -> Item:
    """The data is for the page. The rest is for the server, which never looks into the data."""
    mode = state["mode"]
    return Item(
        topic,
        state,
        key=vehicle.key,
        at=(state["lon"], state["lat"]),
        tags={"mode": mode, "delay": state["delay"]},
        level=MODES[mode].level,
    )


def _batches(feeds: Iterable[Feed]) -> Iterator[list[tuple[str, Vehicle]]]:
    """Batches of whole feeds, each with about the same number of vehicles."""
    feeds = list(feeds)
    size = max(1, sum(len(feed.vehicles) for feed in feeds) // BATCHES_A_STEP)
    batch: list[tuple[str, Vehicle]] = []
    for feed in feeds:
        batch += [(f"vehicles.{feed.slug}", vehicle) for vehicle in feed.vehicles]
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch
