"""The hot paths whose instructions `benchmarks.versions` counts: each does what it says, as often as it says."""

import pytest
import redis

from benchmarks import versions
from benchmarks.hot_paths import __main__ as hot_paths
from benchmarks.hot_paths import logs, site
from benchmarks.hot_paths.__main__ import PATHS, prepare
from benchmarks.hot_paths.tasks import nothing
from benchmarks.queues import signalbox_queue
from notifications.models import Delivery, Notification
from realtime.redis.keys import Keys
from realtime.sinks import base
from realtime.statistics import collect
from realtime.streams.keys import GroupKeys
from tests.support.growth import Growth

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]


@pytest.fixture(autouse=True)
def _few_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_paths, "USERS", 120)


def test_each_path_is_counted() -> None:
    assert set(versions.COUNTS) == set(PATHS)


def test_notifying() -> None:
    prepare(0)
    for path in ("notify 1", "notify 100"):
        PATHS[path](3)
    assert Notification.objects.count() == 3 + 300


def test_publishing(growth: Growth) -> None:
    PATHS["publish"](5)
    assert growth.of("publications.published") == {("publications.published",): 5}


def test_delivering() -> None:
    prepare(100)
    PATHS["deliver"](60)
    assert Delivery.objects.filter(state=Delivery.State.SENT).count() == 60


def test_handling(monkeypatch: pytest.MonkeyPatch, key_prefix: str, redis_client: redis.Redis) -> None:
    stream = Keys(key_prefix).stream("notifications")
    monkeypatch.setattr(signalbox_queue, "KEYS", Keys(key_prefix))
    monkeypatch.setattr(signalbox_queue, "STREAM", stream)
    PATHS["handle"](300)
    (group,) = redis_client.xinfo_groups(stream)
    assert (group["entries-read"], group["pending"]) == (300, 0)


@pytest.mark.parametrize(
    ("path", "connections", "publications", "deliveries"),
    [
        ("connect", 1 + 3, 0, 0),
        ("fan-out", site.LISTENERS, 3, 3 * site.LISTENERS),
        ("map", site.VIEWERS, 4 * site.VEHICLES, 3 * site.VEHICLES * site.VIEWERS),
    ],
)
def test_serving(path: str, connections: int, publications: int, deliveries: int, growth: Growth) -> None:
    prepare(0)
    before = collect()
    PATHS[path](3)
    after = collect()
    assert after.clients.opened_count - before.clients.opened_count == connections
    assert sum(growth.of("publications.published").values()) == publications
    delivered = [each.hub.delivery_count + each.views.delivery_count for each in (before, after)]
    assert delivered[1] - delivered[0] == deliveries


def test_logging(key_prefix: str, redis_client: redis.Redis) -> None:
    PATHS["log"](120)
    stream = Keys(key_prefix).stream(logs.LOGGED)
    assert redis_client.xlen(stream) == 120
    redis_client.delete(stream)


def test_writing(monkeypatch: pytest.MonkeyPatch, key_prefix: str, redis_client: redis.Redis) -> None:
    monkeypatch.setattr(base, "_sinks", [])
    PATHS["sink"](300)
    stream = Keys(key_prefix).stream(logs.WRITTEN)
    (group,) = redis_client.xinfo_groups(stream)
    assert (group["entries-read"], group["pending"]) == (300, 0)
    redis_client.delete(stream, GroupKeys(stream, "HotPath").made)


def test_running_tasks(growth: Growth) -> None:
    assert nothing.func() is None
    PATHS["tasks"](30)
    assert growth.of("tasks.successful") == {("tasks.successful", "default"): 30}
