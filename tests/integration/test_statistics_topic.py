"""The live numbers of the dashboard: who gets them, and what they are."""

import datetime
import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.contrib.auth.models import AnonymousUser, Permission, User

from notifications import services
from notifications.statistics.live import publish_live
from notifications.topics import StatisticsTopic
from realtime import conf
from realtime.topics import resolve
from tests.integration.hearing import Ear
from tests.support.domain import make_users
from tests.support.redis_server import RedisServer

TOPIC = "signalbox.statistics"


@pytest.fixture
def ear(signalbox: Any, redis_client: redis.Redis) -> Iterator[Ear]:
    ear = Ear(redis_client, TOPIC)
    yield ear
    ear.close()


def person(name: str, *, may_view: bool = True, **attributes: bool) -> User:
    user = User.objects.create_user(name, **attributes)
    if may_view:
        user.user_permissions.add(Permission.objects.get(codename="view_event"))
    return user


@pytest.mark.django_db
def test_only_active_staff_who_may_view_events_may_subscribe() -> None:
    """They are asked again while they are connected."""
    match = resolve(TOPIC)
    assert match is not None and match.family is StatisticsTopic
    assert StatisticsTopic.is_rechecked
    may = StatisticsTopic().may_subscribe
    assert may(person("viewer", is_staff=True))
    assert may(User.objects.create_superuser("root"))
    assert not may(person("customer"))
    assert not may(person("colleague", may_view=False, is_staff=True))
    assert not may(person("former", is_staff=True, is_active=False))
    assert not may(AnonymousUser())


@pytest.mark.django_db(transaction=True)
def test_a_tick_has_what_waits_at_this_moment(ear: Ear) -> None:
    """Entries are counted once for each group."""
    services.notify(make_users(3), "Your order is on its way!")
    assert publish_live() is True
    (heard,) = ear.hear()
    data = json.loads(heard.frame)["data"]
    at = datetime.datetime.fromisoformat(data.pop("at"))
    assert abs(datetime.datetime.now(datetime.UTC) - at) < datetime.timedelta(minutes=1)
    assert data == {"outbox": 0, "lag": 6, "pending": 0, "delayed": 0}


@pytest.mark.django_db
def test_without_redis_there_is_no_tick(signalbox: Any) -> None:
    """That is no error for its caller, and nothing is kept for later."""
    with RedisServer() as server:
        signalbox.REALTIME = {**signalbox.REALTIME, "REDIS_URL": server.url}
        server.kill()
        assert publish_live() is False
        conf.sync_redis().close()
