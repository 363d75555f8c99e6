"""
Which Redis channels and patterns are wanted here, and what Redis knows of it on the present connection.

Owns the state only: no connection, no waiting. A name is subscribed once, however many listen to it, and dropped with
the last one.

How races are excluded: whoever joins or leaves changes the wanted state, at once. One sender takes the difference to
what was sent as commands, which count as sent from that moment on. Redis answers commands in order, so a name is live
exactly when its last command was a SUBSCRIBE and no answer is due; what comes while one is due belongs to an earlier
subscription, before the promise to those who listen now, and reaches nobody.
"""

from collections.abc import Iterable

from realtime.pubsub.subscriptions import Listener

__all__ = ["NameTable", "RedisName"]


class RedisName:
    """A channel or pattern: who listens to it here, and what Redis knows of it."""

    __slots__ = ("answers_due", "is_live", "is_pattern", "listeners", "raw", "text", "was_subscribed")

    def __init__(self, text: str, *, is_pattern: bool) -> None:
        self.text = text
        self.raw = text.encode()
        self.is_pattern = is_pattern
        self.listeners: set[Listener] = set()
        # Whether the last command for it was a SUBSCRIBE.
        self.was_subscribed = False
        # Commands for it that Redis has not answered.
        self.answers_due = 0
        # Whether each message from here on reaches every listener: subscribed, and no answer due.
        self.is_live = False


class NameTable:
    """All names that somebody listens to, or for which Redis owes an answer."""

    def __init__(self) -> None:
        # By their bytes; for reading.
        self.channels: dict[bytes, RedisName] = {}
        self.patterns: dict[bytes, RedisName] = {}
        # What each listener listens to.
        self._names_of: dict[Listener, tuple[RedisName, ...]] = {}
        # How many names somebody listens to.
        self.wanted_count = 0
        # Names whose wanted state may differ from what was sent, in order of change.
        self._changed: dict[RedisName, None] = {}

    def __len__(self) -> int:
        return len(self.channels) + len(self.patterns)

    def listeners(self) -> tuple[Listener, ...]:
        """Everybody who listens to something."""
        return tuple(self._names_of)

    def __contains__(self, listener: object) -> bool:
        return listener in self._names_of

    @property
    def listener_count(self) -> int:
        """How many listeners there are."""
        return len(self._names_of)

    def join(self, listener: Listener, channels: Iterable[str], patterns: Iterable[str]) -> None:
        """
        Let `listener` listen to these names; `Listener._expect` tells it how many of them are not live yet.

        Raises:
            ValueError: There is no name, or the listener has been used before.
        """
        wanted = {(text, False) for text in channels} | {(text, True) for text in patterns}
        if not wanted:
            raise ValueError("name at least one channel or pattern to subscribe to")
        if listener in self._names_of or listener._ready.done():
            raise ValueError("this subscription has been used already: make another one")
        names = tuple(self._find_or_add(text, is_pattern=is_pattern) for text, is_pattern in wanted)
        for name in names:
            self.wanted_count += not name.listeners
            name.listeners.add(listener)
            self._changed[name] = None
        self._names_of[listener] = names
        listener._expect(sum(1 for name in names if not name.is_live))

    def leave(self, listener: Listener) -> bool:
        """Let `listener` listen to nothing; says whether it did listen."""
        names = self._names_of.pop(listener, ())
        for name in names:
            name.listeners.discard(listener)
            self.wanted_count -= not name.listeners
            self._changed[name] = None
        return bool(names)

    def take_commands(self) -> dict[bytes, list[bytes]]:
        """Commands → their names, that bring Redis to what is wanted; they count as sent from now on."""
        commands: dict[bytes, list[bytes]] = {}
        changed, self._changed = self._changed, {}
        for name in changed:
            if bool(name.listeners) == name.was_subscribed:
                self._forget_if_done(name)
                continue
            name.was_subscribed = not name.was_subscribed
            name.answers_due += 1
            name.is_live = False
            command = (b"P" if name.is_pattern else b"") + (b"SUBSCRIBE" if name.was_subscribed else b"UNSUBSCRIBE")
            commands.setdefault(command, []).append(name.raw)
        return commands

    def take_answer(self, raw: bytes, *, is_pattern: bool) -> None:
        """Redis has answered the oldest command for this name."""
        name = (self.patterns if is_pattern else self.channels).get(raw)
        if name is None:
            return
        name.answers_due -= 1
        name.is_live = name.was_subscribed and not name.answers_due
        if name.is_live:
            # Telling a gap runs foreign code, which may make listeners leave.
            for listener in tuple(name.listeners):
                if listener in name.listeners:
                    listener._confirm()
        else:
            self._forget_if_done(name)

    def connection_lost(self) -> None:
        """Nothing is subscribed any more and no answer will come: every name is to be sent again."""
        for name in self._all():
            if name.is_live:
                for listener in name.listeners:
                    listener._lose()
            name.was_subscribed, name.is_live, name.answers_due = False, False, 0
            self._changed[name] = None

    def _all(self) -> tuple[RedisName, ...]:
        return (*self.channels.values(), *self.patterns.values())

    def _find_or_add(self, text: str, *, is_pattern: bool) -> RedisName:
        table = self.patterns if is_pattern else self.channels
        name = table.get(text.encode())
        if name is None:
            name = RedisName(text, is_pattern=is_pattern)
            table[name.raw] = name
        return name

    def _forget_if_done(self, name: RedisName) -> None:
        table = self.patterns if name.is_pattern else self.channels
        is_done = not (name.listeners or name.was_subscribed or name.answers_due)
        # Forgotten and still marked as changed, it may come here again, with a successor in its place.
        if is_done and table.get(name.raw) is name:
            del table[name.raw]
