"""The hub against a model of Redis: whatever the interleaving, a member misses nothing, or is told."""

import pytest

from realtime.broker.publication import History, Position, head_of
from realtime.exceptions import SubscriptionClosed
from realtime.hub.members import Counters
from realtime.hub.topic import LiveTopic
from tests.support.hub_model import TOPICS, Schedule
from tests.support.topic_clients import Client, ClientSink

CALM = "join join leave cancel publish publish publish subscribe deliver deliver read answer"


@pytest.mark.parametrize("seed", range(50))
async def test_on_a_sound_connection_nothing_needs_healing(seed: int) -> None:
    """Joiners come to where the members are, and no member is bothered by it."""
    schedule = Schedule(seed, history_size=10_000)
    await schedule.run(CALM)
    assert schedule.hub.statistics().healed_count == 0


@pytest.mark.parametrize("seed", range(100))
async def test_with_a_long_history_nobody_misses_anything(seed: int) -> None:
    """Lost connections, unread histories and cancelled joiners: whoever comes back gets all that it has missed."""
    schedule = Schedule(seed, history_size=10_000)
    every: list[Client] = []
    schedule.clients = {name: _Remembering(every) for name in TOPICS}
    await schedule.run(f"{CALM} lose fail")
    for client in every:
        assert client.recovered == [client.since is not None]
        assert len(set(client.received)) == len(client.received)
    assert schedule.hub.statistics().unrecovered_count == 0
    assert schedule.hub.statistics().failed_count == 0


@pytest.mark.parametrize("seed", range(100))
async def test_with_a_short_history_whoever_misses_something_is_told(seed: int) -> None:
    """Where history does not reach back, or a client never was where it says, it is told, and gets what follows."""
    schedule = Schedule(seed, history_size=seed % 4, lies=0.5)
    await schedule.run(f"{CALM} lose fail")
    assert schedule.hub.statistics().failed_count == 0


@pytest.mark.parametrize("seed", range(150))
async def test_a_wiped_redis_is_told(seed: int) -> None:
    """A counter that begins anew has another epoch; nobody takes it for the old one, whoever sees it first."""
    schedule = Schedule(seed, history_size=(0, 3, 10_000)[seed % 3], is_encrypted=seed % 10 == 0, lies=0.5)
    await schedule.run(f"{CALM} lose fail wipe")
    assert schedule.hub.statistics().failed_count == 0


@pytest.mark.parametrize("seed", range(50))
async def test_what_is_too_much_to_hold_is_read_again(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than may be held or remembered is dropped, and had from history instead; who cannot have it is told."""
    monkeypatch.setattr("realtime.hub.topic.HELD_LIMIT_BYTES", 100)
    schedule = Schedule(seed, history_size=10_000)
    await schedule.run("join leave publish publish deliver read answer" + " lose subscribe" * (seed % 2))
    assert schedule.hub.statistics().unrecovered_count == 0


def publication(number: int, epoch: str = "e1") -> bytes:
    """A payload as Redis brings it."""
    return b'%b%d\n{"type":"message","topic":"a","offset":%d,"data":["%b",%d]}' % (
        head_of(epoch),
        number,
        number,
        epoch.encode(),
        number,
    )


def history_at(number: int, count: int = 0) -> History:
    """The newest `count` publications of epoch e1 up to `number`."""
    payloads = [publication(each) for each in range(number - count + 1, number + 1)]
    return History(position=Position(number, "e1"), frames=[payload.partition(b"\n")[2] for payload in payloads])


@pytest.fixture
def topic() -> LiveTopic:
    """A topic at offset 5 of epoch e1, without members."""
    topic = LiveTopic("a", counters=Counters(), crypter=None, on_gap=lambda _: None)
    topic.catch_up(history_at(5))
    return topic


async def test_a_joiner_that_is_ahead_is_told_of_a_new_counter_too(topic: LiveTopic) -> None:
    """It was sent more than the members, who then never come to where it is: it goes on with them."""
    member, joiner = Client(None), Client(Position(5, "e1"))
    topic.admit(ClientSink(member), since=None, history=None, preface=None)
    topic.admit(ClientSink(joiner), since=joiner.since, history=history_at(7, 2), preface=None)
    assert (member.position, joiner.position) == ((5, "e1"), (7, "e1"))
    topic.take([publication(1, "e2")])
    assert member.position == joiner.position == (1, "e2")
    assert (member.recovered, joiner.recovered) == ([False, False], [True, False])


async def test_a_new_counter_after_one_without_publications_is_no_loss() -> None:
    """It had been made for who asked, and has expired: members learn the new epoch, and have missed nothing."""
    topic = LiveTopic("a", counters=Counters(), crypter=None, on_gap=lambda _: None)
    member = Client(None)
    topic.admit(ClientSink(member), since=None, history=history_at(0), preface=None)
    topic.take([publication(1, "e2"), publication(2, "e2")])
    assert member.position == (2, "e2")
    assert member.recovered == [False, True]


@pytest.mark.parametrize(("limit_bytes", "is_remembered"), [(10_000, True), (100, False)])
async def test_what_is_sent_while_a_history_is_read_is_remembered(
    topic: LiveTopic, monkeypatch: pytest.MonkeyPatch, limit_bytes: int, is_remembered: bool
) -> None:
    """A joiner whose history is older than where the members are by now gets the rest too, or is told."""
    monkeypatch.setattr("realtime.hub.topic.HELD_LIMIT_BYTES", limit_bytes)
    joiner = Client(Position(4, "e1"))
    topic.begin_join()
    topic.take([publication(6), publication(7), publication(8)])
    topic.admit(ClientSink(joiner), since=joiner.since, history=history_at(6, 3), preface=None)
    assert joiner.position == (8, "e1")
    assert joiner.received == [("e1", number) for number in ((5, 6, 7, 8) if is_remembered else (8,))]
    assert joiner.recovered == [is_remembered]
    assert joiner.lost_counts == [None if is_remembered else 3]


async def test_members_are_told_what_each_of_them_has_lost(topic: LiveTopic) -> None:
    """One that was sent more than the others has lost less, or nothing; all go on together."""
    member, near, far = Client(None), Client(Position(5, "e1")), Client(Position(5, "e1"))
    topic.admit(ClientSink(member), since=None, history=None, preface=None)
    topic.admit(ClientSink(near), since=near.since, history=history_at(7, 2), preface=None)
    topic.admit(ClientSink(far), since=far.since, history=history_at(12, 7), preface=None)
    topic.catch_up(history_at(14, 4))
    topic.take([publication(15)])
    assert member.position == near.position == far.position == (15, "e1")
    assert (member.lost_counts, near.lost_counts, far.lost_counts) == ([None, 5], [None, 3], [None])
    assert [offset for _, offset in member.received] == [11, 12, 13, 14, 15]
    assert [offset for _, offset in near.received] == [6, 7, 11, 12, 13, 14, 15]
    assert [offset for _, offset in far.received] == list(range(6, 16))


async def test_members_get_what_is_kept_of_a_new_counter(topic: LiveTopic) -> None:
    """How much they have missed of the old one nobody knows."""
    member = Client(None)
    topic.admit(ClientSink(member), since=None, history=None, preface=None)
    frames = [publication(number, "e2").partition(b"\n")[2] for number in (2, 3)]
    topic.catch_up(History(position=Position(3, "e2"), frames=frames))
    assert member.received == [("e2", 2), ("e2", 3)]
    assert (member.recovered, member.lost_counts) == ([False, False], [None, None])


class _Remembering(list[Client]):
    """A list that also puts down in another what was ever in it."""

    def __init__(self, every: list[Client]) -> None:
        super().__init__()
        self._every = every

    def append(self, client: Client) -> None:
        self._every.append(client)
        super().append(client)


async def test_a_closed_hub_lets_nobody_in() -> None:
    """Whoever is on the way in when the hub is closed is told so; members are written nothing any more."""
    schedule = Schedule(0, history_size=10)
    for name in TOPICS:
        schedule.join(name)
    await schedule.turn()
    schedule.redis.subscribe("a")
    schedule.redis.deliver("a", 1)
    await schedule.turn()
    schedule.redis.read_one()
    await schedule.hub.close()
    schedule.redis.answer_one()
    for task in tuple(schedule.joining):
        with pytest.raises(SubscriptionClosed):
            await task
    assert schedule.hub.statistics().topic_count == 0
    assert schedule.hub.statistics().membership_count == 0
