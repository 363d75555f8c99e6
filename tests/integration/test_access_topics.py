"""A subscription ends when its permission is lost, and the connection goes on."""

import asyncio
import logging
from typing import Any

import pytest
from channels.db import database_sync_to_async as in_thread
from django.contrib.auth.models import Group, Permission, User
from django.db import OperationalError

from realtime import access, topics
from realtime.publisher import apublish
from realtime.statistics import collect
from realtime.topics import Topic
from tests.integration.clients import Client, Connect
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

TOPIC = "test.depot.bern"
NEVER_SECONDS = 3_600.0
SOON_SECONDS = 0.2


@pytest.fixture(autouse=True)
def depots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Topics for users who may change users, or are in the group with the depot's name."""
    monkeypatch.setattr(topics, "_families", list(topics._families))
    topics._resolve.cache_clear()

    class Depot(Topic):
        pattern = "test.depot.<slug:name>"

        def may_subscribe(self, user: Any, **parameters: Any) -> bool:
            return bool(user.has_perm("auth.change_user") or user.groups.filter(name=parameters["name"]).exists())


@pytest.fixture
def recheck(signalbox: Any, request: pytest.FixtureRequest) -> None:
    signalbox.REALTIME = {**signalbox.REALTIME, "RECHECK_SECONDS": request.param}


async def hearing(connect: Connect, user: User) -> Client:
    client = await connect(user)
    await client.greeted()
    answer = await client.answer(type="subscribe", topic=TOPIC)
    assert answer["type"] == "subscribed", answer
    return client


# The client is told once and gets nothing of the topic any more, while the connection goes on.
LOST = [("unsubscribed", "forbidden"), ("pong", None), ("error", "forbidden")]


async def course(client: Client) -> list[tuple[str, str | None]]:
    """What the client is told: first by itself, then when it pings after a publication, then when it asks again."""
    said = [await client.object()]
    await apublish(TOPIC, "secret")
    said += [await client.answer(type="ping"), await client.answer(type="subscribe", topic=TOPIC)]
    assert {each["topic"] for each in said if each["type"] != "pong"} == {TOPIC}
    return [(each["type"], each.get("code")) for each in said]


def _leave_group(user: User, group: Group) -> None:
    user.groups.remove(group)


def _empty_group(user: User, group: Group) -> None:
    group.user_set.clear()


def _is_removed_by_group(user: User, group: Group) -> None:
    group.user_set.remove(user)


@pytest.mark.parametrize("recheck", [NEVER_SECONDS], indirect=True)
@pytest.mark.parametrize("change", [_leave_group, _empty_group, _is_removed_by_group])
async def test_who_leaves_a_group_loses_its_topics_at_once(
    recheck: None, connect: Connect, alice: User, bob: User, change: Any
) -> None:
    """The user who is still in the group keeps the subscription."""
    group = await Group.objects.acreate(name="bern")
    await alice.groups.aadd(group)
    bob.is_superuser = True
    await bob.asave()
    hers, his = await hearing(connect, alice), await hearing(connect, bob)
    await in_thread(change)(alice, group)
    assert await course(hers) == LOST
    assert (await his.object())["data"] == "secret"


@pytest.mark.parametrize("recheck", [NEVER_SECONDS], indirect=True)
@pytest.mark.parametrize("way", ["own", "group", "superuser"])
async def test_a_permission_that_is_taken_away_is_noticed_at_once(
    recheck: None, connect: Connect, alice: User, way: str
) -> None:
    """The hook gets the account as it is now, and not what it cached about itself before."""
    permission = await Permission.objects.aget(codename="change_user")
    group = await Group.objects.acreate(name="staff")
    if way == "own":
        await alice.user_permissions.aadd(permission)
    elif way == "group":
        await alice.groups.aadd(group)
        await group.permissions.aadd(permission)
    else:
        await User.objects.filter(pk=alice.pk).aupdate(is_superuser=True)
    client = await hearing(connect, alice)
    if way == "own":
        await alice.user_permissions.aclear()
    elif way == "group":
        await group.permissions.aremove(permission)
    else:
        alice.is_superuser = False
        await alice.asave()
    assert await course(client) == LOST


@pytest.mark.parametrize("recheck", [SOON_SECONDS], indirect=True)
async def test_a_permission_that_is_lost_without_a_signal_is_found(
    recheck: None, connect: Connect, alice: User
) -> None:
    """By the recheck."""
    group = await Group.objects.acreate(name="bern")
    await alice.groups.aadd(group)
    client = await hearing(connect, alice)
    await User.groups.through.objects.all().adelete()
    assert await course(client) == LOST


@pytest.mark.parametrize("recheck", [NEVER_SECONDS], indirect=True)
async def test_a_project_says_that_its_own_permissions_have_changed(
    recheck: None, connect: Connect, alice: User, bob: User
) -> None:
    """Of one user, or of everybody."""
    group = await Group.objects.acreate(name="bern")
    await group.user_set.aadd(alice, bob)
    hers, his = await hearing(connect, alice), await hearing(connect, bob)
    await User.groups.through.objects.filter(user=alice).adelete()
    await in_thread(access.permissions_changed)(alice.pk)
    assert await course(hers) == LOST
    assert (await his.object())["data"] == "secret"
    await User.groups.through.objects.all().adelete()
    await in_thread(access.permissions_changed)()
    assert await course(his) == LOST


@pytest.mark.parametrize("recheck", [SOON_SECONDS], indirect=True)
async def test_what_is_granted_later_is_not_refused_for_ever(recheck: None, connect: Connect, alice: User) -> None:
    """A connection that was refused a topic may ask again."""
    await Group.objects.acreate(name="bern")
    client = await connect(alice)
    await client.greeted()
    assert (await client.answer(type="subscribe", topic=TOPIC))["code"] == "forbidden"
    await alice.groups.aadd(await Group.objects.aget(name="bern"))

    async def is_granted() -> bool:
        answer = await client.answer(type="subscribe", topic=TOPIC)
        await asyncio.sleep(SOON_SECONDS)
        return bool(answer["type"] == "subscribed")

    await wait_until(is_granted)


@pytest.mark.parametrize("recheck", [SOON_SECONDS], indirect=True)
async def test_a_hook_that_fails_takes_the_topic_away_and_an_outage_does_not(
    recheck: None, connect: Connect, alice: User, caplog: pytest.LogCaptureFixture
) -> None:
    """A hook that raises counts as a lost permission; an unavailable database does not."""
    failure: list[Exception] = []
    asked: list[str] = []

    class Shaky(Topic):
        pattern = "test.shaky"

        async def may_subscribe(self, user: Any, **parameters: Any) -> bool:
            asked.append("")
            if failure:
                raise failure[0]
            return True

    client = await connect(alice)
    await client.greeted()
    assert (await client.answer(type="subscribe", topic="test.shaky"))["type"] == "subscribed"
    failure.append(OperationalError("away"))
    asked.clear()
    await wait_until(lambda: len(asked) > 2)
    assert (await client.answer(type="ping"))["type"] == "pong"
    failure[0] = LookupError("the depot is gone")
    before = collect().clients.revoked_count
    said = await client.object()
    assert (said["type"], said["code"]) == ("unsubscribed", "failed")
    assert "depot" not in said["detail"]
    assert collect().clients.revoked_count == before + 1
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1


@pytest.mark.parametrize("recheck", [SOON_SECONDS], indirect=True)
async def test_a_permission_that_hangs_holds_nobody_else_up(
    recheck: None, connect: Connect, alice: User, bob: User
) -> None:
    """Sessions are still checked; and a topic with `is_rechecked = False` is not asked again."""
    hangs, asked = asyncio.Event(), []

    class Stuck(Topic):
        pattern = "test.stuck"

        async def may_subscribe(self, user: Any, **parameters: Any) -> bool:
            if hangs.is_set():
                await asyncio.Event().wait()
            return True

    class Fixed(Topic):
        pattern = "test.fixed"
        is_rechecked = False

        async def may_subscribe(self, user: Any, **parameters: Any) -> bool:
            asked.append(user)
            return True

    hers, his = await connect(alice), await connect(bob)
    for client in (hers, his):
        await client.greeted()
        for topic in ("test.stuck", "test.fixed"):
            await client.answer(type="subscribe", topic=topic)
    hangs.set()
    await asyncio.sleep(2 * SOON_SECONDS)
    await User.objects.filter(pk=bob.pk).aupdate(is_active=False)
    await his.closed()
    assert len(asked) == 2
