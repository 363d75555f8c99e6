"""
The dashboard after a load of known counts, with a worker and the web process killed in between: every figure is right.

Figures from rows are exact whenever the processes are killed. Counters of processes are exact if these had a second to
push; otherwise they lack what a killed process had not pushed, and never have anything twice.
"""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faults.clients import Client
from tests.faults.site import KEYS, SECONDS, Site
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent, pytest.mark.timeout(900)]

# Of these, the receiver refuses every fifth notification for good.
CALLS = 60
REFUSED_EVERY = 5
KILLED = ("worker1", "web")
BAD_REQUESTS = (b"no json", b"[]", b'{"user_id": 1}', b'{"user_id": 1, "message": 5}')
PUBLISH = """
import json, sys
import django
django.setup()
from django.contrib.auth.models import User
from notifications.services import notify
users = list(User.objects.filter(pk__in=json.loads(sys.argv[2])).order_by("pk"))
for number in range(int(sys.argv[1])):
    kind = "news" if number % 3 else "order.shipped"
    notify(users[: 1 + number % 3], f"number {number}", kind=kind)
"""
MARK = """
import json, sys
import django
django.setup()
from notifications.models import Notification
from notifications.services import mark_read, mark_seen
user = int(sys.argv[1])
mark_read(user, Notification.objects.filter(recipient=user).order_by("pk").values_list("pk", flat=True)[:10])
mark_seen(user)
"""
READ = """
import json
from dataclasses import asdict
import django
django.setup()
from notifications.statistics import read_dashboard
read = {period: asdict(read_dashboard(period)) for period in ("hour", "day", "month")}
for each in read.values():
    each["counters"]["by_label"] = [
        [metric, *labels, number]
        for metric, numbers in each["counters"]["by_label"].items() for labels, number in numbers.items()
    ]
print(json.dumps(read, default=str))
"""


def recipients_of(calls: int) -> Counter[str]:
    """How many notifications this number of calls makes, by kind."""
    made: Counter[str] = Counter()
    for number in range(calls):
        made["news" if number % 3 else "order.shipped"] += 1 + number % 3
    return made


class World:
    """A site, its clients, and what was asked of it so far."""

    def __init__(self, site: Site, clients: list[Client]) -> None:
        self.site, self.clients = site, clients
        self.users = sorted(site.sessions)[:3]
        # Notifications by kind.
        self.created: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return self.created.total()

    @property
    def refused(self) -> int:
        """Ids are given one after another."""
        return self.total // REFUSED_EVERY

    def start_publishing(self) -> Callable[[], int]:
        """Call notify() CALLS times in a process; returns what waits for its end."""
        self.created += recipients_of(CALLS)
        process = self.site.run("publisher", "-c", PUBLISH, str(CALLS), json.dumps(self.users))
        return lambda: process.wait(SECONDS)

    async def settle(self) -> None:
        """
        Wait until the receiver has taken or refused every notification, and the clients have all of them.

        The rows say so too: a delivery that a killed worker had claimed is recorded when its claim is over.
        """

        def is_done() -> bool:
            with contextlib.suppress(FileNotFoundError):
                return self._finished_count() == self.total and self.site.is_idle() and self._unrecorded_count() == 0
            return False

        async with asyncio.timeout(SECONDS):
            await wait_until(is_done, seconds=SECONDS)
            await wait_until(lambda: len(set().union(*(each.has for each in self.clients))) == self.total)

    def _finished_count(self) -> int:
        return len(self.site.receiver.effects) + self.refused

    def _unrecorded_count(self) -> int:
        ((count,),) = self.site.database.rows("SELECT COUNT(*) FROM notifications_delivery WHERE finished_at IS NULL")
        return int(count)

    async def read(self) -> Any:
        """The dashboard as JSON, by period."""
        process = await asyncio.to_thread(self.site.run, "reader", "-c", READ)
        assert await asyncio.to_thread(process.wait, SECONDS) == 0, self.site.logs()["reader"]
        line = self.site.logs()["reader"].strip().splitlines()[-1]
        return json.loads(line)

    async def pushed(self, **others: int) -> None:
        """Wait until Redis has the counters of what was asked, and these, over all labels."""
        expected = {
            "hub.delivery_count": self.total,
            "notifications.relayed": self.total,
            "deliveries.sent": self.total - self.refused,
            "deliveries.failed": self.refused,
            **others,
        }
        found: Counter[str] = Counter()

        def has_all() -> bool:
            found.clear()
            with self.site.redis_client() as client:
                for name in client.scan_iter(match=KEYS.statistics_hour(0).replace(":0", ":*")):
                    raw = client.hgetall(name)
                    for field, value in raw.items():
                        if field != b"epoch":
                            found[field.decode().partition("|")[0]] += int(value)
            return all(found[field] == number for field, number in expected.items())

        try:
            await wait_until(has_all, seconds=SECONDS)
        except AssertionError as error:
            error.add_note(f"there are { ({field: found[field] for field in expected}) } of {expected}")
            raise


@pytest.fixture
def site() -> Iterator[Site]:
    # The receiver is in this process: an attempt lasts longer than this process stands still, and a claim lasts longer
    # than an attempt.
    with (
        Site(["", ""], timeout_seconds=8.0, DELIVERY_CLAIM_SECONDS=16) as site,
        site.receiver.refusing_every(REFUSED_EVERY),
    ):
        yield site


def check_rows(world: World, figures: Any, *, seen: int, read: int) -> None:
    """The figures from rows of each period, which all have everything."""
    sent, total = world.total - world.refused, world.total
    for period in figures.values():
        rows = period["rows"]
        assert rows["is_complete"]
        assert rows["funnel"] == {
            "created": total,
            "published": total,
            "relayed": total,
            "seen": seen,
            "read": read,
        }
        assert {each["kind"]: each["funnel"]["created"] for each in rows["kinds"]} == world.created
        (webhook,) = [each for each in rows["transports"] if each["transport"] == "webhook"]
        assert (webhook["sent"], webhook["failed"], webhook["unfinished"]) == (sent, world.refused, 0)
        assert sum(point["funnel"]["created"] for point in rows["points"]) == total
        found = {each["name"]: each for each in period["balances"]}
        assert found["browsers"] == {
            "name": "browsers",
            "accepted": total,
            "delivered": total,
            "failed": 0,
            "skipped": 0,
            "in_progress": 0,
        }
        assert found["webhook"]["accepted"] == total
        assert found["webhook"]["delivered"] + found["webhook"]["failed"] == total
        assert period["outbox"] == period["scheduled"] == 0
        for group in period["groups"]:
            assert (group["lag"], group["pending"], group["delayed"], group["dead"]) == (0, 0, 0, 0)


async def test_after_kills_every_figure_equals_what_was_asked(site: Site) -> None:
    """First they are killed when all is pushed, then in the middle of the load."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(Client(site.address, user, site.sessions[user]))
            for user in sorted(site.sessions)[:3]
        ]
        world = World(site, clients)
        first = world.users[0]

        # Killed when everything is pushed.
        for request in BAD_REQUESTS:
            await _request(site, request)
        await _request(site, b'{"user_id": %d, "message": "from elsewhere", "kind": "alarm"}' % first)
        world.created["alarm"] += 1
        await asyncio.to_thread(world.start_publishing())
        await world.settle()
        await world.pushed(**{"clients.opened_count": 3})
        site.kill(*KILLED)
        for name in KILLED:
            site.start(name)
            site.wait_ready(name)
        # What comes before they have resumed would not be written by the hub's loop over sockets.
        await world.pushed(**{"hub.resumed_count": 3})
        await asyncio.to_thread(world.start_publishing())
        await world.settle()
        marking = site.run("marker", "-c", MARK, str(first))
        assert await asyncio.to_thread(marking.wait, SECONDS) == 0
        of_first = len(clients[0].has)
        await world.pushed()
        figures = await world.read()
        check_rows(world, figures, seen=of_first, read=10)
        for period in figures.values():
            _check_counters(world, period["counters"], of_first)

        # Killed in the middle.
        before = site.receiver.request_count
        ended = world.start_publishing()
        await wait_until(lambda: site.receiver.request_count > before + 20, seconds=SECONDS)
        site.kill(*KILLED)
        for name in KILLED:
            site.start(name)
        await asyncio.to_thread(ended)
        for name in KILLED:
            site.wait_ready(name)
        await world.settle()
        figures = await world.read()
        check_rows(world, figures, seen=of_first, read=10)
        for period in figures.values():
            totals = period["counters"]["totals"]
            assert totals["notifications.created"] == totals["notifications.published"] == world.total
            for metric in ("notifications.relayed", "deliveries.sent"):
                assert totals[metric] <= world.total


async def _request(site: Site, body: bytes) -> None:
    """Publish as another program, to whichever relay listens."""

    def is_heard() -> bool:
        with site.redis_client() as client:
            return bool(client.publish(KEYS.ingress_channel(), body))

    await wait_until(is_heard, seconds=SECONDS)


def _check_counters(world: World, counters: Any, of_first: int) -> None:
    totals = counters["totals"]
    sent = world.total - world.refused
    expected = {
        "notifications.created": world.total,
        "notifications.published": world.total,
        "notifications.relayed": world.total,
        "notifications.seen": of_first - 10,
        "notifications.read": 10,
        "deliveries.sent": sent,
        "deliveries.failed": world.refused,
        "hub.delivery_count": world.total,
        "hub.publication_count": world.total,
        "hub.resumed_count": 3,
        "clients.opened_count": 6,
    }
    assert {metric: totals.get(metric, 0) for metric in expected} == expected
    # The live numbers of the dashboard are publications too.
    assert totals["publications.published"] >= world.total
    for metric in ("deliveries.retried", "hub.unresumed_count", "hub.slow_count", "hub.unrecovered_count"):
        assert totals.get(metric, 0) == 0, metric
    by_label = {tuple(labels): number for *labels, number in counters["by_label"]}
    for kind, number in world.created.items():
        for what in ("created", "published", "relayed"):
            assert by_label[f"notifications.{what}", kind] == number
    for group in ("relay", "bot"):
        # More than that if the sweep has put a delivery on the stream again, because the machine was slow.
        assert by_label["workers.handled_count", group] >= world.total
    refused = sum(
        number for key, number in by_label.items() if key[:2] == ("others.totals", "ingress") and "refused" in key[2]
    )
    assert refused == len(BAD_REQUESTS)
    assert by_label["others.totals", "ingress", "accepted"] == 1
    latencies = {each["name"]: each for each in counters["latencies"]}
    assert latencies["relay"]["count"] == world.total
    assert latencies["transport webhook"]["count"] == sent
    assert 1 <= latencies["socket"]["count"] <= world.total
    alive = Counter(each["role"] for each in counters["processes"] if each["is_alive"])
    assert alive == {"web": 1, "relay and bot": 2}
