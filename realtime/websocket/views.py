"""
The filtered subscriptions of one connection: opening, changing and closing them, and their permissions.

Owns the permissions and the filters of each view. Does not own what a view is sent (live), nor the connection's limits,
its other subscriptions and its errors (client).

A view shows only topics for which the user has the permission. A publication is sent if both the site's filter for the
user and the client's filter let it through. So the client's filter can only narrow what the site allows.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple, Protocol

from realtime import topics
from realtime.exceptions import FrameRefused
from realtime.hub.sinks import Sink
from realtime.live.filters import Filter, Selector
from realtime.live.places import Area, area_of, boxes_of, level_limit
from realtime.live.view import Lens, View
from realtime.live.views import Family, Views
from realtime.protocol import messages
from realtime.protocol.close_codes import CloseCode
from realtime.topics import Topic, TopicMatch
from realtime.untrusted.text import LimitedLog
from realtime.websocket.authentication import DATABASE_UNAVAILABLE

__all__ = ["ClientViews", "ViewOwner"]

# One connection remembers the permissions for this many topics.
_ANSWERS_LIMIT: Final = 4_096

# For the errors of the project's functions, which any client can cause to be called.
_log = LimitedLog(logging.getLogger(__name__))


class ViewOwner(Protocol):
    """The connection; implemented by `client.Client`."""

    user: Any

    def write(self, line: bytes) -> None:
        """Write one object to the client."""

    def end(self, code: CloseCode, reason: str) -> None:
        """Close the connection, after it has left all topics. Idempotent."""

    def refresh_view(self, view_id: str) -> None:
        """Call `ClientViews.refresh` soon, in order with what the client sends."""


class _Allowed(NamedTuple):
    """The user's access to a family: whether all of its topics are permitted, and the site's filter, if any."""

    is_all: bool
    site: Filter | None


class _Opened:
    """A view of this connection."""

    __slots__ = (
        "area",
        "family",
        "filter",
        "in_view",
        "kind",
        "level",
        "match",
        "name",
        "number",
        "permitted",
        "site",
        "stop",
        "view",
    )

    # The client's filter and its number, the area that it covers, and the highest level of detail; None for all.
    filter: Filter
    number: int
    area: Area
    level: int | None

    def __init__(self, name: str, kind: type[Topic], family: Family, match: TopicMatch | None) -> None:
        # The name of the topic or of the family, its class, and the facts about the family that `Views` needs.
        self.name, self.kind, self.family = name, kind, family
        # The topic; None for a family.
        self.match = match
        # The site's filter for the user; None lets everything through.
        self.site: Filter | None = None
        # Topic → whether the user may subscribe to it; None if the user may see the whole family.
        self.permitted: dict[str, bool] | None = {}
        # Its topics in view, whether or not the user may see them.
        self.in_view: frozenset[str] = frozenset()
        # Unsubscribes the view from the changes of the family's topics.
        self.stop: Callable[[], object] = lambda: None
        # None until it is open.
        self.view: View | None = None

    def narrow(self, filter_: Filter, number: int) -> None:
        """Replace the client's filter."""
        self.filter, self.number = filter_, number
        self.area, self.level = area_of(filter_.bbox), level_limit(filter_.bbox, filter_.zoom)

    def allow(self, allowed: _Allowed, known: Collection[str] = ()) -> None:
        """Replace the user's access. The permission for each topic that is not in `known` is asked again."""
        if self.match is None:
            before = self.permitted or {}
            self.permitted = None if allowed.is_all else {name: True for name in known if before.get(name)}
        self.site = allowed.site

    def lens(self, shown: Collection[str]) -> Lens:
        """The lens with which the view shows these topics."""
        site, level = self.site, self.level
        if site is not None and site.zoom is not None:
            most = level_limit(site.bbox, site.zoom)
            level = most if level is None or most is None else min(level, most)
        selector = Selector.of(
            max_level=level,
            tags=self.filter.tags,
            site_tags=None if site is None else site.tags,
            limits=None if site is None or site.bbox is None else boxes_of(site.bbox),
            topics=None if self.permitted is None else shown,
        )
        return Lens(self.area, selector, self.number)


class ClientViews:
    """
    The views of one connection.

    Args:
        owner: The connection.
        views: Those of the event loop.
        sink: The socket.
        join_timeout_seconds: If Redis takes longer than this, it counts as unavailable.
    """

    __slots__ = (
        "_answers",
        "_join_timeout_seconds",
        "_opened",
        "_opening",
        "_owner",
        "_recheck_count",
        "_rechecked",
        "_sink",
        "_views",
    )

    def __init__(self, owner: ViewOwner, *, views: Views, sink: Sink, join_timeout_seconds: float) -> None:
        self._owner, self._views, self._sink = owner, views, sink
        self._join_timeout_seconds = join_timeout_seconds
        self._opened: dict[str, _Opened] = {}
        # The view that is being opened, and the number of rechecks: one may happen while a view is opened.
        self._opening: _Opened | None = None
        self._recheck_count = 0
        # Topic → whether the user may subscribe to it; the answers for all views since the last recheck. So a client
        # that moves its map causes at most one question for each topic.
        self._answers: dict[str, bool] = {}
        # The topics that `rechecked_topics` returned last.
        self._rechecked: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self._opened)

    def __contains__(self, view_id: object) -> bool:
        return view_id in self._opened

    async def open(self, frame: messages.Subscribe) -> None:
        """
        Open a view, or open it again with another topic, filter or position.

        Raises:
            FrameRefused: The filter is not valid, no such topic has a snapshot, or the user may not see it.
            TimeoutError, SubscriptionClosed, or an error of Redis: It could not be opened now.
        """
        assert frame.view is not None  # noqa: S101 - the caller's condition
        self.close(frame.view)
        filter_ = Filter.decode(frame.filter)
        opened = self._opening = self._found(frame.topic)
        opened.narrow(filter_, frame.number)
        recheck_count = self._recheck_count
        try:
            opened.allow(await self._ask(opened))
            if opened.match is None:
                # Here and below, only Redis is timed, so that slow hooks of the project do not look like an outage.
                async with asyncio.timeout(self._join_timeout_seconds):
                    await self._views.family_map(opened.family)
            shown = await self._shown(opened)
            async with asyncio.timeout(self._join_timeout_seconds):
                opened.view = await self._views.join(
                    frame.topic,
                    opened.family,
                    self._sink,
                    view_id=frame.view,
                    lens=opened.lens(shown),
                    topics=shown,
                    positions=frame.positions_by_topic(),
                    end=self._owner.end,
                )
            self._opened[frame.view] = opened
        finally:
            self._opening = None
        if recheck_count != self._recheck_count:
            await self._ask_anew(frame.view, opened)
        if opened.match is None and self._opened.get(frame.view) is opened:
            await self._follow(frame.view, opened)

    async def _ask_anew(self, view_id: str, opened: _Opened) -> None:
        """The permissions were asked again while the view was being opened."""
        try:
            opened.allow(await self._ask(opened))
        except FrameRefused as refused:
            self._end(view_id, refused.code, refused.detail)
        else:
            await self._show(opened)

    async def _follow(self, view_id: str, opened: _Opened) -> None:
        """From now on, update a view when the topics in its area change."""
        family_map = await self._views.family_map(opened.family)

        def changed() -> None:
            # Most views are not affected: only the others cost a task.
            if family_map.topics_in(opened.area.rectangles) != opened.in_view:
                self._owner.refresh_view(view_id)

        opened.stop = family_map.on_change(changed)
        # They may have changed meanwhile.
        await self._show(opened)

    async def change(self, frame: messages.SetFilter) -> None:
        """
        Replace the filter of a view. The client is sent what entered and what left.

        Raises:
            FrameRefused: There is no such view, or the filter is not valid; the old one stays.
        """
        opened = self._opened.get(frame.view)
        if opened is None:
            raise FrameRefused(code="unknown_view", detail=f"there is no view {frame.view!r}: subscribe with it first")
        opened.narrow(Filter.decode(frame.filter), frame.number)
        await self._show(opened)

    async def refresh(self, view_id: str) -> None:
        """The topics of a view's family, or the permissions for them, may have changed."""
        opened = self._opened.get(view_id)
        if opened is not None:
            await self._show(opened)

    def close(self, view_id: str) -> bool:
        """Close a view: nothing more is written for it. Returns whether it was open."""
        opened = self._opened.pop(view_id, None)
        if opened is None:
            return False
        opened.stop()
        if opened.view is not None:
            self._views.leave(opened.view)
        return True

    def close_all(self) -> None:
        """The connection has ended. Idempotent."""
        for view_id in tuple(self._opened):
            self.close(view_id)

    # Permissions ------------------------------------------------------------------------------------------------------

    @property
    def is_rechecked(self) -> bool:
        """Whether the user can lose the permission for something that a view shows."""
        if self._opening is not None and self._opening.kind.is_rechecked:
            return True
        return any(opened.kind.is_rechecked for opened in self._opened.values())

    def rechecked_topics(self) -> list[str]:
        """The topics that views show by a permission that can be lost. The caller asks again for each of them."""
        names = [
            name
            for opened in self._opened.values()
            if opened.kind.is_rechecked and opened.permitted is not None
            for name, is_permitted in opened.permitted.items()
            if is_permitted
        ]
        self._rechecked = frozenset(names)
        return names

    def revoke(self, topic: str, code: str, detail: str) -> bool:
        """The user has lost the permission for a topic: views lose its items or end. Returns whether one showed it."""
        was_shown = False
        self._answers[topic] = False
        for view_id, opened in tuple(self._opened.items()):
            if opened.permitted is None or not opened.permitted.get(topic):
                continue
            was_shown = True
            if opened.match is not None:
                self._end(view_id, code, detail)
                continue
            opened.permitted[topic] = False
            if opened.view is not None:
                # Without waiting: the same topics as before, less this one.
                shown = [name for name in opened.view.topics if opened.permitted.get(name)]
                self._views.update(opened.view, opened.family, lens=opened.lens(shown), topics=shown)
        return was_shown

    async def recheck(self) -> None:
        """Call `may_follow` and `filter_for` again, once for all views of a family."""
        self._recheck_count += 1
        self._answers = {}
        # Views of a whole family also depend on `may_follow`, so they are groups of their own.
        groups: dict[tuple[type[Topic], bool], dict[str, _Opened]] = {}
        for view_id, opened in self._opened.items():
            if opened.kind.is_rechecked:
                groups.setdefault((opened.kind, opened.match is None), {})[view_id] = opened
        for group in groups.values():
            try:
                allowed = await self._ask(next(iter(group.values())), is_again=True)
            except (*DATABASE_UNAVAILABLE, TimeoutError):
                # This says nothing about the user: the old answer stays, and the next round asks again.
                continue
            except FrameRefused as refused:
                for view_id, opened in group.items():
                    if self._opened.get(view_id) is opened:
                        self._end(view_id, refused.code, refused.detail)
                continue
            for view_id, opened in group.items():
                if self._opened.get(view_id) is opened:
                    opened.allow(allowed, self._rechecked)
                    self._owner.refresh_view(view_id)

    def _end(self, view_id: str, code: str, detail: str) -> None:
        opened = self._opened.get(view_id)
        if opened is None:
            return
        self.close(view_id)
        self._owner.write(messages.unsubscribed(opened.name, view=view_id, code=code, detail=detail))

    def _found(self, name: str) -> _Opened:
        match = topics.resolve(name)
        kind = topics.resolve_family(name) if match is None else match.family
        if kind is None:
            raise FrameRefused(code="unknown_topic", detail="no app of this site declares such a topic or family")
        family = topics.live_family(kind)
        if family is None:
            raise FrameRefused(code="not_filterable", detail="the topic has no snapshot: subscribe without a filter")
        return _Opened(name, kind, family, match)

    async def _ask(self, opened: _Opened, *, is_again: bool = False) -> _Allowed:
        """
        Find out what the user may see of the topic or the family.

        Raises:
            FrameRefused: The user may see nothing of it, or the check failed.
            TimeoutError, or an error of the database: The check failed, and `is_again` is true.
        """
        user = self._owner.user
        follows: bool | None = None
        try:
            async with asyncio.timeout(topics.PERMISSION_TIMEOUT_SECONDS):
                if opened.match is None:
                    follows = await topics.may_follow(opened.kind, user)
                elif not is_again:
                    # Later, the recheck of single topics asks for it.
                    follows = await topics.may_subscribe(opened.match, user)
                    opened.permitted = {opened.name: follows}
                site = None if follows is False else await topics.filter_for(opened.kind, user)
        except Exception as error:
            if is_again and isinstance(error, (*DATABASE_UNAVAILABLE, TimeoutError)):
                raise
            text = "checking what user %s may see of %s failed"
            _log.exception(f"may_follow {opened.kind.pattern}", error, text, user.pk, opened.name)
            detail = "it could not be checked what this user may see of the topic"
            raise FrameRefused(code="failed", detail=detail) from error
        if follows is False:
            raise FrameRefused(code="forbidden", detail="this user may not receive the topic")
        return _Allowed(bool(follows), site)

    async def _shown(self, opened: _Opened) -> Collection[str]:
        """The topics that the view needs: those in its area that the user may see."""
        if opened.match is not None:
            return [opened.name]
        family_map = await self._views.family_map(opened.family)
        names = opened.in_view = family_map.topics_in(opened.area.rectangles)
        if opened.permitted is None:
            return names
        permitted = opened.permitted
        # Topics that are out of view are forgotten, so that a client that moves its map does not fill the memory.
        for gone in permitted.keys() - names:
            del permitted[gone]
        # A recheck may replace `_answers` meanwhile: old answers must not be added to the new ones.
        answers = self._answers
        await self._ask_topics(opened.kind, [name for name in names if name not in permitted], answers)
        permitted.update((name, answers[name]) for name in names if name not in permitted and name in answers)
        return [name for name in names if permitted.get(name)]

    async def _ask_topics(self, kind: type[Topic], names: Collection[str], answers: dict[str, bool]) -> None:
        """Ask for the permissions that are not among the answers, and add them."""
        matches = {name: topics.resolve(name) for name in names if name not in answers}
        asked = {name: match for name, match in matches.items() if match is not None}
        found = await topics.may_subscribe_all([(match, self._owner.user) for match in asked.values()])
        if len(answers) + len(found) > _ANSWERS_LIMIT:
            for other in answers.keys() - names:
                del answers[other]
        for name, answer in zip(asked, found, strict=True):
            if isinstance(answer, Exception):
                text = "checking whether user %s may receive %s failed"
                _log.exception(f"may_subscribe {kind.pattern}", answer, text, self._owner.user.pk, name)
                # Not remembered: it is asked again when the view changes.
                continue
            answers[name] = answer

    async def _show(self, opened: _Opened) -> None:
        shown = await self._shown(opened)
        if opened.view is not None and not opened.view.is_over:
            self._views.update(opened.view, opened.family, lens=opened.lens(shown), topics=shown)
