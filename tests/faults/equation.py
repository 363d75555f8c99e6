"""
The equation of the fault matrix: published = delivered + failed + expired, nothing lost, nothing doubled.

Owns counting at both ends, by effect key at the receiver and by notification id at the clients, and the verdict.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.faults.clients import Client
from tests.faults.load import Load
from tests.faults.site import Site

__all__ = ["Outcome", "count", "ended_count", "is_settled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """
    What became of one row with one seed.

    Attributes:
        published: Notifications that were asked for; each goes to a client and to the receiver.
        delivered: Deliveries that are recorded as sent and that the receiver has taken.
        failed: Given up, with a row that says why.
        expired: Ended otherwise, with a row.
        lost: Notifications without a row, without an end, or sent to nobody.
        doubled: Notifications that a receiver which keeps effect keys would have acted on twice.
        repeated: Requests beyond the first that were taken under one effect key.
        received: Notifications that clients got over their sockets.
        read: Those that they found in the inbox only, after they were told to look.
        missed: Those that they have not got.
        received_twice: Messages beyond the first with one notification id, which clients leave out.
        out_of_order: Notifications that a client received after one of its own that was written later; None in results
            from before this was counted.
        connections: How many connections the clients have had.
        told: How often clients were told, after their first subscription, that something may be missing.
        settle_seconds: From the end of the load and the fault until everything was done.
        error: Why it has no figures, or why they are not ok.
    """

    row: str
    seed: int
    published: int = 0
    delivered: int = 0
    failed: int = 0
    expired: int = 0
    lost: int = 0
    doubled: int = 0
    repeated: int = 0
    received: int = 0
    read: int = 0
    missed: int = 0
    received_twice: int = 0
    out_of_order: int | None = None
    connections: int = 0
    told: int = 0
    seconds: float = 0.0
    settle_seconds: float = 0.0
    error: str = ""

    @property
    def is_ok(self) -> bool:
        """Whether everything is as it must be."""
        return not self.error


def ended_count(site: Site, clients: Sequence[Client]) -> int:
    """How far it is: what has ended at either end."""
    return _finished_count(site) + sum(len(client.has) for client in clients)


def is_settled(site: Site, load: Load, clients: Sequence[Client]) -> bool:
    """Whether each notification has ended at both ends, and no worker has anything left to do."""
    if sum(len(client.has) for client in clients) < load.expected_count:
        return False
    return _finished_count(site) >= load.expected_count and site.is_idle()


def count_out_of_order(ids: Iterable[int]) -> int:
    """How many come after a larger one."""
    newest, number = 0, 0
    for each in ids:
        number += each < newest
        newest = max(newest, each)
    return number


def count(site: Site, load: Load, clients: Sequence[Client]) -> dict[str, int]:
    """The figures of an outcome."""
    owners = dict(site.database.rows("SELECT id, recipient_id FROM notifications_notification"))
    deliveries = site.database.rows("SELECT notification_id, state, key FROM notifications_delivery")
    taken = site.receiver.taken
    states = Counter(state for _, state, _ in deliveries)
    delivered = sum(state == "sent" and taken[_hex(key)] > 0 for _, state, key in deliveries)
    ended_otherwise = {state for state in states if state not in ("pending", "sending", "sent", "failed")}
    expired = sum(states[state] for state in ended_otherwise)
    mine = {client.user_id: {key for key, owner in owners.items() if owner == client.user_id} for client in clients}
    received = sum(len(set(client.received) & mine[client.user_id]) for client in clients)
    held = sum(len(client.has & mine[client.user_id]) for client in clients)
    return {
        "published": load.expected_count,
        "delivered": delivered,
        "failed": states["failed"],
        "expired": expired,
        "lost": load.expected_count - delivered - states["failed"] - expired,
        "doubled": sum(len(keys) - 1 for keys in site.receiver.effects.values())
        + max(0, len(owners) - load.expected_count),
        "repeated": sum(taken.values()) - len(taken),
        "received": received,
        "read": held - received,
        "missed": load.expected_count - held,
        "received_twice": sum(client.received.total() - len(client.received) for client in clients),
        # A counter has its keys in the order in which they came first.
        "out_of_order": sum(count_out_of_order(client.received) for client in clients),
        "connections": sum(client.connection_count for client in clients),
        "told": sum(client.told_count - 1 for client in clients),
    }


def _finished_count(site: Site) -> int:
    ((count,),) = site.database.rows("SELECT COUNT(*) FROM notifications_delivery WHERE finished_at IS NOT NULL")
    return int(count)


def _hex(key: object) -> str:
    # A UUID from PostgreSQL, its digits from SQLite.
    return str(key).replace("-", "")
