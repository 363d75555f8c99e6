"""
From the name of a host to its addresses, by the system's resolver, where somebody else chose the name.

Owns the threads in which that waits, its deadline, and how many lookups a host and a user may have under way. Does not
own which addresses may be reached (http).

The system's resolver cannot be interrupted: a name server that says nothing holds a thread for as long as the system
likes. So the threads are our own and not the event loop's, of which there are few and which Redis and the database use
too; each name is looked up once at a time, however many wait for it; and what one user has given up still counts as
theirs until its thread has ended.
"""

import asyncio
import ipaddress
import socket
import threading
import time
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field

from notifications.threads import Threads
from notifications.transports.silence import PutAside, Silences

__all__ = ["Resolver", "is_address", "resolver"]

# How long one lookup may take: the system's resolver asks again after 5 s, if the first packet was lost.
LOOKUP_SECONDS = 6.0
# Lookups that one user may have under way, those that were given up included.
USER_LIMIT = 2
# Threads of all lookups. They begin when they are needed.
THREADS_LIMIT = 100

# The addresses of a host, or why there are none.
type _Answer = list[str] | Exception


@dataclass(slots=True, kw_only=True)
class _Lookup:
    """One that is under way."""

    # For whom it began.
    user: Hashable
    # By the monotonic clock.
    began_at: float = field(default_factory=time.monotonic)
    # Likewise; None while it waits for a thread, which says nothing of the name server.
    asked_at: float | None = None
    answer: Future[_Answer] = field(init=False)

    def look_up(self, host: str, port: int) -> _Answer:
        """Ask the system's resolver."""
        self.asked_at = time.monotonic()
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        except Exception as error:
            # Given and not raised: whoever waited may have gone, and nobody is to complain that it was not taken.
            return error
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    @property
    def silent_seconds(self) -> float:
        """For how long the name server has not answered."""
        return 0.0 if self.asked_at is None else time.monotonic() - self.asked_at


class Resolver:
    """
    Guarantees:
        Whoever waits is answered within LOOKUP_SECONDS. A name whose lookup did not end in that time is put aside: who
        asks for it is refused at once, for half a minute and then longer. A user who has USER_LIMIT lookups under way
        waits for one of them, and takes no further thread.
    """

    def __init__(self) -> None:
        self._threads = Threads(THREADS_LIMIT, name="names")
        # By host and port; shared by event loops, so guarded.
        self._lookups: dict[tuple[str, int], _Lookup] = {}
        self._lock = threading.Lock()
        self._silences = Silences(allowed=0)

    async def resolve(self, host: str, port: int, *, user: Hashable) -> list[str]:
        """
        The addresses of a host, in the system's order.

        Args:
            user: On whose behalf.

        Raises:
            PutAside: Its name server has not answered lately.
            OSError: It has no address, or there was no answer in time.
            UnicodeError: It cannot be a name.
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
        # If time is up, this does not cancel it: others may wait for it too.
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
        """End the threads of lookups that have ended, and the others when theirs has. It may be used again."""
        self._threads.close()

    def _join(self, host: str, port: int, user: Hashable) -> _Lookup | None:
        """The lookup of this name, a new one if none is under way; None if the user has too many."""
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
        # Outside of the lock, which this takes if it has ended already.
        lookup.answer.add_done_callback(lambda _: self._end(host, port))
        return lookup

    def _answers_for(self, user: Hashable) -> list[asyncio.Future[_Answer]]:
        with self._lock:
            return [asyncio.wrap_future(each.answer) for each in self._lookups.values() if each.user == user]

    def _end(self, host: str, port: int) -> None:
        """The lookup has ended, in time or not."""
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


# Of this process.
resolver = Resolver()
