"""
The server's side of `signalbox.v1` for one connection.

Owns a connection's topics, permissions and limits, and the answers to its frames, in their order. Does not own the
socket (sinks), who gets what (hub), nor how a connection is accepted (consumer).
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, NamedTuple

from realtime import topics
from realtime.broker.publication import Position
from realtime.conf import RealtimeSettings
from realtime.exceptions import FrameRefused, SubscriptionClosed
from realtime.hub.hub import Membership
from realtime.hub.sinks import Frame, Sink
from realtime.protocol import messages
from realtime.protocol.close_codes import CloseCode
from realtime.redis.outage import REDIS_ERRORS, Outage
from realtime.untrusted.rate_limit import TokenBucket
from realtime.untrusted.text import LimitedLog
from realtime.websocket.authentication import DATABASE_UNAVAILABLE
from realtime.websocket.counters import counters
from realtime.websocket.roster import Roster
from realtime.websocket.views import ClientViews

__all__ = ["MALFORMED_LIMIT", "Client"]

logger = logging.getLogger(__name__)
# For the project's functions that any client can cause to be called.
_log = LimitedLog(logger)

# If joining a topic takes longer than this, Redis counts as unavailable.
JOIN_TIMEOUT_SECONDS = 5.0
# How many malformed objects a client may send at once, and per second in the long run. Beyond that the connection is
# closed: the author of a faulty client notices, and a flood of garbage costs little. Objects that are refused for other
# reasons count only towards the limit of all objects.
MALFORMED_LIMIT = 16
MALFORMED_PER_SECOND = 0.1
# A connection's longest life is shortened by a random fraction, up to this one.
AGE_SPREAD = 0.25
# Sent if the server is at fault. Source: RFC 6455, section 7.4.1.
INTERNAL_ERROR = 1011

# Shared by all connections of the process, so that an outage is logged once.
_redis_observer = Outage("Redis for the topics of clients").observer()


class _RefreshView(NamedTuple):
    """Not from the client: a view's topics or permissions have changed."""

    view_id: str


_TAKES_TIME = (messages.Subscribe, messages.SetFilter, messages.Read, _RefreshView)


class Client:
    """
    A connection of a signed-in user; the `Receiver` of its socket.

    Args:
        roster: All open connections. It ends this one when its session or account is no longer valid.
        user: The user of the connection.
        session_key: The key of the session that authenticated the user; None if something else did.
        on_read: Awaited as on_read(user id, notification ids) when the client reports what was read; None if the
            project has no such function.
    """

    __slots__ = (
        "_is_over",
        "_limits",
        "_malformed",
        "_on_read",
        "_permitted",
        "_roster",
        "_sink",
        "_tokens",
        "_views",
        "_waiting",
        "_worker",
        "acked",
        "ends_at",
        "memberships",
        "session_key",
        "user",
    )

    def __init__(
        self,
        *,
        roster: Roster,
        user: Any,
        session_key: str | None = None,
        limits: RealtimeSettings,
        on_read: Callable[[Any, list[int]], Coroutine[Any, Any, Any]] | None,
    ) -> None:
        self._roster, self._limits, self._on_read = roster, limits, on_read
        # The user, as last read from the database, and the key of the session that authenticated it.
        self.user, self.session_key = user, session_key
        # When the connection ends, by the event loop's clock. Random, so that connections opened together do not end
        # together.
        age_seconds = limits.connection_age_seconds * random.uniform(1 - AGE_SPREAD, 1)  # noqa: S311 - spreads load
        self.ends_at = asyncio.get_running_loop().time() + age_seconds
        self._sink: Sink
        # Topic → membership.
        self.memberships: dict[str, Membership] = {}
        # Its filtered subscriptions; None before the first.
        self._views: ClientViews | None = None
        # Topic → the offset that the client acknowledged last; None before the first ack.
        self.acked: dict[str, int] | None = None
        # Cached permissions: topic → whether the user may subscribe, oldest first; None before the first.
        self._permitted: dict[str, bool] | None = None
        # The limit of malformed objects; None before the first one.
        self._malformed: TokenBucket | None = None
        self._tokens = TokenBucket(per_second=limits.frames_per_second, burst=limits.frames_burst)
        # Objects that wait behind the one that the worker handles; None while there is no worker.
        self._waiting: deque[Any] | None = None
        self._worker: asyncio.Task[None] | None = None
        self._is_over = False

    def start(self, sink: Sink, since: Position | None) -> None:
        """
        Join the user's own topic and send hello. Objects that the client sends meanwhile wait.

        Args:
            sink: The destination of frames.
            since: The client's last position on its own topic.

        Guarantees:
            The topic is live before hello is written: everything published after the client has received hello reaches
                it.
        """
        self._sink = sink
        counters.open_count += 1
        counters.opened_count += 1
        self._start_worker(partial(self._open, since))

    def close(self) -> None:
        """The connection has ended: leave all topics. Idempotent."""
        if self._is_over:
            return
        self._is_over = True
        counters.open_count -= 1
        self._roster.remove(self)
        if self._worker is not None:
            self._worker.cancel()
        for membership in self.memberships.values():
            self._roster.hub.leave(membership)
        self.memberships.clear()
        if self._views is not None:
            self._views.close_all()

    def close_slow(self) -> None:
        """More than the limit is unsent: close the connection."""
        if not self._is_over:
            self._roster.hub.count_slow()
            self._end(CloseCode.SLOW, "reads too slowly: come back with the last offset")

    def take_text(self, text: str) -> None:
        """Take a frame from the client. Answers are written in the order of its objects. Never waits."""
        if self._is_over:
            # Other servers may pass on what they had read before the connection was closed.
            return
        size_bytes = len(text) if text.isascii() else len(text.encode(errors="replace"))
        if size_bytes > messages.FRAME_LIMIT_BYTES:
            self._end(CloseCode.PROTOCOL_ERROR, f"a frame is at most {messages.FRAME_LIMIT_BYTES} bytes")
            return
        for line in text.split("\n"):
            if self._is_over:
                return
            if not self._tokens.take():
                self._end(CloseCode.RATE_LIMITED, f"at most {self._limits.frames_per_second:g} objects a second")
                return
            try:
                frame = messages.decode(line)
            except FrameRefused as refused:
                self._refuse(refused.code, refused.detail)
                self._malformed = self._malformed or TokenBucket(per_second=MALFORMED_PER_SECOND, burst=MALFORMED_LIMIT)
                if not self._malformed.take():
                    self._end(CloseCode.PROTOCOL_ERROR, f"more than {MALFORMED_LIMIT} objects were malformed")
                continue
            if self._waiting is None:
                self._take(frame)
            elif len(self._waiting) < self._limits.frames_burst:
                self._waiting.append(frame)
            else:
                self._end(CloseCode.RATE_LIMITED, f"at most {self._limits.frames_burst} objects may wait for an answer")

    def take_binary(self) -> None:
        """Refuse a binary message; called on servers whose sockets are not ours."""
        self._end(CloseCode.PROTOCOL_ERROR, "binary messages are not understood")

    # From the roster --------------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._is_over

    def end(self, code: CloseCode, reason: str) -> None:
        """Close it: its session or account is no longer valid, staff asked for it, or a view failed. Idempotent."""
        self._end(code, reason)

    def refresh(self, user: Any) -> None:
        """Replace the user by the one that was just read, and forget the cached permissions."""
        self.user, self._permitted = user, None

    @property
    def is_rechecked(self) -> bool:
        """Whether the user can lose the permission for something that it is subscribed to."""
        return (self._views is not None and self._views.is_rechecked) or bool(self.rechecked_topics())

    def rechecked_topics(self) -> list[str]:
        """The topics that it is subscribed to and for which the permission can be lost."""
        # Most connections are subscribed to their user's own topic alone.
        if self._views is None and self.memberships.keys() == {topics.user_topic(self.user.pk)}:
            return []
        plain = [name for name in self.memberships if (match := topics.resolve(name)) and match.family.is_rechecked]
        return plain if self._views is None else list(dict.fromkeys((*plain, *self._views.rechecked_topics())))

    def revoke(self, topic: str, code: str, detail: str) -> None:
        """Unsubscribe from a topic and tell the client why, with an error code. Does nothing if not subscribed."""
        was_shown = self._views is not None and self._views.revoke(topic, code, detail)
        if self._forget(topic):
            self.write(messages.unsubscribed(topic, code=code, detail=detail))
        elif not was_shown:
            return
        counters.revoked_count += 1

    async def recheck_filters(self) -> None:
        """Ask again for the site's filters: for all views, and for subscriptions without a filter, which need None."""
        if self._views is not None:
            await self._views.recheck()
        for topic in tuple(self.memberships):
            match = topics.resolve(topic)
            if match is None or not match.family.is_rechecked:
                continue
            code, detail = "forbidden", "this user may no longer receive the topic without a filter"
            try:
                async with asyncio.timeout(topics.PERMISSION_TIMEOUT_SECONDS):
                    if await topics.filter_for(match.family, self.user) is None:
                        continue
            except (*DATABASE_UNAVAILABLE, TimeoutError):
                # This says nothing about the user; the next round asks again.
                continue
            except Exception as error:
                text = "the check whether user %s may still receive all of %s failed: unsubscribed"
                _log.exception(f"filter_for {match.family.pattern}", error, text, self.user.pk, topic)
                code, detail = "failed", "the check whether this user may receive the topic failed"
            if self._forget(topic):
                counters.revoked_count += 1
                self.write(messages.unsubscribed(topic, code=code, detail=detail))

    # From its views ---------------------------------------------------------------------------------------------------

    def write(self, payload: bytes) -> None:
        """Write one object to the client."""
        if not self._is_over:
            self._sink.write(Frame(payload))

    def refresh_view(self, view_id: str) -> None:
        """Refresh a view whose topics or permissions have changed, after the frames that the client has sent before."""
        if self._is_over:
            return
        frame = _RefreshView(view_id)
        if self._waiting is None:
            self._start_worker(partial(self._answer, frame))
        elif frame not in self._waiting:
            self._waiting.append(frame)

    # Work that takes time ---------------------------------------------------------------------------------------------

    def _start_worker(self, job: Callable[[], Awaitable[None]]) -> None:
        self._waiting = deque()
        # Eager: it runs at once, up to its first wait. Most changes of a filter wait for nothing.
        loop = asyncio.get_running_loop()
        worker = asyncio.Task(self._work(job), loop=loop, name="realtime client", eager_start=True)
        if not worker.done():
            self._worker = worker
            if self._is_over:
                # `close` was called before `_worker` was set, so it could not cancel the worker.
                worker.cancel()

    async def _work(self, job: Callable[[], Awaitable[None]]) -> None:
        """Run `job`, and then handle the objects that arrived meanwhile, in order."""
        try:
            await job()
            while self._waiting and not self._is_over:
                frame = self._waiting.popleft()
                if isinstance(frame, _TAKES_TIME):
                    await self._answer(frame)
                else:
                    self._take(frame)
        except Exception:
            logger.exception("a client of user %s could not be served", self.user.pk)
            self._end(INTERNAL_ERROR, "the server failed: come back soon")
        finally:
            self._waiting = self._worker = None

    async def _open(self, since: Position | None) -> None:
        limit = self._limits.connections_per_user
        # Counted whatever their topics are: a client may leave its own topic and stay connected.
        if self._roster.count_of(self.user.pk) >= limit:
            self._end(CloseCode.TOO_MANY_CONNECTIONS, f"at most {limit} connections of one user")
            return
        self._roster.add(self)
        topic = topics.user_topic(self.user.pk)
        await self._join(topic, since, preface=messages.hello(self.user.pk, topic))

    async def _join(self, topic: str, since: Position | None, preface: bytes | None = None) -> None:
        try:
            async with asyncio.timeout(JOIN_TIMEOUT_SECONDS):
                # The connection must be able to receive orders before it receives anything else.
                await self._roster.listening()
                self.memberships[topic] = await self._roster.hub.join(topic, self._sink, since=since, preface=preface)
        except (*REDIS_ERRORS, SubscriptionClosed) as error:
            _redis_observer.failed(error)
            self._end(CloseCode.UNAVAILABLE, "come back soon")
        else:
            _redis_observer.worked()

    async def _answer(self, frame: Any) -> None:
        match frame:
            case messages.Subscribe(view=None):
                await self._subscribe(frame)
            case messages.Subscribe():
                await self._open_view(frame)
            case messages.SetFilter() | _RefreshView():
                await self._change_view(frame)
            case messages.Read(ids=ids):
                await self._read(ids)

    async def _subscribe(self, frame: messages.Subscribe) -> None:
        topic = frame.topic
        limit = self._limits.topics_per_connection
        if topic not in self.memberships and self._topic_count >= limit:
            self._refuse("too_many_topics", f"a connection has at most {limit} topics: unsubscribe from one", topic)
            return
        if not await self._is_permitted(topic):
            return
        if (known := self.memberships.pop(topic, None)) is not None:
            # Subscribed already: start again from the offset given now.
            self._roster.hub.leave(known)
        await self._join(topic, frame.since())

    @property
    def _topic_count(self) -> int:
        return len(self.memberships) + (0 if self._views is None else len(self._views))

    async def _open_view(self, frame: messages.Subscribe) -> None:
        views = self._views = self._views or ClientViews(
            self, views=self._roster.views, sink=self._sink, join_timeout_seconds=JOIN_TIMEOUT_SECONDS
        )
        limit = self._limits.topics_per_connection
        if frame.view not in views and self._topic_count >= limit:
            detail = f"a connection has at most {limit} topics and views: unsubscribe from one"
            self._refuse("too_many_topics", detail, frame.topic, frame.view)
            return
        try:
            await views.open(frame)
        except FrameRefused as refused:
            self._refuse(refused.code, refused.detail, frame.topic, frame.view, frame.number)
        except (*REDIS_ERRORS, SubscriptionClosed) as error:
            _redis_observer.failed(error)
            self._end(CloseCode.UNAVAILABLE, "come back soon")
        else:
            _redis_observer.worked()

    async def _change_view(self, frame: messages.SetFilter | _RefreshView) -> None:
        if isinstance(frame, _RefreshView):
            if self._views is not None:
                await self._views.refresh(frame.view_id)
            return
        try:
            if self._views is None:
                raise FrameRefused(code="unknown_view", detail=f"there is no view {frame.view!r}")
            await self._views.change(frame)
        except FrameRefused as refused:
            self._refuse(refused.code, refused.detail, view=frame.view, number=frame.number)

    async def _is_permitted(self, topic: str) -> bool:
        """Whether the user may subscribe to the topic. If not, the client gets an error."""
        match = topics.resolve(topic)
        if match is None:
            self._refuse("unknown_topic", "no app of this site declares such a topic", topic)
            return False
        permitted = self._permitted = self._permitted if self._permitted is not None else {}
        if topic not in permitted:
            try:
                async with asyncio.timeout(topics.PERMISSION_TIMEOUT_SECONDS):
                    permitted[topic] = await topics.may_receive(match, self.user)
            except Exception as error:
                _log.exception(
                    f"may_subscribe {match.family.pattern}",
                    error,
                    "the check whether user %s may receive %s failed",
                    self.user.pk,
                    topic,
                )
                self._refuse("failed", "it could not be checked whether this user may receive the topic", topic)
                return False
            if len(permitted) > self._limits.topics_per_connection:
                del permitted[next(iter(permitted))]
        if not permitted[topic]:
            self._refuse("forbidden", "this user may not receive the topic, or only with a filter", topic)
            return False
        return True

    async def _read(self, ids: list[int]) -> None:
        if self._on_read is None:
            self._refuse("unsupported", "this site does not accept read marks")
            return
        try:
            await self._on_read(self.user.pk, ids)
        except Exception as error:
            _log.exception("ON_READ", error, "could not record what user %s has read", self.user.pk)
            self._refuse("failed", "what was read could not be recorded")

    # Work that does not -----------------------------------------------------------------------------------------------

    def _take(self, frame: Any) -> None:
        match frame:
            case messages.Ping():
                self.write(messages.PONG)
            case messages.Ack(topic=topic, offset=offset):
                self._ack(topic, offset)
            case messages.Unsubscribe(topic=topic, view=None):
                self._forget(topic)
                self.write(messages.unsubscribed(topic))
            case messages.Unsubscribe(topic=topic, view=str(view)):
                if self._views is not None:
                    self._views.close(view)
                self.write(messages.unsubscribed(topic, view=view))
            case _:
                self._start_worker(partial(self._answer, frame))

    def _forget(self, topic: str) -> bool:
        """Unsubscribe from a topic. Returns whether it was subscribed."""
        if self.acked is not None:
            self.acked.pop(topic, None)
        membership = self.memberships.pop(topic, None)
        if membership is not None:
            self._roster.hub.leave(membership)
        return membership is not None

    def _ack(self, topic: str, offset: int) -> None:
        membership = self.memberships.get(topic)
        if membership is None:
            self._refuse("not_subscribed", "only subscribed topics can be acknowledged", topic)
            return
        if offset > membership.topic.offset:
            self._refuse("bad_offset", "no publication with that offset was sent", topic)
            return
        if self.acked is None:
            self.acked = {}
        self.acked[topic] = max(offset, self.acked.get(topic, 0))

    # Limits -----------------------------------------------------------------------------------------------------------

    def _refuse(
        self, code: str, detail: str, topic: str | None = None, view: str | None = None, number: int | None = None
    ) -> None:
        counters.refused[code] += 1
        self.write(messages.error(code=code, detail=detail, topic=topic, view=view, number=number))

    def _end(self, code: int, reason: str) -> None:
        if self._is_over:
            return
        counters.closed[code] += 1
        self.close()
        self._sink.close(code, reason)
