"""
Notices: what staff must know at once, in words, with what to do about it.

Owns what is wrong enough for a notice, and the sentences. Does not own the figures that it judges, nor repairs.
"""

import datetime
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from notifications.statistics.balances import BROWSERS, PLANNING
from notifications.statistics.figures import Balance, Notice, Process, Rows
from realtime.redis.connection_checks import answer_parsed
from realtime.streams.status import GroupStatus

__all__ = ["Facts", "Progress", "RedisMemory", "find_notices", "read_memory"]

# A group is stuck if it has finished nothing for this long although it has work and workers. It is longer than an
# attempt may take, and longer than the lease after which the work of a dead worker goes to others.
STUCK_SECONDS = 120.0
# If processes of run_bot_subscriber were seen before, but none within this time, a notice says so.
UNSEEN_SECONDS = 60.0
# A transport is in trouble if at least this many deliveries, and this share of those that have ended, have failed.
FAILED_LEAST = 5
FAILED_SHARE = 0.5
# What is missing while a group has no workers.
_WORK = {"relay": "browsers get no notifications", "bot": "no mail, chat message or webhook is sent"}
_LOGS = "look at the logs of `manage.py run_bot_subscriber`"
_WHY = "The provider's answers say why: staff who may view deliveries find them in the section Errors."


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisMemory:
    """What Redis does when its memory is full, and what it has done."""

    # "noeviction", "allkeys-lru", …; "" if Redis does not say.
    policy: str
    # 0: no limit.
    limit_bytes: int
    # Keys that were removed since Redis started because its memory was full.
    evicted_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the notices are made from."""

    now: datetime.datetime
    # "" if Redis is available. If it was not when they were read, the groups are empty.
    redis_error: str
    memory: RedisMemory | None
    groups: Sequence[GroupStatus]
    # Group → for how long it has finished nothing although it has work and workers. See `Progress`.
    standstill_seconds: Mapping[str, float]
    rows: Rows
    balances: Sequence[Balance]
    # Transport → at least how many of its deliveries have failed and wait for another attempt.
    retrying: Mapping[str, int]
    processes: Sequence[Process]
    # Events that the sweep should have published, or released.
    outbox_overdue: int
    scheduled_overdue: int


class Progress:
    """
    Remembers how long each group has finished nothing, as this process saw it. Thread-safe.

    One look cannot tell a stuck group from a busy one. But the dashboard is read again and again while somebody looks
    at it, so what it sees can be compared with what it saw before.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Group → the figures that change with progress, and since when they are these.
        self._seen: dict[str, tuple[tuple[int | None, ...], datetime.datetime]] = {}

    def observe(self, groups: Sequence[GroupStatus], now: datetime.datetime) -> dict[str, float]:
        """
        Group → for how many seconds it has finished nothing although it has work and workers. Others are left out.

        Args:
            groups: Their present state.
            now: When that was read; aware.
        """
        found: dict[str, float] = {}
        with self._lock:
            for group in groups:
                mark = (group.finished, group.dead, group.delayed)
                # If the server does not count what is finished, nothing can be said.
                has_work = group.finished is not None and group.workers and (group.lag or group.pending)
                seen, since = self._seen.get(group.name, (None, now))
                if not has_work or seen != mark or since > now:
                    self._seen[group.name] = (mark, now)
                else:
                    found[group.name] = (now - since).total_seconds()
        return found


def find_notices(facts: Facts) -> tuple[Notice, ...]:
    """Everything that is wrong, the most urgent first."""
    found = [
        *_about_redis(facts),
        *_about_groups(facts),
        *_about_processes(facts),
        *_about_transports(facts),
        *_about_events(facts),
        *_about_figures(facts),
    ]
    return tuple(sorted(found, key=lambda notice: not notice.is_urgent))


@answer_parsed("INFO")
def read_memory(client: redis.Redis) -> RedisMemory:
    """Read what Redis does when its memory is full. Raises redis.RedisError."""
    # Not CONFIG GET: hosted servers forbid it.
    info: Any = client.info("memory") | client.info("stats")
    return RedisMemory(
        policy=str(info.get("maxmemory_policy", "")),
        limit_bytes=int(info.get("maxmemory", 0)),
        evicted_count=int(info.get("evicted_keys", 0)),
    )


def _about_redis(facts: Facts) -> Iterator[Notice]:
    # Some texts of redis-py end with a full stop.
    if reason := facts.redis_error.rstrip("."):
        yield Notice(
            key="redis_unavailable",
            what=f"Redis is unavailable: {reason}. Notifications are stored, but nothing is sent.",
            advice="Start Redis, or check REDIS_URL. What waits is sent as soon as Redis is available.",
        )
    memory = facts.memory
    if memory is None:
        return
    if memory.evicted_count:
        yield _evicted(memory)
    elif memory.limit_bytes and memory.policy not in ("", "noeviction"):
        yield Notice(
            key="redis_evicts",
            what=f"Redis may remove our keys when its memory is full: its maxmemory-policy is {memory.policy}.",
            advice="Set maxmemory-policy to noeviction, or use another Redis for caches.",
        )


def _evicted(memory: RedisMemory) -> Notice:
    is_over = memory.policy == "noeviction"
    return Notice(
        key="redis_evicted",
        what=f"Redis was out of memory and has removed {_counted(memory.evicted_count, 'key')} since it started.",
        advice=(
            "It removes no more: its maxmemory-policy is noeviction. Lost work is restored by itself. The number stays "
            "until Redis restarts, or until `redis-cli CONFIG RESETSTAT`."
            if is_over
            else "Give Redis more memory and set maxmemory-policy to noeviction. Lost work is restored by itself."
        ),
        is_urgent=not is_over,
    )


def _about_groups(facts: Facts) -> Iterator[Notice]:
    if missing := [group for group in facts.groups if not group.workers]:
        yield _no_consumer(facts, missing)
    for group in facts.groups:
        if group.workers and facts.standstill_seconds.get(group.name, 0.0) >= STUCK_SECONDS:
            minutes = facts.standstill_seconds[group.name] / 60
            count = (group.lag or 0) + group.pending
            yield Notice(
                key="stuck_group",
                about=group.name,
                what=(
                    f"The {group.name} is stuck: {_entries(count)} {'waits' if count == 1 else 'wait'}, and none has "
                    f"been finished for {minutes:.0f} min."
                ),
                advice=f"Restart `manage.py run_bot_subscriber`, and {_LOGS}.",
            )
        elif group.workers and group.standing and (group.oldest_seconds or 0.0) >= STUCK_SECONDS:
            yield Notice(
                key="stuck_group",
                about=group.name,
                what=(
                    f"The {group.name} has {_counted(group.standing, 'stuck key')}: its oldest unfinished entry is "
                    f"{group.oldest} old."
                ),
                advice=f"Workers repair this within a minute. If it stays, {_LOGS}.",
            )
        if group.dead:
            yield Notice(
                key="dead_letters",
                about=group.name,
                what=f"The {group.name} has given up {_entries(group.dead)}.",
                advice="Look at the dead letters. Replay them when their cause is repaired, or purge them.",
            )


def _no_consumer(facts: Facts, missing: Sequence[GroupStatus]) -> Notice:
    """One notice for all groups without workers: usually one process has ended."""
    work = ", and ".join(_WORK.get(group.name, "its work is not done") for group in missing)
    names = " and no ".join(group.name for group in missing)
    sentences = [f"No {names} {'runs' if len(missing) == 1 else 'run'}: {work}."]
    if count := max((group.lag or 0) + group.pending + group.delayed for group in missing):
        sentences.append(f"{_entries(count)} {'waits' if count == 1 else 'wait'}.")
    return Notice(
        key="no_consumer",
        about=" ".join(group.name for group in missing),
        what=" ".join([*sentences, *_last_seen(facts, [group.name for group in missing])]),
        advice="Start `manage.py run_bot_subscriber`.",
    )


def _last_seen(facts: Facts, parts: Sequence[str]) -> Iterator[str]:
    """When a process of these parts was last seen, if that was a minute ago or more."""
    those = [process for process in facts.processes if set(parts) & set(process.role.split())]
    if those and not any(process.is_alive for process in those):
        last = max(those, key=lambda process: process.seen_at)
        unseen_seconds = (facts.now - last.seen_at).total_seconds()
        if unseen_seconds >= UNSEEN_SECONDS:
            yield f"The last one, {last.name}, was seen {_duration(unseen_seconds)} ago."


def _about_processes(facts: Facts) -> Iterator[Notice]:
    """Parts that work without pushing counters. If a part has no workers, `no_consumer` says so."""
    working = {group.name for group in facts.groups if group.workers}
    for part in ("bot", "relay"):
        if part in working:
            for seen in _last_seen(facts, [part]):
                yield Notice(
                    key=f"{part}_not_seen",
                    about=part,
                    what=f"The {part} works, but no process of it pushes its counters. {seen}",
                    advice=f'Set REALTIME["STATISTICS"] to True where it is off. If it is on, {_LOGS}.',
                    is_urgent=False,
                )


def _about_transports(facts: Facts) -> Iterator[Notice]:
    for each in facts.rows.transports:
        ended = each.sent + each.failed
        if each.failed >= FAILED_LEAST and each.failed >= ended * FAILED_SHARE:
            yield Notice(
                key="transport_fails",
                about=each.transport,
                what=f"{each.transport}: {each.failed:,} of the {ended:,} deliveries that have ended have failed.",
                advice=f"{_WHY} Failed deliveries can be sent again from their list.",
            )
    for transport, count in sorted(facts.retrying.items()):
        if count >= FAILED_LEAST:
            yield Notice(
                key="transport_retries",
                about=transport,
                what=f"{transport}: at least {count:,} deliveries have failed and wait for another attempt.",
                advice=f"{_WHY} The deliveries are tried again by themselves.",
            )


def _about_events(facts: Facts) -> Iterator[Notice]:
    scheduled = ("event is overdue: it has not been released", "events are overdue: they have not been released")
    outbox = (
        "event waits in the outbox, and nobody publishes it",
        "events wait in the outbox, and nobody publishes them",
    )
    for key, count, (one, many) in (
        ("scheduled_overdue", facts.scheduled_overdue, scheduled),
        ("outbox_overdue", facts.outbox_overdue, outbox),
    ):
        if count:
            yield Notice(
                key=key,
                what=f"{count:,} {one if count == 1 else many}.",
                advice=(
                    "A relay publishes and releases events within seconds: start `manage.py run_bot_subscriber`, or "
                    "look at its logs."
                ),
            )


def _about_figures(facts: Facts) -> Iterator[Notice]:
    differing = [balance for balance in facts.balances if balance.difference]
    if {BROWSERS, PLANNING} <= {balance.name for balance in differing}:
        # Usually the same notifications.
        differing = [balance for balance in differing if balance.name != PLANNING]
    for balance in differing:
        yield Notice(
            key="balance",
            about=balance.name,
            what=f"{_lost(balance)}: no process will handle {'it' if balance.difference == 1 else 'them'}.",
            advice=(
                "While a relay runs, it restores within a minute what is lost. If the number stays, look at its logs."
            ),
        )
    if not facts.rows.is_complete:
        yield Notice(
            key="not_counted",
            what="Some hours of this period have not been counted yet, so the figures are too low.",
            advice="A relay counts them within minutes: start `manage.py run_bot_subscriber` if none runs.",
            is_urgent=False,
        )


def _lost(balance: Balance) -> str:
    where = {BROWSERS: "to browsers", PLANNING: "to the bot"}.get(balance.name, f"by {balance.name}")
    count, one = balance.difference, "notification" if balance.name in (BROWSERS, PLANNING) else "delivery"
    many = {"notification": "notifications", "delivery": "deliveries"}[one]
    return f"1 {one} {where} is lost" if count == 1 else f"{count:,} {many} {where} are lost"


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count:,} entries"


def _counted(count: int, one: str) -> str:
    return f"1 {one}" if count == 1 else f"{count:,} {one}s"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
