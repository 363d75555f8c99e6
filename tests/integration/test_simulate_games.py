"""`manage.py simulate_games`: what it leaves in Redis and on the stream, and how it ends."""

import io
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command

from project.demo.games.play import CLEANING, QUEUE, play
from project.demo.games.store import LIFETIME_SECONDS, GameState, delete_game, finish_game, load_game, save_damage
from realtime.logs import LogRecord, RedisStreamHandler
from realtime.logs.record import decode_record
from realtime.redis.keys import Keys
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.usefixtures("signalbox", "handler"), pytest.mark.database_independent]


@pytest.fixture
def handler(keys: Keys, redis_server: RedisServer, redis_client: redis.Redis) -> Iterator[RedisStreamHandler]:
    """The handler of the games' logger: it appends to the stream of this test. The logger has no other handler."""
    logger = logging.getLogger("project.demo.games")
    before = logger.handlers[:]
    handler = RedisStreamHandler(redis_url=redis_server.url, key_prefix=keys.prefix)
    logger.handlers[:] = [handler]
    yield handler
    logger.handlers[:] = before
    handler.close()
    for name in redis_client.scan_iter(match=f"*{keys.prefix}logs*"):
        redis_client.delete(name)


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    assert before == {number: signal.getsignal(number) for number in before}, (
        "the command restores the handlers of signals"
    )


def run(*arguments: str) -> dict[str, Any]:
    out = io.StringIO()
    call_command("simulate_games", "--json", "--pause", "0", *arguments, stdout=out, stderr=io.StringIO())
    result: dict[str, Any] = json.loads(out.getvalue())
    return result


def refused(*arguments: str) -> tuple[CommandError, str]:
    """The error of a command that fails, and what it has printed."""
    out = io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command("simulate_games", "--pause", "0", *arguments, stdout=out, stderr=io.StringIO())
    return caught.value, out.getvalue()


@pytest.fixture
def records(redis_client: redis.Redis, keys: Keys, handler: RedisStreamHandler) -> Callable[[], list[LogRecord]]:
    """What is on the stream."""

    def read() -> list[LogRecord]:
        handler.flush()
        found: Any = redis_client.xrange(keys.stream("logs"))
        return [decode_record(fields[b"record"]) for _, fields in found]

    return read


@pytest.fixture
def in_redis(redis_client: redis.Redis, keys: Keys) -> Callable[[], set[str]]:
    """The tokens of the games that Redis knows."""

    def read() -> set[str]:
        names = redis_client.scan_iter(match=f"{keys.prefix}demo:*", count=1000)
        return {name.decode().partition("{game:")[2].partition("}")[0] for name in names}

    return read


# The state of a game --------------------------------------------------------------------------------------------------


def test_a_game_can_be_loaded_when_it_is_over(redis_client: redis.Redis, keys: Keys) -> None:
    """It can be loaded until it is deleted. Deleting twice is harmless. Each key expires."""
    save_damage("t", {"Hush": 0, "Salt Witch": 3})
    save_damage("t", {"Hush": 40, "Salt Witch": 3})
    assert load_game("t") is None
    finish_game("t", {"winner": "Hush", "rounds": 2}, ["Hush", "Salt Witch"])
    assert load_game("t") == GameState(
        about={"winner": "Hush", "rounds": 2}, damage={"Hush": 40, "Salt Witch": 3}, ranks=["Hush", "Salt Witch"]
    )
    names = [*redis_client.scan_iter(match=f"{keys.prefix}demo:*")]
    assert len(names) == 2
    assert all(0 < redis_client.ttl(name) <= LIFETIME_SECONDS for name in names)
    for _ in range(2):
        delete_game("t")
        assert load_game("t") is None
    assert not [*redis_client.scan_iter(match=f"{keys.prefix}demo:*")]


def test_a_game_without_damage_is_a_game() -> None:
    save_damage("t", {})
    finish_game("t", {}, ["Hush"])
    assert load_game("t") == GameState(about={}, damage={}, ranks=["Hush"])


def test_games_do_not_touch_each_other() -> None:
    """Each has its own keys, even if one token begins with another one."""
    for token in ("t", "tt"):
        save_damage(token, {"Hush": len(token)})
        finish_game(token, {}, ["Hush"])
    delete_game("t")
    game = load_game("tt")
    assert game is not None
    assert game.damage == {"Hush": 2}


# One game -------------------------------------------------------------------------------------------------------------


def test_the_record_that_asks_for_files_is_the_last(records: Callable[[], list[LogRecord]]) -> None:
    """When it is logged, everything that the files are made of is in Redis."""
    token = play(players=5, seed=1)
    *_, won, cleaning = found = records()
    assert {(record.queue, record.task["game_token"]) for record in found} == {(QUEUE, token)}
    assert [record.message for record in found].count(CLEANING) == 1
    assert cleaning.message == CLEANING
    assert cleaning.task.keys() == {"game_token", "user_token"}
    game = load_game(token)
    assert game is not None
    assert won.message == f"{game.about['winner']} has won"
    assert game.damage.keys() == {*game.ranks}
    assert len(game.ranks) == game.about["players"] == 5


def test_a_game_that_is_broken_off_leaves_nothing(
    records: Callable[[], list[LogRecord]], in_redis: Callable[[], set[str]]
) -> None:
    """It does not ask for its files, so no sink would delete it in Redis."""

    class BrokenOffError(Exception):
        pass

    rounds = iter(range(2))

    def pause() -> None:
        if next(rounds, None) is None:
            assert in_redis()
            raise BrokenOffError

    with pytest.raises(BrokenOffError):
        play(players=10, seed=1, pause=pause)
    assert not in_redis()
    messages = [record.message for record in records()]
    assert messages
    assert CLEANING not in messages


# The command ----------------------------------------------------------------------------------------------------------


def test_it_says_which_games_were_played(
    records: Callable[[], list[LogRecord]], in_redis: Callable[[], set[str]]
) -> None:
    """The command prints one JSON object, or one sentence. When it ends, all records are on the stream."""
    result = run("--games", "3", "--players", "2")
    assert (result["games"], len(result["tokens"])) == (3, 3)
    assert result["seconds"] >= 0
    asking = [record.task["game_token"] for record in records() if record.message == CLEANING]
    assert {*asking} == {*result["tokens"]} == in_redis()
    out = io.StringIO()
    call_command("simulate_games", games=1, players=3, pause=0, stdout=out)
    assert out.getvalue().startswith("1 game was played in ")
    out = io.StringIO()
    call_command("simulate_games", games=2, players=3, pause=0, stdout=out)
    assert out.getvalue().startswith("2 games were played in ")


def test_the_same_seed_makes_the_same_games() -> None:
    """Only their tokens differ."""

    def ranks(*arguments: str) -> list[Any]:
        games = [load_game(token) for token in run("--games", "4", *arguments)["tokens"]]
        return sorted(list(game.ranks) for game in games if game)

    assert ranks("--seed", "7") == ranks("--seed", "7") != ranks("--seed", "8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--games", "0"], "--games must be from 1 to 100000"),
        (["--games", "-1"], "--games must be from 1 to 100000"),
        (["--games", "100001"], "--games must be from 1 to 100000"),
        (["--games", "many"], "argument --games: invalid int value: 'many'"),
        (["--players", "0"], "--players must be from 2 to 1000"),
        (["--players", "1"], "--players must be from 2 to 1000"),
        (["--players", "-3"], "--players must be from 2 to 1000"),
        (["--players", "1001"], "--players must be from 2 to 1000"),
        (["--pause", "-0.1"], "--pause must be from 0 to 60 seconds"),
        (["--pause", "nan"], "--pause must be from 0 to 60 seconds"),
        (["--pause", "inf"], "--pause must be from 0 to 60 seconds"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], message: str, records: Callable[[], list[LogRecord]]
) -> None:
    """No game begins."""
    error, printed = refused(*arguments)
    assert message in str(error)
    assert printed == ""
    assert records() == []


def test_the_largest_game_is_played() -> None:
    (token,) = run("--games", "1", "--players", "1000")["tokens"]
    game = load_game(token)
    assert game is not None
    assert len({*game.ranks}) == 1000


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even for few games, because they may take minutes. Elsewhere, the standard error stays empty."""
    monkeypatch.setenv("TERM", "xterm")
    for stream, is_shown in ((Terminal(), True), (io.StringIO(), False)):
        call_command("simulate_games", games=3, players=2, pause=0, stdout=io.StringIO(), stderr=stream)
        assert ("3/3" in stream.getvalue()) == is_shown


# Its end --------------------------------------------------------------------------------------------------------------


@contextmanager
def signalled(number: int, fact: Callable[[], object]) -> Iterator[None]:
    """This process gets a signal as soon as `fact()` is true."""

    def send() -> None:
        wait_until_sync(fact)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    yield
    thread.join()


def game_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("game_")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_games_that_run(
    number: signal.Signals, in_redis: Callable[[], set[str]], records: Callable[[], list[LogRecord]]
) -> None:
    """They end at once, however long they pause, and are deleted in Redis. The exit code is that of the signal."""
    with signalled(number, in_redis):
        error, printed = refused("--json", "--games", "20", "--pause", "60")
    assert error.returncode == 128 + number
    assert str(error) == "stopped: 0 of 20 games were played. Those that were not over are deleted in Redis"
    assert json.loads(printed)["tokens"] == []
    assert not in_redis()
    assert not [record for record in records() if record.message == CLEANING]
    assert game_threads() == []


def test_a_signal_keeps_the_games_that_are_over(
    redis_client: redis.Redis, in_redis: Callable[[], set[str]], records: Callable[[], list[LogRecord]]
) -> None:
    """Each of them has asked for its files, and the command prints its token."""
    with signalled(signal.SIGINT, lambda: any(record.message == CLEANING for record in records())):
        error, printed = refused("--json", "--games", "2000", "--players", "3", "--pause", "0.05")
    result = json.loads(printed)
    assert 1 <= result["games"] < 2_000
    assert f"stopped: {result['games']} of 2000 games were played" in str(error)
    asking = {record.task["game_token"] for record in records() if record.message == CLEANING}
    assert asking == {*result["tokens"]} == in_redis()


def test_without_redis_it_ends_with_one_line(settings: Any, records: Callable[[], list[LogRecord]]) -> None:
    """No record is logged."""
    settings.REALTIME = {**settings.REALTIME, "REDIS_URL": "unix:///nobody.sock"}
    error, printed = refused("--games", "20")
    assert str(error).startswith("Redis: ConnectionError")
    assert printed == ""
    assert records() == []
    assert game_threads() == []


def test_a_redis_that_dies_ends_it(settings: Any) -> None:
    """The other games end too, however long they would pause."""
    with RedisServer() as server:
        settings.REALTIME = {**settings.REALTIME, "REDIS_URL": server.url}

        def kill() -> None:
            with redis.Redis.from_url(server.url) as client:
                wait_until_sync(client.dbsize)
            server.kill()

        thread = threading.Thread(target=kill)
        thread.start()
        error, _ = refused("--games", "5000", "--pause", "0.05")
        thread.join()
    assert str(error).startswith("Redis: ConnectionError")
    assert game_threads() == []
