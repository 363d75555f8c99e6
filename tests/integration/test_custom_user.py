"""The two apps in another project, whose users have a key of another type."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
import redis

from realtime.redis.keys import Keys
from tests.custom_user.running import reported, run
from tests.support.domain import entries_on_stream
from tests.support.redis_server import RedisServer


@pytest.mark.parametrize("model", ["UuidUser", "TextUser"])
def test_a_project_with_its_own_user_model_notifies(
    model: str, redis_server: RedisServer, redis_client: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    """Its keys are on the stream as texts, and what is not one of them is refused."""
    report = reported("notify_all_ways", model=model, url=redis_server.url, keys=keys, directory=tmp_path)
    alice, bob = report["ids"]
    entries = entries_on_stream(redis_client, keys)
    assert sorted((entry["e"]["message"], entry["u"]) for entry in entries) == sorted(
        [
            *(("each once", user_id) for user_id in (alice, bob)),
            *(("all", user_id) for user_id in (alice, bob)),
            ("one", alice),
            *(("by name or id", user_id) for user_id in (alice, bob)),
        ]
    )
    assert report["read_count"] == 4
    assert len(report["errors"]) == 3


@pytest.mark.parametrize(
    ("model", "user_keys"),
    [
        (
            "EmailUser",
            [
                *[
                    "alice@example.com",
                    "bob+news@bücher.example",
                    "plain_name",
                    "user.42",
                    ".hidden",
                    "..",
                    "a b/c?*[1]",
                ],
                *["é" * 254, "x" * 94, "x" * 95, "😀\u200d\n\t", "None", "0"],
            ],
        ),
        ("UuidUser", [str(uuid.uuid4()), str(uuid.uuid4())]),
        ("NumberUser", [42, -7, 2**53 + 1, 2**63 - 1]),
    ],
)
def test_users_of_any_key_hear_and_are_sent_what_is_theirs(
    model: str,
    user_keys: list[Any],
    redis_server: RedisServer,
    redis_client: redis.Redis,
    keys: Keys,
    tmp_path: Path,
) -> None:
    """From notify() and from another program, to the socket and the bot; no user can subscribe to another's topic."""
    options = ["--numbers"] if model == "NumberUser" else []
    where: Any = {"url": redis_server.url, "keys": keys, "directory": tmp_path}
    report = reported("live_site", json.dumps(user_keys), *options, model=model, **where)
    assert list(report) == [str(key) for key in user_keys]
    topics = [each["topic"] for each in report.values()]
    assert len(set(topics)) == len(topics)
    for key, each in report.items():
        assert set(each["heard"]) == set(each["sent"]) == {f"by notify for {key}", f"by PUBLISH for {key}"}
        assert (len(each["heard"]), len(each["sent"])) == (2, 2)
        hello, *objects = each["objects"]
        assert (str(hello["user_id"]), hello["topic"]) == (key, each["topic"])
        assert {one["topic"] for one in objects if one["type"] != "error"} == {each["topic"]}
        assert {one["topic"] for one in objects if one["type"] == "error"} == set(topics) - {each["topic"]}
        assert {one["code"] for one in objects if one["type"] == "error"} <= {"forbidden"}
    assert not redis_client.exists(*(keys.dead_letters("notifications", group) for group in ("relay", "bot")))


def test_a_key_without_a_lasting_text_is_refused(redis_server: RedisServer, keys: Keys, tmp_path: Path) -> None:
    """By a system check, before anything is sent."""
    where: Any = {"url": redis_server.url, "keys": keys, "directory": tmp_path}
    done = run("-m", "django", "check", "--tag", "notifications", model="DecimalUser", **where)
    assert done.returncode != 0
    assert "(notifications.E007) The primary key of custom_user.DecimalUser is a DecimalField" in done.stderr
    for model in ("UuidUser", "TextUser"):
        done = run("-m", "django", "check", "--tag", "notifications", model=model, **where)
        assert "E007" not in done.stderr
