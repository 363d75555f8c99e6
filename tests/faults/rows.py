"""
The rows of the fault matrix: what fails, when, and how often.

Owns the schedules. Moments are shares of the load that are done, drawn from the row's seed. Does not own running a row
(running) nor what must hold after it (equation).
"""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.faults.load import Load
from tests.faults.site import TIMEOUT_SECONDS, Site
from tests.support.waiting import wait_until_sync

__all__ = ["ROWS", "Row", "Stage"]

OUTAGE_SECONDS = 10.0
PHASE_SECONDS = 2.5
HOUR_SECONDS = 3600.0
SECONDS = 60.0
ROUNDS = 3
DELETION_ROUNDS = 6
RELAYS = ("relay", "relay", "bot")
BOTS = ("relay", "bot", "bot")
ONE_BOT = ("relay", "bot")
# Each returns whether it has deleted it.
DELETED: tuple[Callable[[Site], bool], ...] = (
    lambda site: site.delete_in_use("relay"),
    lambda site: site.delete_in_use("bot"),
    lambda site: site.delete_in_use("relay", what="stream"),
    lambda site: site.delete_in_use("relay", what="owners"),
    lambda site: site.delete_in_use("bot", what="owners"),
)
DURING = "a bot killed during the call, or before our record of the answer: nobody knows whether it was taken"
TIMEOUT = "the receiver takes it and answers after the timeout"


@dataclass(frozen=True, slots=True)
class Stage:
    """What a fault acts on, and its chance."""

    site: Site
    load: Load
    chance: random.Random

    def moments(self, count: int) -> "list[float]":
        """Shares of the load, in order, spread over most of it."""
        width = 0.75 / count
        return [0.08 + width * (number + self.chance.random()) for number in range(count)]

    def pause(self, least: float, most: float) -> None:
        """As the schedule has it."""
        time.sleep(self.chance.uniform(least, most))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    One fault.

    Attributes:
        workers: As in Site.
        settings: Likewise.
        timeout_seconds: Likewise.
        deaths, burst: As in Load.
        may_repeat: Why the receiver may be asked twice under one effect key; empty if it may not.
        may_fail: Whether the receiver refuses some for good; elsewhere all must be delivered.
        may_reorder: Whether clients may hear something after what was written later; elsewhere each hears its
            notifications in the order of writing.
    """

    title: str
    fault: Callable[[Stage], None]
    workers: tuple[str, ...] = ("", "")
    settings: Mapping[str, Any] = field(default_factory=dict)
    timeout_seconds: float = TIMEOUT_SECONDS
    deaths: int = 0
    burst: int = 1
    may_repeat: str = ""
    may_fail: bool = False
    may_reorder: bool = False


def _nothing(stage: Stage) -> None:
    """To compare with."""


def _kill_relay(stage: Stage) -> None:
    for moment in stage.moments(ROUNDS):
        stage.load.wait(moment)
        name = stage.chance.choice(["worker1", "worker2"])
        stage.site.kill(name)
        stage.pause(0, 0.5)
        stage.site.start(name)
        stage.site.wait_ready(name)


def _kill_bot_itself(moment: str) -> Callable[[Stage], None]:
    def fault(stage: Stage) -> None:
        stage.load.wait(stage.moments(ROUNDS)[0])
        dies = [f"{moment}:{stage.chance.randint(1, 20)}" for _ in range(ROUNDS)]
        stage.site.end("worker2")
        for die in dies:
            stage.site.start("worker2", DIE=die)
            stage.site.wait_dead("worker2")
        stage.site.start("worker2")
        stage.site.wait_ready("worker2")

    return fault


def _kill_bots_during(stage: Stage) -> None:
    receiver = stage.site.receiver
    for moment in stage.moments(ROUNDS):
        stage.load.wait(moment)
        held_before = receiver.held_count
        with receiver.holding():
            wait_until_sync(lambda: receiver.held_count > held_before, seconds=SECONDS)  # noqa: B023 - ends here
            stage.site.kill("worker2", "worker3")
        for name in ("worker2", "worker3"):
            stage.site.start(name)
        for name in ("worker2", "worker3"):
            stage.site.wait_ready(name)


def _pause_bot(stage: Stage) -> None:
    stage.load.wait(stage.moments(1)[0])
    name = stage.chance.choice(["worker2", "worker3"])
    stage.site.pause(name)
    try:
        time.sleep(OUTAGE_SECONDS)
    finally:
        stage.site.resume(name)


def _kill_web(stage: Stage) -> None:
    for moment in stage.moments(ROUNDS):
        stage.load.wait(moment)
        stage.site.kill("web")
        stage.pause(0, 1)
        stage.site.start("web")
        stage.site.wait_ready("web")


def _restart_redis(stage: Stage) -> None:
    for moment in stage.moments(ROUNDS):
        stage.load.wait(moment)
        stage.site.redis.kill()
        stage.pause(0, 1)
        stage.site.redis.start()


def _outages_between_calls(stage: Stage) -> None:
    """Each lasts for a call or two, so that some are left in the outbox and the next ones find Redis there again."""
    for moment in stage.moments(3 * ROUNDS):
        stage.load.wait(moment)
        stage.site.redis.kill()
        done_count = stage.load.done_count
        wait_until_sync(lambda: stage.load.done_count > done_count, seconds=SECONDS)  # noqa: B023 - ends here
        stage.site.redis.start()


def _wipe_redis(stage: Stage) -> None:
    for moment in stage.moments(2):
        stage.load.wait(moment)
        stage.site.wipe_redis()


def _delete_streams(stage: Stage) -> None:
    """Each while a worker has entries of it in its hands, and again while they read what is made again."""
    deletions = [kind for _ in range(DELETION_ROUNDS) for kind in DELETED]
    with stage.site.receiver.failing(delay_seconds=0.05):
        for delete, moment in zip(deletions, stage.moments(len(deletions)), strict=True):
            stage.load.wait(moment)
            for _ in range(ROUNDS):
                stage.pause(0, 0.03)
                wait_until_sync(partial(delete, stage.site), seconds=SECONDS)


def _pause_redis(stage: Stage) -> None:
    stage.load.wait(stage.moments(1)[0])
    stage.site.redis.pause()
    try:
        time.sleep(OUTAGE_SECONDS)
    finally:
        stage.site.redis.resume()


def _kill_subscriptions(stage: Stage) -> None:
    stage.load.wait(0.1)
    with stage.site.redis_client() as client:
        for _ in range(40):
            client.client_kill_filter(_type="pubsub")
            stage.pause(0.02, 0.2)


def _take_database_away(stage: Stage) -> None:
    stage.load.wait(stage.moments(1)[0])
    stage.site.database.be_away(OUTAGE_SECONDS)


def _jump(sign: int) -> Callable[[Stage], None]:
    def fault(stage: Stage) -> None:
        stage.load.wait(stage.moments(1)[0])
        name = stage.chance.choice(stage.site.worker_names)
        stage.site.jump(name, sign * stage.chance.uniform(0.1, 2) * HOUR_SECONDS)

    return fault


def _break_receiver(stage: Stage) -> None:
    receiver = stage.site.receiver
    stage.load.wait(0.1)
    with receiver.refusing_every(7):
        stage.pause(1, 2)
    with receiver.failing(delay_seconds=TIMEOUT_SECONDS + 0.5):
        time.sleep(TIMEOUT_SECONDS + PHASE_SECONDS)
    with receiver.away():
        time.sleep(PHASE_SECONDS)
    with receiver.failing(status=500):
        time.sleep(PHASE_SECONDS)


def _kill_two_of_three(stage: Stage) -> None:
    stage.load.wait(stage.moments(1)[0])
    stage.site.kill(*stage.chance.sample(stage.site.worker_names, 2))


def _deploy(stage: Stage) -> None:
    names = ["web", *stage.site.worker_names, "publisher"]
    stage.chance.shuffle(names)
    for name, moment in zip(names, stage.moments(len(names)), strict=True):
        stage.load.wait(moment)
        if name == "publisher":
            stage.load.deploy()
        else:
            stage.site.deploy(name)


def _one_after_another(stage: Stage) -> None:
    worker_dies, redis_dies, web_dies = stage.moments(3)
    stage.load.wait(worker_dies)
    stage.site.kill("worker2")
    stage.load.wait(redis_dies)
    stage.site.wipe_redis()
    stage.site.start("worker2")
    stage.load.wait(web_dies)
    stage.site.kill("web")
    stage.site.start("web")
    stage.site.wait_ready("web")
    stage.site.wait_ready("worker2")


ROWS = {
    "calm": Row(title="nothing fails", fault=_nothing),
    "relay": Row(title="SIGKILL of a relay, three times", fault=_kill_relay, workers=RELAYS),
    "bot-before": Row(
        title="SIGKILL of the bot before it calls the provider, three times",
        fault=_kill_bot_itself("before"),
        workers=ONE_BOT,
        # One call at a time, so that no other one is under way.
        settings={"BOT_CONCURRENCY": 1},
    ),
    "bot-during": Row(
        title="SIGKILL of both bots during their calls, three times",
        fault=_kill_bots_during,
        workers=BOTS,
        may_repeat=DURING,
    ),
    "bot-after": Row(
        title="SIGKILL of the bot between the provider's answer and our record, three times",
        fault=_kill_bot_itself("after"),
        workers=ONE_BOT,
        may_repeat=DURING,
    ),
    "bot-paused": Row(
        title="a bot stands still for 10 s, and others take its entries meanwhile",
        fault=_pause_bot,
        workers=BOTS,
        # Longer than the standstill: its claims hold, and its calls have not failed when it goes on.
        settings={"DELIVERY_CLAIM_SECONDS": 40},
        timeout_seconds=20,
    ),
    "web": Row(title="SIGKILL of the web server, three times", fault=_kill_web),
    "publisher": Row(
        title="SIGKILL of the publishing process between commit and publishing, three times",
        fault=_nothing,
        deaths=ROUNDS,
    ),
    "redis-restarted": Row(title="Redis killed and restarted with its data, three times", fault=_restart_redis),
    "outbox-order": Row(
        title="Redis unavailable for a call or two, nine times, and SIGKILL of the publishing process, three times",
        fault=_outages_between_calls,
        # Each call tries Redis, so that none after the outage is left to the sweep as a matter of course.
        settings={"OUTBOX_PAUSE_SECONDS": 0.0},
        deaths=ROUNDS,
    ),
    "redis-wiped": Row(title="Redis killed and restarted without its data, twice", fault=_wipe_redis, may_reorder=True),
    "stream-deleted": Row(
        title="the stream, its groups, and the records of which worker has which user deleted, 18 times each",
        fault=_delete_streams,
        # As much as possible waits behind something else.
        burst=12,
        may_reorder=True,
    ),
    "redis-paused": Row(title="Redis paused for 10 s", fault=_pause_redis),
    "pubsub": Row(title="pub/sub connections killed, 40 times in 4 s", fault=_kill_subscriptions),
    "database": Row(
        title="database unreachable for 10 s",
        fault=_take_database_away,
        # Longer than the outage, as it is by default: see the page.
        settings={"DELIVERY_CLAIM_SECONDS": 20},
    ),
    # With something left in the outbox, which is swept by the clock.
    "clock-ahead": Row(title="the clock of one worker jumps ahead", fault=_jump(1), deaths=ROUNDS),
    "clock-behind": Row(title="the clock of one worker jumps back", fault=_jump(-1), deaths=ROUNDS),
    "receiver": Row(
        title="the receiver refuses some for good, is slow, unavailable, answers 500, recovers",
        fault=_break_receiver,
        may_repeat=TIMEOUT,
        may_fail=True,
    ),
    "two-of-three": Row(
        title="two of three workers killed at once, for good",
        fault=_kill_two_of_three,
        workers=("", "", ""),
        may_repeat=DURING,
    ),
    "deploy": Row(title="SIGTERM to each process in turn", fault=_deploy, workers=BOTS),
    "mixed": Row(
        title="SIGKILL of a worker, Redis wiped, SIGKILL of the web server and of the publishing process",
        fault=_one_after_another,
        deaths=1,
        may_repeat=DURING,
        may_reorder=True,
    ),
}
