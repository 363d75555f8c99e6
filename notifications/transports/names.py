"""
Looks up the addresses of host names that were supplied by users, with the system's resolver.

Owns the threads of the lookups, their deadline, and the limits on concurrent lookups per host and user. Does not own
which addresses may be reached (http).

The system's resolver cannot be interrupted: if a name server does not answer, the lookup blocks its thread for as long
as the system decides. So the lookups do not run in the event loop's default threads, which are few and are used for
Redis and the database too. A name has one lookup at a time, however many callers wait for it. A lookup that timed out
counts towards the limit of its user until its thread has ended.
"""

import asyncio
import ipaddress
import socket
import threading
import time
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field

from notifications.database.threads import Threads
from notifications.transports.silence import PutAside, Silences

__all__ = ["Resolver", "is_address", "resolver"]

# How long one lookup may take. If the first packet is lost, the system's resolver asks again after 5 s.
LOOKUP_SECONDS = 6.0
# The most lookups that one user may have at a time, including those that timed out.
USER_LIMIT = 2
# The most threads for all lookups. They start when they are needed.
THREADS_LIMIT = 100

# The addresses of a host, or the error of the lookup.
type _Answer = list[str] | Exception


@dataclass(slots=True, kw_only=True)
class _Lookup:
    """A lookup that has not ended."""

    # The user for whom it began.
    user: Hashable
    # When it was requested, by the monotonic clock.
    began_at: float = field(default_factory=time.monotonic)
    # When its thread asked the resolver; None while it waits for a thread, which is not the name server's fault.
    asked_at: float | None = None
    # Done when the lookup ends.
    answer: Future[_Answer] = field(init=False)

    def look_up(self, host: str, port: int) -> _Answer:
        """Ask the system's resolver."""
        self.asked_at = time.monotonic()
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        except Exception as error:
            # Returned and not raised: if no caller waits any more, an exception would be logged as never retrieved.
            return error
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    @property
    def silent_seconds(self) -> float:
        """How long the name server has not answered."""
        return 0.0 if self.asked_at is None else time.monotonic() - self.asked_at


class Resolver:
    """
    Looks up host names in threads.

    Guarantees:
        `resolve` ends within twice LOOKUP_SECONDS. A name whose lookup has taken longer than LOOKUP_SECONDS is put
        aside: requests for it are refused at once, for half a minute at first and then for longer. A user who has
        USER_LIMIT lookups waits for one of them to end, and blocks no further thread.
    """

    def __init__(self) -> None:
        self._threads = Threads(THREADS_LIMIT, name="names")
        # (Host, port) → its present lookup. The lock guards it, because several event loops may use it.
        self._lookups: dict[tuple[str, int], _Lookup] = {}
        self._lock = threading.Lock()
        # Hosts whose name servers did not answer in time.
        self._silences = Silences(allowed=0)

    async def resolve(self, host: str, port: int, *, user: Hashable) -> list[str]:
        """
        The addresses of a host, in the order in which the system's resolver gives them.

        Args:
            user: The user for whom it is looked up; USER_LIMIT counts by it.

        Raises:
            PutAside: The name server has not answered lately.
            OSError: The host has no address, or there was no answer in time.
            UnicodeError: It cannot be a host name.
        """
        if is_address(host):
            return [host]
        deadline = time.monotonic() + LOOKUP_SECONDS
        while (lookup := self._join(host, port, user)) is None:
            left_seconds = deadline - time.monotonic()
            if left_seconds <= 0:
                raise TimeoutError(
                    f"{host} was not looked up: {USER_LIMIT} other lookups of its user have no answer yet"
                )
            if mine := self._answers_for(user):
                await asyncio.wait(mine, timeout=left_seconds, return_when=asyncio.FIRST_COMPLETED)
        answer = asyncio.wrap_future(lookup.answer)
        # A timeout here does not cancel the lookup: others may wait for it too.
        await asyncio.wait([answer], timeout=max(0.0, lookup.began_at + LOOKUP_SECONDS - time.monotonic()))
        if not answer.done():
            if lookup.asked_at is None:
                raise TimeoutError(f"{host} was not looked up: {THREADS_LIMIT} other lookups have no answer yet")
            raise TimeoutError(f"the name server of {host} did not answer within {LOOKUP_SECONDS:.0f} s")
        found = answer.result()
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """Let each thread end when its lookup has ended. The resolver may be used again."""
        self._threads.close()

    def _join(self, host: str, port: int, user: Hashable) -> _Lookup | None:
        """The present lookup of this name, or a new one; None if the user has too many lookups."""
        with self._lock:
            lookup = self._lookups.get((host, port))
            if lookup is not None:
                if (silent_seconds := lookup.silent_seconds) > LOOKUP_SECONDS:
                    raise PutAside(f"the name server of {host} has not answered for {silent_seconds:.0f} s")
                return lookup
            self._silences.check(host, f"the name server of {host}")
            if sum(each.user == user for each in self._lookups.values()) >= USER_LIMIT:
                return None
            lookup = _Lookup(user=user)
            lookup.answer = self._threads.executor.submit(lookup.look_up, host, port)
            self._lookups[host, port] = lookup
        # Outside the lock: if the lookup has ended already, the callback runs at once and takes the lock.
        lookup.answer.add_done_callback(lambda _: self._end(host, port))
        return lookup

    def _answers_for(self, user: Hashable) -> list[asyncio.Future[_Answer]]:
        with self._lock:
            return [asyncio.wrap_future(each.answer) for each in self._lookups.values() if each.user == user]

    def _end(self, host: str, port: int) -> None:
        """Remove a lookup that has ended, and note whether it ended in time."""
        with self._lock:
            lookup = self._lookups.pop((host, port))
            if lookup.silent_seconds > LOOKUP_SECONDS:
                self._silences.note_silence(host)
            else:
                self._silences.note_answer(host)


def is_address(host: str) -> bool:
    """Whether it is an IP address, which needs no lookup."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


# Shared by all transports of the process.
resolver = Resolver()
