"""The demo's games become files: real processes, which are killed at any moment."""

import contextlib
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from project.demo.games.combat import Game
from realtime.redis.keys import Keys
from realtime.streams.keys import GroupKeys
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent]

ROOT = Path(__file__).resolve().parent.parent.parent
KEYS = Keys()
SINKS = ("Games", "GameLog")
GAMES, PLAYERS, WORKERS = 24, 10, 4
# Enough for a machine with two busy cores.
SECONDS = 120.0


class Pipeline:
    """A directory for files, a Redis, games, and workers."""

    def __init__(self, directory: Path, server: RedisServer) -> None:
        self.directory = directory
        self.client = redis.Redis.from_url(server.url)
        self._environment = {
            **{name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "GAMES_URL")},
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "VAR_DIR": str(directory),
            "REDIS_URL": server.url,
            # Longer than a process stands still on a busy machine.
            "GAMES_LEASE_SECONDS": "3",
            "LOG_LEVEL": "WARNING",
        }

    def simulate(self, *options: str) -> dict[str, Any]:
        """Play games to their end, and return what the command prints."""
        command = [sys.executable, "manage.py", "simulate_games", "--json", *options]
        done = subprocess.run(command, cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command; its output is that of the test."""
        return subprocess.Popen([sys.executable, "manage.py", *arguments], cwd=ROOT, env=self._environment)

    @contextlib.contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run one worker."""
        process = self.start("run_log_sink")
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def is_ready(self, worker: subprocess.Popen[bytes]) -> bool:
        """Whether a worker takes part in both sinks; it handles signals since before that."""
        stream = KEYS.stream("logs")
        leases = [GroupKeys(stream, name).worker_lease(f"*-{worker.pid}-*") for name in SINKS]
        return all(any(self.client.scan_iter(match=lease)) for lease in leases)

    def is_read(self, *sinks: str) -> bool:
        """Whether workers of these sinks have read every record."""
        stream = KEYS.stream("logs")
        try:
            groups = {group["name"].decode(): group for group in self.client.xinfo_groups(stream)}
        except redis.ResponseError:
            return False
        newest = self.client.xinfo_stream(stream)["last-generated-id"]
        return all(name in groups and groups[name]["last-delivered-id"] == newest for name in sinks)

    def is_finished(self, *sinks: str) -> bool:
        """Whether these sinks, by default all, have finished every record."""
        stream, sinks = KEYS.stream("logs"), sinks or SINKS
        return self.is_read(*sinks) and all(
            self.client.xpending(stream, name)["pending"] == 0
            and not self.client.exists(GroupKeys(stream, name).parked)
            for name in sinks
        )

    def stop(self, *workers: subprocess.Popen[bytes]) -> None:
        """End workers by SIGTERM, when they have started."""
        for worker in workers:
            wait_until_sync(lambda worker=worker: self.is_ready(worker), seconds=SECONDS)
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        for worker in workers:
            assert worker.wait(SECONDS) == 0

    def files(self, kind: str) -> dict[str, Any]:
        """Token → content of the complete files of a kind."""
        return {
            path.name.removesuffix(".json.gz"): json.loads(gzip.decompress(path.read_bytes()))
            for path in (self.directory / "games/games" / kind).glob("*")
        }

    def logged(self) -> Counter[tuple[str, str]]:
        """How often each record is in the archive, by game and message."""
        lines = [
            json.loads(line)
            for path in (self.directory / "games/log").glob("*/*.gz")
            for line in gzip.decompress(path.read_bytes()).splitlines()
        ]
        return Counter((line["task"]["game_token"], line["timestamp"] + line["message"]) for line in lines)


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    with RedisServer() as server:
        pipeline = Pipeline(tmp_path, server)
        yield pipeline
        pipeline.client.close()


def assert_complete(pipeline: Pipeline, tokens: list[str]) -> None:
    """Each game has one file of each kind, with the result that the rules and the seed give."""
    meta, podium = pipeline.files("meta"), pipeline.files("podium")
    assert sorted(meta) == sorted(podium) == sorted(tokens)
    for token, about in meta.items():
        game = Game.with_players(about["players"], random.Random(about["seed"]))  # noqa: S311 - a game
        for _ in game.play():
            pass
        ranks = [hero.name for hero in (*game.living, *reversed(game.dead))]
        assert [each["hero"] for each in podium[token]] == ranks
        assert {each["hero"]: each["damage"] for each in podium[token]} == {
            hero.name: hero.damage for hero in game.heroes
        }
        assert (about["rounds"], about["winner"]) == (game.round_count, ranks[0])
    assert not [*pipeline.client.scan_iter("demo:*")], "the games are deleted in Redis"
    for name in SINKS:
        assert not pipeline.client.exists(GroupKeys(KEYS.stream("logs"), name).dead_letters)


def test_each_game_becomes_one_file_of_each_kind(pipeline: Pipeline) -> None:
    """And every record is in the archive once. SIGTERM ends a worker when its files are written."""
    with pipeline.worker() as worker:
        result = pipeline.simulate("--games", "6", "--players", "5", "--pause", "0", "--seed", "1")
        wait_until_sync(lambda: pipeline.is_finished("Games") and pipeline.is_read("GameLog"), seconds=SECONDS)
        pipeline.stop(worker)
    assert pipeline.logged()
    with pipeline.worker() as worker:
        # The first one may have left records that it had read and not begun.
        wait_until_sync(pipeline.is_finished, seconds=SECONDS)
        pipeline.stop(worker)
    assert_complete(pipeline, result["tokens"])
    logged = pipeline.logged()
    assert set(logged.values()) == {1}
    assert Counter(token for token, _ in logged).keys() == set(result["tokens"])
    assert not pipeline.client.exists(KEYS.written_files("logs", "GameLog"))
    # Only a worker that is killed while it writes may leave one, for an hour.
    assert not [*pipeline.directory.glob("games/*/.tmp/*")], "no temporary file is left"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(5))
def test_no_game_is_lost_or_doubled_when_workers_are_killed(pipeline: Pipeline, seed: int) -> None:
    """Four workers, one of which is killed again and again at a random moment, and another one started."""
    dice = random.Random(seed)  # noqa: S311 - the test is the same each time
    workers = [pipeline.start("run_log_sink") for _ in range(WORKERS)]
    players = pipeline.start("simulate_games", "--json", f"--games={GAMES}", f"--seed={seed}", "--pause=0.2")
    kill_count = 0
    try:
        while players.poll() is None or kill_count < 6:
            time.sleep(dice.uniform(0.1, 1.5))
            victim = workers.pop(dice.randrange(WORKERS))
            victim.kill()
            victim.wait()
            kill_count += 1
            workers.append(pipeline.start("run_log_sink"))
        assert players.returncode == 0
        wait_until_sync(pipeline.is_finished, seconds=SECONDS)
        pipeline.stop(*workers)
    finally:
        for process in (*workers, players):
            process.kill()
            process.wait()
    tokens = sorted(pipeline.files("meta"))
    assert len(tokens) == GAMES
    assert_complete(pipeline, tokens)
    logged = pipeline.logged()
    assert {token for token, _ in logged} == set(tokens)
    doubled = {record: count for record, count in logged.items() if count > 1}
    assert not doubled
