"""The hot paths whose instructions `benchmarks.versions` counts: each does what it says, as often as it says."""

import pytest
import redis

from benchmarks import versions
from benchmarks.hot_paths import __main__ as hot_paths
from benchmarks.hot_paths.__main__ import PATHS, prepare
from benchmarks.hot_paths.tasks import nothing
from benchmarks.queues import signalbox_queue
from notifications.models import Delivery, Notification
from realtime.redis.keys import Keys
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


def test_running_tasks(growth: Growth) -> None:
    assert nothing.func() is None
    PATHS["tasks"](30)
    assert growth.of("tasks.successful") == {("tasks.successful", "default"): 30}
