"""
The addresses and the message of each claimed delivery.

Owns preparing them in the thread that makes the claims, because addresses and texts may need the database. Does not own
claims (claim), texts (kinds), addresses (transports) or sending (bot).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from notifications import kinds
from notifications.content.links import with_absolute_url
from notifications.content.stored import envelopes_of
from notifications.content.stream_entry import StreamedNotification
from notifications.delivery.claim import Claims, StreamTask, begin_many
from notifications.delivery.records import Claim
from notifications.transports import Address, Message, Transport
from notifications.transports.lookup import shared_lookups

__all__ = ["Prepared", "PreparedBatch", "claim_and_prepare"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A claimed delivery with its addresses and message, or with the error that prevented these."""

    # None if the project no longer has the transport.
    transport: Transport | None
    claim: Claim
    # By the monotonic clock, just before the claim was made.
    claimed_at: float
    addresses: Sequence[Address] = ()
    message: Message | None = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedBatch:
    """The deliveries of a notification that can be sent now."""

    prepared: Sequence[Prepared]
    # The transports with a due delivery that must wait for a slot.
    waiting: Sequence[str]


def claim_and_prepare(
    transports: Mapping[str, Transport], tasks: Sequence[StreamTask]
) -> list[PreparedBatch | Exception | None]:
    """Like `claim.begin_many`, but each claim comes with its addresses and message."""
    asked_at = time.monotonic()
    begun = begin_many(tasks)
    with shared_lookups({claims.recipient.pk for claims in begun if isinstance(claims, Claims)}):
        return [
            PreparedBatch(
                prepared=[
                    _prepare(transports.get(claim.transport), each, claims, claim, claimed_at=asked_at)
                    for claim in claims.granted
                ],
                waiting=claims.waiting,
            )
            if isinstance(claims, Claims)
            else claims
            for each, claims in zip(tasks, begun, strict=True)
        ]


def _prepare(
    transport: Transport | None, task: StreamTask, claims: Claims, claim: Claim, *, claimed_at: float
) -> Prepared:
    """Prepare one delivery. An error counts as a failed attempt of this delivery only."""
    if transport is None:
        return Prepared(transport=None, claim=claim, claimed_at=claimed_at)
    try:
        addresses = _checked(transport.addresses_of(claims.recipient))
        message = _message(transport, task.notification, claims, claim)
    except Exception as error:
        return Prepared(transport=transport, claim=claim, claimed_at=claimed_at, error=error)
    return Prepared(transport=transport, claim=claim, claimed_at=claimed_at, addresses=addresses, message=message)


def _checked(addresses: Sequence[Any]) -> Sequence[Address]:
    """The same addresses; raises TypeError if the project's transport returned something else."""
    for address in addresses:
        if not isinstance(address, Address):
            raise TypeError(f"find_addresses() returned a {type(address).__name__}, not an Address")
    return addresses


def _message(transport: Transport, notification: StreamedNotification, claims: Claims, claim: Claim) -> Message:
    envelope = with_absolute_url(notification.envelope)
    kind = kinds.find_kind(envelope.kind)
    digest = tuple(with_absolute_url(each) for each in envelopes_of(claim.notification_ids))
    if digest:
        texts = kinds.render_digest(kind, transport.name, digest, claims.recipient)
    else:
        texts = kinds.render(kind, transport.name, envelope, claims.recipient)
    return Message(
        key=claim.key,
        recipient=claims.recipient,
        notification=digest[-1] if digest else envelope,
        texts=texts,
        attempt=claim.attempt,
        digest=digest,
    )
