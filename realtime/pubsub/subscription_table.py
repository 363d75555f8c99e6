"""
Which Redis channels and patterns have listeners here, and which of them Redis has confirmed on this connection.

Owns the state only: no connection, no waiting. A name is subscribed once, however many listeners it has, and
unsubscribed with the last one.

How races are excluded: joining and leaving change the wanted state at once. A single sender turns the difference
between wanted and sent into commands, which count as sent from that moment. Redis answers commands in order, so a name
is live if its last command was a SUBSCRIBE and no answer is pending. Messages that arrive while an answer is pending
belong to an earlier subscription, and are delivered to nobody.
"""

from collections.abc import Iterable

from realtime.pubsub.subscriptions import Listener

__all__ = ["NameTable", "RedisName"]


class RedisName:
    """A channel or pattern: its listeners here, and its state in Redis."""

    __slots__ = ("is_live", "is_pattern", "listeners", "pending_answers", "raw", "text", "was_subscribed")

    def __init__(self, text: str, *, is_pattern: bool) -> None:
        self.text = text
        self.raw = text.encode()
        self.is_pattern = is_pattern
        self.listeners: set[Listener] = set()
        # Whether the last command for it was a SUBSCRIBE.
        self.was_subscribed = False
        # How many commands for it Redis has not answered yet.
        self.pending_answers = 0
        # Whether each message from now on is for all listeners: subscribed, and no answer pending.
        self.is_live = False


class NameTable:
    """All names that have a listener, or a command that Redis has not answered yet."""

    def __init__(self) -> None:
        # By their bytes, for looking up messages.
        self.channels: dict[bytes, RedisName] = {}
        self.patterns: dict[bytes, RedisName] = {}
        # The names of each listener.
        self._names_of: dict[Listener, tuple[RedisName, ...]] = {}
        # How many names have a listener.
        self.wanted_count = 0
        # Names whose wanted state may differ from what was sent to Redis, in order of change.
        self._changed: dict[RedisName, None] = {}

    def __len__(self) -> int:
        return len(self.channels) + len(self.patterns)

    def listeners(self) -> tuple[Listener, ...]:
        """All listeners."""
        return tuple(self._names_of)

    def __contains__(self, listener: object) -> bool:
        return listener in self._names_of

    @property
    def listener_count(self) -> int:
        """How many listeners there are."""
        return len(self._names_of)

    def join(self, listener: Listener, channels: Iterable[str], patterns: Iterable[str]) -> None:
        """
        Add a listener to these names, and tell it by `Listener._expect` how many of them are not live yet.

        Raises:
            ValueError: No name is given, or the listener was used before.
        """
        wanted = {(text, False) for text in channels} | {(text, True) for text in patterns}
        if not wanted:
            raise ValueError("name at least one channel or pattern to subscribe to")
        if listener in self._names_of or listener._ready.done():
            raise ValueError("this subscription was used before: create another one")
        names = tuple(self._find_or_add(text, is_pattern=is_pattern) for text, is_pattern in wanted)
        for name in names:
            self.wanted_count += not name.listeners
            name.listeners.add(listener)
            self._changed[name] = None
        self._names_of[listener] = names
        listener._expect(sum(1 for name in names if not name.is_live))

    def leave(self, listener: Listener) -> bool:
        """Remove a listener. Returns whether it was there."""
        names = self._names_of.pop(listener, ())
        for name in names:
            name.listeners.discard(listener)
            self.wanted_count -= not name.listeners
            self._changed[name] = None
        return bool(names)

    def take_commands(self) -> dict[bytes, list[bytes]]:
        """The commands, with their names, that make Redis match the wanted state; they count as sent from now on."""
        commands: dict[bytes, list[bytes]] = {}
        changed, self._changed = self._changed, {}
        for name in changed:
            if bool(name.listeners) == name.was_subscribed:
                self._forget_if_done(name)
                continue
            name.was_subscribed = not name.was_subscribed
            name.pending_answers += 1
            name.is_live = False
            command = (b"P" if name.is_pattern else b"") + (b"SUBSCRIBE" if name.was_subscribed else b"UNSUBSCRIBE")
            commands.setdefault(command, []).append(name.raw)
        return commands

    def take_answer(self, raw: bytes, *, is_pattern: bool) -> None:
        """Redis has answered the oldest pending command for this name."""
        name = (self.patterns if is_pattern else self.channels).get(raw)
        if name is None:
            return
        name.pending_answers -= 1
        name.is_live = name.was_subscribed and not name.pending_answers
        if name.is_live:
            # Notifying of a gap calls foreign code, which may remove listeners.
            for listener in tuple(name.listeners):
                if listener in name.listeners:
                    listener._confirm()
        else:
            self._forget_if_done(name)

    def connection_lost(self) -> None:
        """Nothing is subscribed any more and no answers will come: all names must be sent again."""
        for name in self._all():
            if name.is_live:
                for listener in name.listeners:
                    listener._lose()
            name.was_subscribed, name.is_live, name.pending_answers = False, False, 0
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
        is_done = not (name.listeners or name.was_subscribed or name.pending_answers)
        # A forgotten name may still be marked as changed, and a new object may have taken its place in the table.
        if is_done and table.get(name.raw) is name:
            del table[name.raw]
