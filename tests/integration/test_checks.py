"""What `manage.py check` says of the transport's settings."""

from typing import Any

import pytest
import redis
from django.core.checks import run_checks

PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"


def found() -> list[str]:
    """The ids of the messages of `manage.py check --tag realtime`."""
    return [message.id for message in run_checks(tags=["realtime"])]


def said(identifier: str) -> str:
    (message,) = [message for message in run_checks(tags=["realtime"]) if message.id == identifier]
    return f"{message.msg} {message.hint}"


def layer(backend: str, **config: Any) -> dict[str, Any]:
    return {"default": {"BACKEND": backend, "CONFIG": config}}


def test_the_project_itself_passes(settings: Any) -> None:
    """Settings as they are shipped."""
    assert found() == []


@pytest.mark.parametrize(
    "value", [None, {}, {"REDIS_URL": 7}, {"REDIS_URL": "redis://x", "REDIS_URI": ""}, "redis://x"]
)
def test_bad_settings_are_an_error(settings: Any, value: Any) -> None:
    """REALTIME missing, without a URL, of wrong types, or with a misspelt key; the message says which."""
    settings.REALTIME = value
    assert found() == ["realtime.E001"]
    assert "REALTIME" in said("realtime.E001")


def test_an_origin_that_can_match_nothing_is_an_error(settings: Any) -> None:
    """One message for each, with the entry in it."""
    settings.REALTIME = {
        "REDIS_URL": "redis://x",
        "ALLOWED_ORIGINS": ["https://a.example", "https://b.example/", "*", "b.example"],
    }
    assert found() == ["realtime.E002"] * 3


@pytest.mark.parametrize("value", [None, {}, {"other": {"BACKEND": PUBSUB}}, {"default": {}}, layer("no.such.Layer")])
def test_no_channel_layer_is_an_error(settings: Any, value: Any) -> None:
    """Without one no notification reaches a browser, and nothing else would say so before the first connection."""
    settings.CHANNEL_LAYERS = value
    assert found() == ["realtime.E003"]


def test_a_layer_in_memory_is_an_error_in_production_and_a_warning_before(settings: Any) -> None:
    """The relay is another process, so what it sends would reach nobody, silently."""
    settings.CHANNEL_LAYERS = layer("channels.layers.InMemoryChannelLayer")
    settings.DEBUG = False
    assert found() == ["realtime.E004"]
    settings.DEBUG = True
    assert found() == ["realtime.W001"]


@pytest.mark.parametrize("backend", [PUBSUB, "channels_redis.core.RedisChannelLayer"])
@pytest.mark.parametrize(
    "hosts",
    [
        None,
        ["redis://x"],
        [("127.0.0.1", 6379)],
        [{"address": "redis://x"}],
        [{"address": "redis://x", "socket_timeout": 60}],
        [{"address": "redis://x", "socket_timeout": None}, "redis://y"],
    ],
)
def test_hosts_whose_idle_connections_are_cut_are_warned_of(settings: Any, backend: str, hosts: Any) -> None:
    """redis-py 8 gives every connection a timeout of 5 s unless told otherwise; the hint shows how to tell it."""
    settings.CHANNEL_LAYERS = layer(backend, hosts=hosts)
    assert found() == ["realtime.W002"]
    assert redis.__version__ in said("realtime.W002")
    assert '"socket_timeout": None' in said("realtime.W002")


def test_hosts_without_a_timeout_pass(settings: Any) -> None:
    """By URL, by parts, or through Sentinel."""
    settings.CHANNEL_LAYERS = layer(
        PUBSUB,
        hosts=[
            {"address": "redis://x", "socket_timeout": None},
            {"host": "x", "port": 6379, "socket_timeout": None},
            {"sentinels": [("x", 26379)], "master_name": "main", "socket_timeout": None},
        ],
    )
    assert found() == []


def test_a_layer_of_ones_own_is_not_second_guessed(settings: Any) -> None:
    """Its timeouts are its own affair."""
    settings.CHANNEL_LAYERS = layer("channels.layers.BaseChannelLayer")
    assert found() == []


def test_a_missing_asgi_application_is_a_warning(settings: Any) -> None:
    """Only runserver needs the setting, and would otherwise serve pages that never connect."""
    settings.ASGI_APPLICATION = None
    assert found() == ["realtime.W003"]
