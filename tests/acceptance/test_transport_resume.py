"""Resuming, on real web servers with a real Redis that dies: nothing is lost or doubled without notice."""

import asyncio
import json
import random
from contextlib import AsyncExitStack

import pytest

from realtime.publisher import DATA_LIMIT_BYTES
from tests.acceptance.deployed_site import BOT, WEB, DeployedSite
from tests.acceptance.listeners import Follower, Listener

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent]

FOLLOWERS = 6
HISTORY_SIZE = 100
# Prints the user's notifications from the database.
INBOX = """
from notifications.models import Notification
for message in Notification.objects.filter(recipient_id={user}).values_list("event__message", flat=True):
    print(message)
"""


@pytest.mark.database_independent
async def test_clients_that_are_cut_again_and_again_hear_everything_once(
    site: DeployedSite, sessions: dict[int, str]
) -> None:
    """It reconnects at random times (from a seed) under constant publishing, and gets everything once and in order."""
    topic = "news.cuts"
    start = site.publish(topic, b"0")
    async with AsyncExitStack() as stack:
        followers: list[Follower] = []
        for seed in range(FOLLOWERS):
            schedule = random.Random(seed)  # noqa: S311 - the same schedule in each run
            leave_after = iter(lambda schedule=schedule: schedule.randint(1, 25), None)
            session = list(sessions.values())[seed % len(sessions)]
            followers.append(await stack.enter_async_context(Follower(site, session, topic, leave_after=leave_after)))
        for number in range(1, 241):
            last = site.publish(topic, b"%d" % number)
            await asyncio.sleep(0.008)
        for follower in followers:
            await follower.until(lambda follower=follower: follower.position == (last.offset, last.epoch))
            assert follower.data == list(range(1, 241))
            assert follower.heard == [(start.epoch, start.offset + number) for number in range(1, 241)]
            assert follower.told_count == 0
            assert follower.connection_count > 5


@pytest.mark.database_independent
@pytest.mark.parametrize(
    "data",
    [[b'"%s"' % (b"x" * 4_000)] * 30, [b'"%s"' % (b"x" * (DATA_LIMIT_BYTES - 2))] * 3],
    ids=["thirty of 4 KB", "three of the largest size"],
)
async def test_whatever_was_missed_can_be_sent(site: DeployedSite, sessions: dict[int, str], data: list[bytes]) -> None:
    """Every server sends the frames within its documented limits, all at once and one by one."""
    user, session = next(iter(sessions.items()))
    topic = f"user.{user}"
    before = site.publish(topic, b'"last seen"')
    site.publish(topic, *data)
    path = f"/ws/?offset={before.offset}&epoch={before.epoch}"
    async with Listener(site, session, path=path) as listener:
        assert listener.subscribed["recovered"] is True
        for each in data:
            assert json.dumps((await listener.object())["data"]).encode() == each
        site.publish(topic, data[0])
        assert json.dumps((await listener.object())["data"]).encode() == data[0]


@pytest.mark.database_independent
async def test_who_was_away_for_longer_than_history_reaches_is_told(
    site: DeployedSite, sessions: dict[int, str]
) -> None:
    """If it missed as much as the history holds, it gets all. With one more, `recovered` is false and one is lost."""
    user, session = next(iter(sessions.items()))
    topic = f"user.{user}"
    before = site.publish(topic, b'"last seen"')
    site.publish(topic, *(b"%d" % number for number in range(HISTORY_SIZE)))
    path = f"/ws/?offset={before.offset}&epoch={before.epoch}"
    async with Listener(site, session, path=path) as listener:
        assert listener.subscribed["recovered"] is True
        assert [(await listener.object())["data"] for _ in range(HISTORY_SIZE)] == list(range(HISTORY_SIZE))
    site.publish(topic, b'"one more"')
    async with Listener(site, session, path=path) as listener:
        assert listener.subscribed["recovered"] is False
        assert (listener.subscribed["offset"], listener.subscribed["lost"]) == (before.offset + 1, 1)
        assert [(await listener.object())["data"] for _ in range(HISTORY_SIZE)] == [*range(1, HISTORY_SIZE), "one more"]
        site.publish(topic, b'"live"')
        assert (await listener.object())["data"] == "live"


@pytest.mark.parametrize("with_data", [True, False])
@pytest.mark.parametrize("running_site", ["signalbox", "uvicorn"], indirect=True)
async def test_a_redis_that_dies_under_load_heals_by_itself(
    site: DeployedSite, sessions: dict[int, str], with_data: bool
) -> None:
    """
    Killed with SIGKILL while `notify()` is called fifty times a second, and started again with its data, or without.

    No process of the site is restarted and no connection is lost. With the data, each notification is heard, in the
    order of the offsets. Without, the client is told, and what it has not heard is in the inbox.
    """
    users = list(sessions)[:2]
    processes = site.pid(WEB), site.pid(BOT)
    async with AsyncExitStack() as stack:
        followers = [await stack.enter_async_context(Follower(site, sessions[user], f"user.{user}")) for user in users]
        positions = [follower.position for follower in followers]
        await asyncio.to_thread(site.start_notifying, users, count=100, rate=50)
        for follower in followers:
            await follower.until(lambda follower=follower: len(follower.heard) >= 10)
        await asyncio.to_thread(site.kill_redis)
        await asyncio.to_thread(site.start_redis, with_data=with_data)
        await asyncio.to_thread(site.wait_for_notifying)
        for user, follower, position in zip(users, followers, positions, strict=True):
            await follower.until(lambda follower=follower: "number 99" in _messages(follower))
            numbers = [message.removeprefix("number ") for message in _messages(follower)]
            missing = set(range(100)) - {int(number) for number in numbers}
            if with_data:
                assert missing == set()
                assert follower.told_count == 0
                epoch, offset = position[1], position[0]
                assert follower.heard == [(epoch, offset + n) for n in range(1, len(follower.heard) + 1)]
            else:
                assert follower.told_count >= 1
                assert len({epoch for epoch, _ in follower.heard}) == 2
                inbox = await asyncio.to_thread(site.manage, "shell", "-v0", "-c", INBOX.format(user=user))
                assert {f"number {number}" for number in missing} <= set(inbox.splitlines())
            # Each was published once, so that twice is twice too often.
            assert len(set(numbers)) == len(numbers)
            assert follower.connection_count == 1
    assert (site.pid(WEB), site.pid(BOT)) == processes
    # A client that resumes from an earlier position is told whether it has missed something.
    async with Listener(
        site, sessions[users[0]], path=f"/ws/?offset={positions[0][0]}&epoch={positions[0][1]}"
    ) as listener:
        assert listener.subscribed["recovered"] is (with_data and followers[0].position[0] - positions[0][0] <= 100)
        if not with_data:
            assert listener.subscribed["epoch"] != positions[0][1]


def _messages(follower: Follower) -> list[str]:
    return [each["message"] for each in follower.data]
