"""
The bot: from the stream to the transports that the user wants.

Owns attempts: calling the providers of one notification at the same time, and what a provider's answer means. Does not
own the truth about deliveries (records), the stream (realtime.streams) nor the calls themselves (transports).
"""

import asyncio
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence

import redis

from notifications import conf
from notifications.content import stream_entry
from notifications.database.errors import DATABASE_UNAVAILABLE, outages
from notifications.database.transactions import is_contended
from notifications.delivery import records
from notifications.delivery.batched_calls import DatabaseCalls
from notifications.delivery.prepare import Prepared, PreparedBatch, claim_and_prepare
from notifications.delivery.retries import schedule_of
from notifications.delivery.slots import Limit, Slots
from notifications.delivery.values import Claim, Result, StreamTask
from notifications.models import Delivery
from notifications.transports import AddressGone, Message, Transport, delivering_transports
from notifications.transports.names import resolver
from realtime.exceptions import PermanentError, Retry, Unavailable
from realtime.redis.outage import Outage
from realtime.streams import Entry
from realtime.untrusted.text import printable

__all__ = ["Bot"]

logger = logging.getLogger(__name__)

State = Delivery.State
# How much of a provider's answer is logged, in characters.
ANSWER_LOG_LIMIT = 200
# Entries in a bot for each message that it sends at a time.
ENTRIES_PER_SLOT = 5
# What a provider may ask us to wait with Retry-After.
RETRY_AFTER_LIMIT_SECONDS = 3600.0
# A claim is held for its full time again when so much of it has gone by before the call.
FRESH_PART = 0.1
# Errors that mean that our own database or Redis is unavailable, or another service that a transport needs.
# Not OSError: it is what a transport raises when a provider cannot be reached, which is a failed attempt.
AWAY = (*DATABASE_UNAVAILABLE, redis.RedisError, Unavailable)


class Bot:
    """
    The handler of the consumer group `bot`.

    Args:
        transports: By name; those of the settings by default.
        concurrency: The most messages that are sent at a time on a transport without a concurrency of its own; by
            default the one in the settings.
        database_outage: The state of the database, shared by all its users in the process.

    Attributes:
        entries_limit: How many entries it should be given at a time.

    Guarantees:
        Each delivery stands alone: one that fails neither holds up nor repeats another, and a slow transport holds up
        no other. What is to be tried later is in the database and not in here: the entry is done when every delivery
        has had its attempt, or was put off because its transport is saturated. The sweep puts the notification on the
        stream again when the next one is due.
        A delivery is claimed when there is a slot for it, and its provider is called at once.
        After `stop()` no call of a provider begins, and none is cut off.
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
        # Beside what is being sent: what waits and what is being recorded, as many together are much cheaper, and what
        # waits behind an older one of its user.
        self.entries_limit = slots * ENTRIES_PER_SLOT * max(1, len(self._transports))
        self._claim_seconds = settings.delivery_claim_seconds
        self._schedules = {name: schedule_of(name) for name in self._transports}
        self._database = DatabaseCalls(is_contended=lambda: is_contended(records.database()))
        self._begin_all = functools.partial(claim_and_prepare, self._transports)
        self._database_outage = database_outage or Outage("the database")

    def stop(self) -> None:
        """
        Begin nothing more: what is being sent is finished, and all else is left to other bots.

        A delivery of which only some addresses were reached waits, with what is known of them, and no attempt is
        counted. Calls then raise Unavailable. Idempotent.
        """
        self._slots.close()

    def close(self) -> None:
        """End the threads of the bot and its transports. Call it when nothing is being sent any more. Idempotent."""
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
            batch = await self._begin(
                dataclasses.replace(task, busy=busy, saturated=self._slots.saturated(busy)),
            )
            if batch is None:
                return
            used = {prepared.claim.transport for prepared in batch.prepared} & free
        finally:
            for name in free - used:
                self._slots.give_back(name, was_used=False)
        results = await asyncio.gather(
            *(self._attempt(prepared) for prepared in batch.prepared),
            *(self._attempt_when_free(task, name) for name in batch.waiting),
            return_exceptions=True,
        )
        # A defect counts more than an outage: the worker counts attempts of the entry only for a defect.
        for error in sorted(filter(None, results), key=lambda error: isinstance(error, Unavailable)):
            raise error

    async def _attempt_when_free(self, task: StreamTask, name: str) -> None:
        """The same for one transport of which all slots were taken."""
        task = dataclasses.replace(task, only=name)
        if not await self._slots.wait(name):
            self._check_not_stopping()
            names = frozenset([name])
            await self._begin(dataclasses.replace(task, busy=names, saturated=names))
            return
        prepared: Sequence[Prepared] = ()
        try:
            batch = await self._begin(task)
            prepared = batch.prepared if batch else ()
        finally:
            if not prepared:
                self._slots.give_back(name, was_used=False)
        for each in prepared:
            await self._attempt(each)

    def _check_not_stopping(self) -> None:
        if self._slots.is_closed:
            raise Unavailable("the bot was told to stop: what it has not batch is left to others")

    async def _begin(self, task: StreamTask) -> PreparedBatch | None:
        with outages(*DATABASE_UNAVAILABLE):
            return await self._database.run(self._begin_all, task)

    async def _attempt(self, prepared: Prepared) -> None:
        """
        Make one attempt of one delivery and record its result. Gives the slot back.

        Raises:
            Unavailable: Redis or the database is unavailable, or the bot is stopping and has not called all addresses.
        """
        claim = prepared.claim
        started = time.monotonic()
        # Grows while addresses are done with, whatever happens at the next one.
        outcomes = dict(claim.outcomes)
        away: Unavailable | None = None
        try:
            result = await self._try(prepared, outcomes)
        except AWAY as error:
            away = error if isinstance(error, Unavailable) else Unavailable(f"{type(error).__name__}: {error}")
            result = Result(state=State.PENDING, answer=str(away), outcomes=outcomes, is_counted=False)
        finally:
            if claim.transport in self._slots:
                self._slots.give_back(claim.transport, was_used=True)
        result = dataclasses.replace(result, latency_seconds=time.monotonic() - started)
        is_ours = await self._until_stored(records.record_many, (claim, result))
        if away is not None:
            raise away
        if is_ours and result.state == State.FAILED:
            answer = printable(result.answer, limit=ANSWER_LOG_LIMIT)
            logger.warning("delivery %d by %s failed: %s", claim.delivery_id, claim.transport, answer)

    async def _try(self, prepared: Prepared, outcomes: dict[str, str]) -> Result:
        transport, claim = prepared.transport, prepared.claim
        if transport is None:
            return Result(state=State.SKIPPED, answer="the project has no such transport any more", outcomes=outcomes)
        max_attempts = self._schedules[claim.transport].max_attempts
        if claim.attempt > max_attempts:
            answer = f"none of {max_attempts} attempts finished: the process died each time"
            return Result(state=State.FAILED, answer=answer, outcomes=outcomes)
        if prepared.message is None:
            if isinstance(prepared.error, AWAY):
                raise prepared.error
            return self._again(claim, outcomes, prepared.error or RuntimeError("nothing to send"))
        return await self._send(transport, prepared.message, prepared, outcomes)

    async def _send(
        self, transport: Transport, message: Message, prepared: Prepared, outcomes: dict[str, str]
    ) -> Result:
        """Send to each address that is not done with, one after another."""
        claim = prepared.claim
        answers: list[str] = []
        failures: list[Exception] = []
        left = [address for address in prepared.addresses if address.key not in outcomes]
        for index, address in enumerate(left):
            # One delivery may have many addresses, and the deadline of a stop is as long as one call.
            self._check_not_stopping()
            # A process that stood still finds that its claim has lapsed and somebody else is sending.
            if index:
                await self._slots.pace(claim.transport)
            is_fresh = time.monotonic() - prepared.claimed_at < self._claim_seconds * FRESH_PART
            if (index or not is_fresh) and not await self._until_stored(_keep_all, (claim, dict(outcomes))):
                break
            try:
                # A transport of the project may return something other than a string.
                answers.append(f"{await transport.send_in_time(message, address)}")
                outcomes[address.key] = "sent"
            except AWAY as error:
                # Of this transport alone: the others are served meanwhile.
                return self._put_off(claim, outcomes, error)
            except PermanentError as error:
                answers.append(error.reason)
                outcomes[address.key] = "gone" if isinstance(error, AddressGone) else "failed"
            except Exception as error:
                failures.append(error)
        if failures:
            return self._again(claim, outcomes, *failures)
        return _end(outcomes, answers)

    def _again(self, claim: Claim, outcomes: dict[str, str], *errors: Exception) -> Result:
        """Not done: another attempt, unless this was the last."""
        answer = "; ".join(_describe(error) for error in errors)
        schedule = self._schedules[claim.transport]
        if claim.attempt >= schedule.max_attempts:
            answer = f"given up after {claim.attempt} attempts: {answer}"
            return Result(state=State.FAILED, answer=answer, outcomes=outcomes)
        asked = [error.after_seconds for error in errors if isinstance(error, Retry)]
        wait_seconds = max(asked) if asked else schedule.backoff.delay_seconds(claim.attempt - 1)
        wait_seconds = min(wait_seconds, RETRY_AFTER_LIMIT_SECONDS)
        return Result(state=State.PENDING, answer=answer, outcomes=outcomes, retry_seconds=wait_seconds)

    def _put_off(self, claim: Claim, outcomes: dict[str, str], error: Exception) -> Result:
        """Something that the transport needs is unavailable: no attempt is counted."""
        return Result(
            state=State.PENDING,
            answer=_describe(error),
            outcomes=outcomes,
            retry_seconds=self._schedules[claim.transport].backoff.base_seconds,
            is_counted=False,
        )

    async def _until_stored[Item](self, write: Callable[[Sequence[Item]], Sequence[bool]], item: Item) -> bool:
        """
        Write down what a provider has answered, however long the database is away.

        Without the record the next attempt would send again.
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


def _limits_of(settings: conf.NotificationsSettings, slots: int) -> dict[str, Limit]:
    """The limits of all transports in the settings."""
    return {
        name: Limit(slots=entry.concurrency or slots, rate_per_second=entry.rate_per_second)
        for name, entry in settings.transports.items()
    }


def _keep_all(held: Sequence[tuple[Claim, dict[str, str]]]) -> list[bool]:
    return [records.keep(claim, outcomes) for claim, outcomes in held]


def _end(outcomes: dict[str, str], answers: list[str]) -> Result:
    """Every address is done with."""
    ends = set(outcomes.values())
    if "failed" in ends:
        state = State.FAILED
    elif "sent" in ends:
        state = State.SENT
    else:
        state = State.SKIPPED
        answers = answers or ["the recipient has no address there, or may not sign in"]
    return Result(state=state, answer="; ".join(answers), outcomes=outcomes)


def _describe(error: Exception) -> str:
    if isinstance(error, Retry):
        return str(error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{type(error).__name__}: {error}"
