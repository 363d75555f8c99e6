"""
The bot: sends the notifications on the stream by the transports that their recipients want.

Owns attempts: calling the providers of a notification concurrently, and what their answers mean. Does not own claims
(claim), the rows of deliveries (records), the stream (realtime.streams) or the calls themselves (transports).
"""

import asyncio
import dataclasses
import datetime
import functools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence

import redis

from notifications import conf
from notifications.content import stream_entry
from notifications.content.envelope import Envelope
from notifications.database.clock import moment_of
from notifications.database.errors import DATABASE_UNAVAILABLE, outages
from notifications.database.transactions import is_contended
from notifications.delivery import records
from notifications.delivery.batched_calls import DatabaseCalls
from notifications.delivery.claim import StreamTask
from notifications.delivery.prepare import Prepared, PreparedBatch, claim_and_prepare
from notifications.delivery.records import Claim, Result
from notifications.delivery.retries import given_up, schedule_of
from notifications.delivery.slots import Limit, Slots
from notifications.models import Delivery
from notifications.transports import AddressGone, Message, Transport, delivering_transports
from notifications.transports.names import resolver
from realtime import statistics
from realtime.exceptions import PermanentError, Retry, Unavailable
from realtime.redis.outage import Outage
from realtime.streams import Entry
from realtime.untrusted.text import printable

__all__ = ["Bot"]

logger = logging.getLogger(__name__)

State = Delivery.State
# How much of a provider's answer is logged, in characters.
ANSWER_LOG_LIMIT = 200
# How many entries a bot takes from the stream for each of its slots.
ENTRIES_PER_SLOT = 5
# The state after an attempt → what is counted.
_COUNTED = {State.SENT: "sent", State.FAILED: "failed", State.SKIPPED: "skipped", State.PENDING: "retried"}
# The longest wait that a provider may ask for with Retry-After.
RETRY_AFTER_LIMIT_SECONDS = 3600.0
# If more than this part of a claim's time has passed before the call, the claim is extended first.
FRESH_PART = 0.1
# Errors that mean that our own database or Redis is unavailable, or another service that a transport needs.
# Not OSError: a transport raises it if a provider cannot be reached, and that is a failed attempt.
OUTAGES = (*DATABASE_UNAVAILABLE, redis.RedisError, Unavailable)


class Bot:
    """
    The handler of the consumer group `bot`.

    Args:
        transports: By name; those of the settings by default.
        concurrency: The most messages that are sent at a time on a transport without a concurrency of its own; by
            default the one in the settings.
        database_outage: The state of the database, shared by all its users in the process.

    Attributes:
        entries_limit: The most entries that the worker should give it at a time.

    Guarantees:
        Deliveries are independent: one that fails neither delays nor repeats another, and a slow transport does not
        delay the others. An entry is done when each of its deliveries had an attempt, or was postponed because its
        transport is saturated. Later attempts wait in the database: the sweep puts the notification on the stream again
        when one is due.
        A delivery is claimed when there is a slot for it, and its provider is called at once.
        After `stop()`, no call of a provider begins, and none is interrupted.
    """

    def __init__(
        self,
        transports: Mapping[str, Transport] | None = None,
        *,
        concurrency: int | None = None,
        database_outage: Outage | None = None,
    ) -> None:
        self._transports = delivering_transports() if transports is None else transports
        settings = conf.get_settings()
        slots = concurrency or settings.bot_concurrency
        self._slots = Slots(self._transports, slots=slots, limits=_limits_of(settings, slots))
        # More than the slots: other entries are being claimed or recorded, which is cheaper in large batches, or wait
        # for an older entry of the same user.
        self.entries_limit = slots * ENTRIES_PER_SLOT * max(1, len(self._transports))
        self._claim_seconds = settings.delivery_claim_seconds
        self._schedules = {name: schedule_of(name) for name in self._transports}
        self._database = DatabaseCalls(is_contended=lambda: is_contended(records.database()))
        self._claim_all = functools.partial(claim_and_prepare, self._transports)
        self._database_outage = database_outage or Outage("the database")

    def stop(self) -> None:
        """
        Begin no more calls of providers. Running calls are completed; all other work is left to other bots.

        A delivery with some addresses left becomes pending again: the outcomes so far are recorded, and no attempt is
        counted. The bot raises Unavailable for unfinished entries. Idempotent.
        """
        self._slots.close()

    def close(self) -> None:
        """End the threads of the bot and its transports. Call it when no call of a provider is running. Idempotent."""
        self._database.close()
        for transport in self._transports.values():
            transport.close()
        resolver.close()

    async def __call__(self, entries: Sequence[Entry]) -> None:
        """
        Deliver the notification of each entry.

        Raises:
            EntryRejected: An entry is malformed.
            Unavailable: Redis or the database is unavailable, or the bot is stopping.

        Guarantees:
            A delivery that fails is not an error: its row says so, and the entry is done.
        """
        for entry in entries:
            notification = stream_entry.decode(entry)
            if notification.only in ("", "bot"):
                await self._deliver(
                    StreamTask(notification=notification, entry_id=entry.id.decode(), attempt=entry.attempt)
                )

    async def _deliver(self, task: StreamTask) -> None:
        free, busy = await self._slots.take_free()
        used: set[str] = set()
        try:
            self._check_not_stopping()
            batch = await self._claim(
                dataclasses.replace(task, busy=busy, saturated=self._slots.saturated(busy)),
            )
            if batch is None:
                return
            used = {prepared.claim.transport for prepared in batch.prepared} & free
        finally:
            for name in free - used:
                self._slots.give_back(name, was_used=False)
        results = await asyncio.gather(
            *(self._attempt(task, prepared) for prepared in batch.prepared),
            *(self._attempt_when_free(task, name) for name in batch.waiting),
            return_exceptions=True,
        )
        # A defect counts more than an outage: the worker counts attempts of the entry only for a defect.
        for error in sorted(filter(None, results), key=lambda error: isinstance(error, Unavailable)):
            raise error

    async def _attempt_when_free(self, task: StreamTask, name: str) -> None:
        """Make the attempt on a transport that had no free slot, once it has one."""
        task = dataclasses.replace(task, only=name)
        if not await self._slots.wait(name):
            self._check_not_stopping()
            names = frozenset([name])
            # This postpones the delivery.
            await self._claim(dataclasses.replace(task, busy=names, saturated=names))
            return
        prepared: Sequence[Prepared] = ()
        try:
            batch = await self._claim(task)
            prepared = batch.prepared if batch else ()
        finally:
            if not prepared:
                self._slots.give_back(name, was_used=False)
        for each in prepared:
            await self._attempt(task, each)

    def _check_not_stopping(self) -> None:
        if self._slots.is_closed:
            raise Unavailable("the bot is stopping: other bots handle the rest")

    async def _claim(self, task: StreamTask) -> PreparedBatch | None:
        with outages(*DATABASE_UNAVAILABLE):
            return await self._database.run(self._claim_all, task)

    async def _attempt(self, task: StreamTask, prepared: Prepared) -> None:
        """
        Make one attempt of one delivery and record its result. Gives the slot back.

        Raises:
            Unavailable: Redis or the database is unavailable, or the bot is stopping and has not called all addresses.
        """
        claim = prepared.claim
        started = time.monotonic()
        # Every address that is done is added at once, so that an error at the next one does not lose its outcome.
        outcomes = dict(claim.outcomes)
        outage: Unavailable | None = None
        try:
            result = await self._try(prepared, outcomes)
        except OUTAGES as error:
            outage = error if isinstance(error, Unavailable) else Unavailable(f"{type(error).__name__}: {error}")
            result = Result(state=State.PENDING, answer=str(outage), outcomes=outcomes, is_counted=False)
        finally:
            if claim.transport in self._slots:
                self._slots.give_back(claim.transport, was_used=True)
        result = dataclasses.replace(result, latency_seconds=time.monotonic() - started)
        is_ours = await self._write(records.record_many, (claim, result))
        if is_ours:
            _count(task.notification.envelope, claim, result)
        if outage is not None:
            raise outage
        if is_ours and result.state == State.FAILED:
            answer = printable(result.answer, limit=ANSWER_LOG_LIMIT)
            logger.warning("delivery %d by %s failed: %s", claim.delivery_id, claim.transport, answer)

    async def _try(self, prepared: Prepared, outcomes: dict[str, str]) -> Result:
        transport, claim = prepared.transport, prepared.claim
        if transport is None:
            return Result(state=State.SKIPPED, answer="the project no longer has this transport", outcomes=outcomes)
        max_attempts = self._schedules[claim.transport].max_attempts
        if claim.attempt > max_attempts:
            answer = f"none of {max_attempts} attempts finished: the process died in each"
            return Result(state=State.FAILED, answer=answer, outcomes=outcomes)
        if prepared.message is None:
            if isinstance(prepared.error, OUTAGES):
                raise prepared.error
            return self._retry_or_fail(claim, outcomes, prepared.error or RuntimeError("nothing to send"))
        return await self._send(transport, prepared.message, prepared, outcomes)

    async def _send(
        self, transport: Transport, message: Message, prepared: Prepared, outcomes: dict[str, str]
    ) -> Result:
        """Send to each address that is not done yet, one after another."""
        claim = prepared.claim
        answers: list[str] = []
        failures: list[Exception] = []
        left = [address for address in prepared.addresses if address.key not in outcomes]
        for index, address in enumerate(left):
            # A delivery may have many addresses, but the deadline of a stop allows for one call only.
            self._check_not_stopping()
            if index:
                await self._slots.pace(claim.transport)
            # If this process was suspended, its claim may have lapsed, and another bot may be sending.
            is_fresh = time.monotonic() - prepared.claimed_at < self._claim_seconds * FRESH_PART
            if (index or not is_fresh) and not await self._write(_extend_all, (claim, dict(outcomes))):
                break
            try:
                # A transport of the project may return something other than a string.
                answers.append(f"{await transport.send_in_time(message, address)}")
                outcomes[address.key] = "sent"
            except OUTAGES as error:
                # Only this transport is affected: the delivery is postponed, and the entry is not held up.
                return self._postpone(claim, outcomes, error)
            except PermanentError as error:
                answers.append(error.reason)
                outcomes[address.key] = "gone" if isinstance(error, AddressGone) else "failed"
            except Exception as error:
                failures.append(error)
        if failures:
            return self._retry_or_fail(claim, outcomes, *failures)
        return _final_result(outcomes, answers)

    def _retry_or_fail(self, claim: Claim, outcomes: dict[str, str], *errors: Exception) -> Result:
        """Pending until the next attempt, or failed if this was the last."""
        answer = "; ".join(_describe(error) for error in errors)
        schedule = self._schedules[claim.transport]
        if claim.attempt >= schedule.max_attempts:
            answer = given_up(answer, attempts=claim.attempt)
            return Result(state=State.FAILED, answer=answer, outcomes=outcomes)
        # A transport of the project may ask for anything: a NaN counts as not asked, and less than 0 as at once.
        asked = [each.after_seconds for each in errors if isinstance(each, Retry)]
        known = [max(0.0, seconds) for seconds in asked if not math.isnan(seconds)]
        if known:
            wait_seconds = min(max(known), RETRY_AFTER_LIMIT_SECONDS)
        else:
            wait_seconds = schedule.backoff.delay_seconds(claim.attempt - 1)
        return Result(state=State.PENDING, answer=answer, outcomes=outcomes, retry_seconds=wait_seconds)

    def _postpone(self, claim: Claim, outcomes: dict[str, str], error: Exception) -> Result:
        """Pending, because a service that the transport needs is unavailable. No attempt is counted."""
        return Result(
            state=State.PENDING,
            answer=_describe(error),
            outcomes=outcomes,
            retry_seconds=self._schedules[claim.transport].backoff.base_seconds,
            is_counted=False,
        )

    async def _write[Item](self, write: Callable[[Sequence[Item]], Sequence[bool]], item: Item) -> bool:
        """
        Write a provider's answer to the database, and wait for the end of any outage.

        If the answer was lost, the next attempt would send the message again.
        """
        observer, failures = self._database_outage.observer(), 0
        while True:
            try:
                is_written = await self._database.run(write, item)
            except DATABASE_UNAVAILABLE as error:
                await observer.wait(error, failures)
                failures += 1
            else:
                observer.worked()
                return is_written


def _count(envelope: Envelope, claim: Claim, result: Result) -> None:
    """Count the end of an attempt."""
    what = _COUNTED.get(result.state)
    if what is None or (what == "retried" and not result.is_counted):
        return
    # A digest has several deliveries.
    statistics.count(f"deliveries.{what}", max(1, len(claim.notification_ids)), envelope.kind, claim.transport)
    if what == "sent" and not claim.has_waited:
        took = datetime.datetime.now(datetime.UTC) - moment_of(envelope.created_at)
        statistics.observe("deliveries.send_seconds", took.total_seconds(), claim.transport)


def _limits_of(settings: conf.NotificationsSettings, slots: int) -> dict[str, Limit]:
    """The limits of all transports in the settings."""
    return {
        name: Limit(slots=entry.concurrency or slots, rate_per_second=entry.rate_per_second)
        for name, entry in settings.transports.items()
    }


def _extend_all(held: Sequence[tuple[Claim, dict[str, str]]]) -> list[bool]:
    return [records.extend(claim, outcomes) for claim, outcomes in held]


def _final_result(outcomes: dict[str, str], answers: list[str]) -> Result:
    """The result when all addresses are done."""
    found = set(outcomes.values())
    if "failed" in found:
        state = State.FAILED
    elif "sent" in found:
        state = State.SENT
    else:
        state = State.SKIPPED
        answers = answers or ["the recipient has no address for it, or is not active"]
    return Result(state=state, answer="; ".join(answers), outcomes=outcomes)


def _describe(error: Exception) -> str:
    if isinstance(error, Retry):
        return str(error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{type(error).__name__}: {error}"
