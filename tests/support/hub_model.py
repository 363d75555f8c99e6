"""A model of Redis as the hub sees it, and seeded schedules that run a hub on it."""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.fernet import Fernet, MultiFernet
from redis.exceptions import ConnectionError

from realtime.broker.publication import Crypter, History, Position, head_of, parse, seal
from realtime.hub.hub import Hub, Membership
from realtime.hub.sinks import RawSink, Sink
from realtime.pubsub.subscriptions import Attachment, ListenerCounters
from realtime.redis.backoff import Backoff
from tests.support.topic_clients import PREFACE, Client, ClientSink, ClientWriter

__all__ = ["TOPICS", "Schedule"]

AT_ONCE = Backoff(base_seconds=0.0, cap_seconds=0.0)
TOPICS = ("a", "b")


@dataclass
class ModelTopic:
    """One topic on Redis, and what is on its way from there."""

    offset: int = 0
    epoch: str = ""
    payloads: list[bytes] = field(default_factory=list)
    attachment: Attachment | None = None
    is_subscribed: bool = False
    # Payloads, or None for the confirmation of the subscription, in Redis's order.
    inbound: deque[bytes | None] = field(default_factory=deque)


class ModelRedis:
    """A source of topics whose answers come when the schedule says so."""

    def __init__(self, chance: random.Random, *, history_size: int, crypter: Crypter | None) -> None:
        self._chance, self._history_size, self._crypter = chance, history_size, crypter
        self._epoch_count = 0
        self.counters = ListenerCounters()
        self.topics = {name: ModelTopic() for name in TOPICS}
        # Histories asked for, and read but not yet answered.
        self.asked: list[tuple[str, int | None, asyncio.Future[History]]] = []
        self.read: list[tuple[str, History, asyncio.Future[History]]] = []

    # For the hub

    def attach_topic(
        self, topic: str, *, on_payloads: Callable[[list[bytes]], None], on_gap: Callable[[], None]
    ) -> Attachment:
        model = self.topics[topic]
        assert model.attachment is None, "attached twice"
        model.attachment = Attachment(
            on_payloads=on_payloads, on_gap=on_gap, detach=lambda _: self._detach(model), counters=self.counters
        )
        model.attachment._expect(1)
        return model.attachment

    async def read_history(self, topic: str, *, after: int | None) -> History:
        future: asyncio.Future[History] = asyncio.get_running_loop().create_future()
        self.asked.append((topic, after, future))
        return await future

    def _detach(self, model: ModelTopic) -> None:
        assert model.attachment is not None
        model.attachment._close()
        model.attachment, model.is_subscribed = None, False
        model.inbound.clear()

    # For the schedule

    def publish(self, name: str) -> None:
        model = self.topics[name]
        self._begin_if_new(model)
        model.offset += 1
        number = b"%d" % model.offset
        before = b'{"type":"message","topic":"%b","offset":' % name.encode()
        before, after = seal(before, b',"data":["%b",%b]}' % (model.epoch.encode(), number), self._crypter)
        payload = head_of(model.epoch) + number + b"\n" + before + number + after
        model.payloads = [*model.payloads, payload][-self._history_size :] if self._history_size else []
        if model.is_subscribed:
            model.inbound.append(payload)

    def subscribe(self, name: str) -> None:
        model = self.topics[name]
        if model.attachment is not None and not model.is_subscribed:
            model.is_subscribed = True
            model.inbound.append(None)

    def deliver(self, name: str, count: int) -> None:
        """One read from the socket."""
        model = self.topics[name]
        attachment = model.attachment
        for _ in range(min(count, len(model.inbound))):
            assert attachment is not None
            payload = model.inbound.popleft()
            if payload is None:
                attachment._confirm()
            elif not attachment._unconfirmed_count:
                attachment._push(name, payload, None)
        if attachment is not None:
            attachment._flush()
            assert self.counters.failed_count == 0, "a callback has failed, see the log"

    def lose_connection(self) -> None:
        for model in self.topics.values():
            model.inbound.clear()
            model.is_subscribed = False
            if model.attachment is not None and not model.attachment._unconfirmed_count:
                model.attachment._lose()

    def wipe(self) -> None:
        for model in self.topics.values():
            model.offset, model.epoch, model.payloads = 0, "", []

    def read_one(self) -> None:
        if not self.asked:
            return
        name, after, future = self._oldest(self.asked)
        model = self.topics[name]
        self._begin_if_new(model)
        count = 0 if after is None else max(0, model.offset - after)
        publications = [parse(payload, self._crypter) for payload in model.payloads[-count:]] if count else []
        frames = [each.frame for each in publications if each is not None]
        self.read.append((name, History(position=Position(model.offset, model.epoch), frames=frames), future))

    def answer_one(self) -> None:
        if self.read:
            _, history, future = self._oldest(self.read)
            if not future.done():
                future.set_result(history)

    def fail_one(self) -> None:
        if self.asked:
            _, _, future = self.asked.pop(self._chance.randrange(len(self.asked)))
            if not future.done():
                future.set_exception(ConnectionError("the model says no"))

    def _oldest[T: tuple[object, ...]](self, waiting: list[T]) -> T:
        """Of one of the topics."""
        name = self._chance.choice(waiting)[0]
        return waiting.pop(next(index for index, entry in enumerate(waiting) if entry[0] == name))

    def _begin_if_new(self, model: ModelTopic) -> None:
        if not model.epoch:
            self._epoch_count += 1
            model.epoch = f"e{self._epoch_count}"


class Schedule:
    """Runs one hub through a seeded sequence of events."""

    def __init__(self, seed: int, *, history_size: int, is_encrypted: bool = False, lies: float = 0.0) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - a schedule that can be repeated
        crypter = MultiFernet([Fernet(Fernet.generate_key())]) if is_encrypted else None
        self.redis = ModelRedis(self.chance, history_size=history_size, crypter=crypter)
        self.hub = Hub(self.redis, crypter=crypter, backoff=AT_ONCE)
        # How often a client comes back with a position that it never had.
        self.lies = lies
        self.joining: dict[asyncio.Task[Membership], tuple[str, Client]] = {}
        # Everybody who was let in, by topic; and positions at which somebody has left.
        self.clients: dict[str, list[Client]] = {name: [] for name in TOPICS}
        self.left_at: dict[str, list[Position]] = {name: [] for name in TOPICS}

    def join(self, name: str) -> None:
        since = self.chance.choice([None, *self.left_at[name][-3:], *self.left_at[name][-3:]])
        if since is not None and self.chance.random() < self.lies:
            offset = self.chance.choice([0, since.offset, self.redis.topics[name].offset, 10**9])
            since = Position(offset, self.chance.choice([since.epoch, self.redis.topics[name].epoch, "nonsense"]))
        client = Client(since)
        sink: Sink = ClientSink(client)
        if self.chance.random() < 0.5:
            sink = RawSink(ClientWriter(client), limit_bytes=1, on_overflow=lambda: None)
        preface = self.chance.choice([None, PREFACE])
        task = asyncio.create_task(self.hub.join(name, sink, since=since, preface=preface))
        self.joining[task] = (name, client)

    def leave(self, name: str) -> None:
        if self.clients[name]:
            client = self.clients[name].pop(self.chance.randrange(len(self.clients[name])))
            assert client.membership is not None
            assert client.position is not None
            self.hub.leave(client.membership)
            self.hub.leave(client.membership)
            client.has_left = True
            self.left_at[name].append(client.position)

    async def turn(self) -> None:
        """Let the event loop run, and see who was let in."""
        for _ in range(self.chance.randint(1, 4)):
            await asyncio.sleep(0)
        for task in [task for task in self.joining if task.done()]:
            name, client = self.joining.pop(task)
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                client.membership = task.result()
                self.clients[name].append(client)
            assert (client.position is None) == (client.membership is None)

    async def act(self, action: str) -> None:
        name = self.chance.choice(TOPICS)
        match action:
            case "join":
                self.join(name)
            case "leave":
                self.leave(name)
            case "cancel" if self.joining:
                self.chance.choice(list(self.joining)).cancel()
            case "publish":
                for _ in range(self.chance.choice([1, 1, 2, 5])):
                    self.redis.publish(name)
            case "subscribe":
                self.redis.subscribe(name)
            case "deliver":
                self.redis.deliver(name, self.chance.choice([1, 3, 100]))
            case "lose":
                self.redis.lose_connection()
            case "wipe":
                self.redis.wipe()
            case "read":
                self.redis.read_one()
            case "answer":
                self.redis.answer_one()
            case "fail":
                self.redis.fail_one()
        await self.turn()

    async def settle(self) -> None:
        """Let everything that is under way come to its end."""
        for name in TOPICS:
            self.redis.subscribe(name)
        # A healing waits before it asks again.
        while self.joining or self.hub._heal_tasks or self.redis.asked or self.redis.read or any(self._inbound()):
            for name in TOPICS:
                self.redis.subscribe(name)
                self.redis.deliver(name, 10)
            self.redis.read_one()
            self.redis.answer_one()
            await self.turn()

    def _inbound(self) -> list[int]:
        return [len(model.inbound) for model in self.redis.topics.values()]

    def check_everybody_is_there(self) -> None:
        for name in TOPICS:
            model = self.redis.topics[name]
            for client in self.clients[name]:
                # That a counter is gone is seen when something is published on the new one.
                if model.offset:
                    assert client.position == Position(model.offset, model.epoch)

    async def run(self, actions: str, *, count: int = 300) -> None:
        for name in TOPICS * 3:
            self.join(name)
        if self.chance.random() < 0.5:
            await self.settle()
        # Each seed has its own idea of what is slow: deliveries, readings, answers, …
        names = actions.split()
        weights = [self.chance.choice([0.2, 1.0, 3.0]) for _ in names]
        for action in self.chance.choices(names, weights, k=count):
            await self.act(action)
        await self.settle()
        self.check_everybody_is_there()
        for name in TOPICS:
            self.redis.publish(name)
        await self.settle()
        self.check_everybody_is_there()
        assert self.hub.statistics().membership_count == sum(map(len, self.clients.values()))
        for name in TOPICS:
            while self.clients[name]:
                self.leave(name)
        assert self.hub.statistics().topic_count == 0
        assert all(model.attachment is None for model in self.redis.topics.values())
        await self.hub.close()
