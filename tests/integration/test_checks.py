"""What `manage.py check` says of the transport's settings."""

import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.checks import run_checks
from django.test import modify_settings

from project.settings import BASE_DIR
from realtime.layer import RedisChannelLayer

PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"


def found() -> list[str]:
    """The ids of the messages of `manage.py check --tag realtime`."""
    return [message.id for message in run_checks(tags=["realtime"])]


def said(identifier: str) -> str:
    (message,) = [message for message in run_checks(tags=["realtime"]) if message.id == identifier]
    return f"{message.msg} {message.hint}"


def layer(backend: Any, **config: Any) -> dict[str, Any]:
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


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("localhost:6379", "write redis://localhost:6379, rediss://"),
        ("http://user:hush@cache.example/0", "write redis://cache.example/0,"),
        ("", "write redis://localhost:6379/0,"),
        ("redis:/localhost:6379", "write redis://localhost:6379,"),
        ("redis:cache.example/0", "write redis://cache.example/0,"),
        ("redis://cache:port", "the port is not a number"),
        ("redis://:hush#@cache:6379", "%23"),
        ("redis://:hush@cache?time_out=5", "unexpected keyword argument 'time_out'"),
        ("redis://cache?db=main", "Invalid value for 'db'"),
        ("unix://", "write unix:///run/redis.sock"),
        (
            "redis+sentinel://:hush@cache:26379/mymaster/0",
            "a Sentinel (redis+sentinel://…), which is not supported yet",
        ),
        ("sentinel://cache:26379", "an address that always leads to the primary"),
    ],
)
def test_a_url_that_no_client_takes_is_an_error(settings: Any, url: str, text: str) -> None:
    """It says what to write instead; a password stays untold."""
    settings.REALTIME = {"REDIS_URL": url}
    assert found() == ["realtime.E001"]
    assert said("realtime.E001").startswith('REALTIME["REDIS_URL"] ')
    assert text in said("realtime.E001")
    assert "hush" not in said("realtime.E001")


@pytest.mark.parametrize("url", ["redis://", "redis://:p@ss@cache:6380/2", "rediss://cache", "unix:///run/redis.sock"])
def test_a_url_that_a_client_takes_passes(settings: Any, url: str) -> None:
    """Whether a server is there is not asked."""
    settings.REALTIME = {"REDIS_URL": url}
    assert "realtime.E001" not in found()


def test_a_missing_url_is_called_by_its_name(settings: Any) -> None:
    """As it is written in the settings."""
    settings.REALTIME = {}
    assert 'REALTIME["REDIS_URL"] is missing' in said("realtime.E001")


def test_an_origin_that_can_match_nothing_is_an_error(settings: Any) -> None:
    """One message for each, with the entry in it."""
    settings.REALTIME = {
        **settings.REALTIME,
        "ALLOWED_ORIGINS": ["https://a.example", "https://b.example/", "*", "b.example"],
    }
    assert found() == ["realtime.E002"] * 3


@pytest.mark.parametrize(
    "value",
    [
        *(None, {}, [PUBSUB], {"other": {"BACKEND": PUBSUB}}, layer("no.such.Layer"), layer(None), layer(7)),
        *({"default": given} for given in (None, {}, PUBSUB)),
    ],
)
def test_no_channel_layer_is_an_error(settings: Any, value: Any) -> None:
    """Without one no notification reaches a browser, and nothing else would say so before the first connection."""
    settings.CHANNEL_LAYERS = value
    assert found() == ["realtime.E003"]
    assert not re.search(r": ? doesn't", said("realtime.E003"))


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"hosts": "localhost"}, "You must pass a list"),
        ({"hosts": ["localhost:6379"]}, "write redis://localhost:6379"),
        ({"hosts": [{"address": "localhost:6379"}]}, "write redis://localhost:6379"),
        ({"hosts": [{"host": "x", "prot": 6379}]}, "prot"),
        ({"hosts": [7]}, "is of type int"),
        ({"hosts": ["sentinel://x:26379"]}, '"hosts": [{"master_name": "mymaster", "sentinels": [("host", 26379)]}]'),
        (None, "CONFIG"),
    ],
)
@pytest.mark.parametrize("backend", ["realtime.layer.RedisChannelLayer", PUBSUB])
def test_a_config_that_the_layer_refuses_is_an_error(settings: Any, backend: str, config: Any, text: str) -> None:
    """Otherwise the relay, and each web process at its first connection, would end in a traceback."""
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": config}}
    assert found() == ["realtime.E006"]
    assert text in said("realtime.E006")


def test_an_option_that_the_layer_does_not_have_is_an_error(settings: Any) -> None:
    """It is named; the stock layer takes any."""
    settings.CHANNEL_LAYERS = layer("realtime.layer.RedisChannelLayer", hosts=["redis://x"], expry=3)
    assert found() == ["realtime.E006"]
    assert "'expry'" in said("realtime.E006")


@pytest.mark.parametrize("config", [{"hosts": ["redis://other:6379/0"]}, {"hosts": [("x", 6380)]}])
def test_a_layer_on_another_redis_is_a_warning(settings: Any, config: Any) -> None:
    """A project may mean two."""
    settings.REALTIME = {"REDIS_URL": "redis://x"}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "realtime.layer.RedisChannelLayer", "CONFIG": config}}
    assert found() == ["realtime.W005"]
    assert "x:6379" in said("realtime.W005")
    assert "REDIS_URL" in said("realtime.W005")


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("redis://127.0.0.1:6379/1", ["redis://localhost"]),
        ("redis://:secret@x:6380/0", [("x", 6380)]),
        ("unix:///run/redis.sock", [{"address": "unix:///run/redis.sock?db=1"}]),
        ("redis://x", ["redis://x", "redis://y"]),
        ("redis://x", [{"sentinels": [("s", 26379)], "master_name": "main"}]),
    ],
)
def test_a_layer_on_the_same_redis_passes(settings: Any, url: str, hosts: Any) -> None:
    """However both are spelt; which one a Sentinel names is not asked."""
    settings.REALTIME = {"REDIS_URL": url}
    settings.CHANNEL_LAYERS = layer("realtime.layer.RedisChannelLayer", hosts=hosts)
    assert found() == []


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("redis://x", ["embedded:///other"]),
        ("redis://x", ["redis://x", "embedded://?without_debug=1"]),
        ("embedded://", ["embedded:///other"]),
        ("embedded:///one", ["embedded:///one", {"address": "embedded:///other"}]),
    ],
)
@pytest.mark.parametrize("debug", [True, False])
def test_a_layer_on_an_embedded_server_that_nothing_starts_is_an_error(
    settings: Any, url: str, hosts: Any, debug: bool
) -> None:
    """Only the server of REALTIME is started, so the layer would never reach the other."""
    settings.DEBUG = debug
    settings.REALTIME = {"REDIS_URL": url}
    settings.CHANNEL_LAYERS = layer("realtime.layer.RedisChannelLayer", hosts=hosts)
    assert found() == ["realtime.E008"]
    named = hosts[-1]["address"] if isinstance(hosts[-1], dict) else hosts[-1]
    assert f"names {named}, an embedded server that nothing starts" in said("realtime.E008")


@pytest.mark.parametrize("host", ["embedded://", "embedded://{base}/var", {"address": "embedded://{base}/var/"}])
def test_a_layer_on_the_embedded_server_of_the_project_passes(settings: Any, host: Any) -> None:
    """Spelt with its directory or without."""
    settings.REALTIME = {"REDIS_URL": "embedded://"}
    filled = (
        {"address": host["address"].format(base=BASE_DIR)} if isinstance(host, dict) else host.format(base=BASE_DIR)
    )
    settings.CHANNEL_LAYERS = layer("realtime.layer.RedisChannelLayer", hosts=[filled])
    assert found() == []


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
    assert "realtime.W002" in found()
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
    assert "realtime.W002" not in found()


@pytest.mark.parametrize("backend", [PUBSUB, "channels.layers.BaseChannelLayer"])
def test_a_layer_without_offsets_is_a_warning(settings: Any, backend: str) -> None:
    """It is enough for the relay and stock consumers, not for ours; otherwise its timeouts are its own affair."""
    settings.CHANNEL_LAYERS = layer(backend, hosts=[{"address": "redis://x", "socket_timeout": None}])
    assert found() == ["realtime.W004"]
    assert backend in said("realtime.W004")


class OwnLayer(RedisChannelLayer):
    """What a project may have made of it."""


@pytest.mark.parametrize(
    "backend", ["realtime.layer.RedisChannelLayer", "tests.integration.test_checks.OwnLayer"], ids=["ours", "theirs"]
)
@pytest.mark.parametrize("hosts", [["redis://x"], [{"address": "redis://x"}]])
def test_our_layer_passes_however_its_hosts_are_given(settings: Any, backend: str, hosts: Any) -> None:
    """It sets the timeouts itself; so does a subclass."""
    settings.REALTIME = {"REDIS_URL": "redis://x"}
    settings.CHANNEL_LAYERS = layer(backend, hosts=hosts)
    assert found() == []


def test_a_hook_that_is_not_there_is_an_error(settings: Any) -> None:
    """Otherwise every connection would fail on it."""
    settings.REALTIME = {**settings.REALTIME, "ON_READ": "notifications.services.mark_reed"}
    assert found() == ["realtime.E005"]
    assert "mark_reed" in said("realtime.E005")


def test_a_hook_whose_app_is_not_installed_is_an_error() -> None:
    """It cannot be imported then, and that is no reason for a traceback."""
    program = """
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "realtime"],
    REALTIME={"REDIS_URL": "redis://x", "ON_READ": "notifications.services.mark_read"},
)
import django
from django.core.checks import run_checks
django.setup()
print(*sorted(message.id for message in run_checks(tags=["realtime"])))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=BASE_DIR, check=False, capture_output=True, text=True)
    assert done.stdout.split() == ["realtime.E003", "realtime.E005", "realtime.W003"], done.stderr


def test_notifications_without_the_transport_are_an_error(settings: Any) -> None:
    """The transport's own checks are not run then, so nothing else would say it."""
    assert run_checks(tags=["notifications"]) == []
    with modify_settings(INSTALLED_APPS={"remove": "realtime"}):
        (message,) = run_checks(tags=["notifications"])
    assert message.id == "notifications.E005"
    assert '"realtime"' in str(message.hint)


@pytest.mark.parametrize(
    "key", ["UNSENT_LIMIT_BYTES", "TOPICS_PER_CONNECTION", "CONNECTIONS_PER_USER", "FRAMES_PER_SECOND", "FRAMES_BURST"]
)
@pytest.mark.parametrize("value", [0, -1, "many", None])
def test_a_limit_that_lets_nobody_in_is_an_error(settings: Any, key: str, value: Any) -> None:
    """A misunderstood 0 for "no limit" would close every connection."""
    settings.REALTIME = {"REDIS_URL": "redis://x", key: value}
    assert found() == ["realtime.E001"]


def test_a_missing_asgi_application_is_a_warning(settings: Any) -> None:
    """Only runserver needs the setting, and would otherwise serve pages that never connect."""
    settings.ASGI_APPLICATION = None
    assert found() == ["realtime.W003"]


@pytest.mark.parametrize(
    ("url", "hosts", "is_foreign"),
    [
        ("static/", ["shop.example"], False),
        ("/static/", ["shop.example"], False),
        ("https://shop.example/static/", ["shop.example"], False),
        ("https://cdn.shop.example/static/", [".shop.example"], False),
        ("https://cdn.example/static/", ["shop.example"], True),
        ("//cdn.example/static/", ["*"], True),
    ],
)
def test_static_files_of_another_origin_are_told(settings: Any, url: str, hosts: list[str], is_foreign: bool) -> None:
    """Modules need CORS there, and a worker cannot be shared."""
    settings.STATIC_URL, settings.ALLOWED_HOSTS = url, hosts
    assert found() == (["realtime.W007"] if is_foreign else [])
    assert not is_foreign or "cdn.example" in said("realtime.W007")


@pytest.mark.parametrize(
    ("application", "is_warned"),
    [
        ("get_asgi_application()", True),
        ("ASGIStaticFilesHandler(get_asgi_application())", True),
        ('ProtocolTypeRouter({"http": get_asgi_application()})', True),
        ('ProtocolTypeRouter({"http": get_asgi_application(), "websocket": websocket_application()})', False),
        ("lambda scope: None", False),
        ("1 / 0", False),
    ],
)
def test_an_application_without_websockets_is_a_warning(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, application: str, is_warned: bool
) -> None:
    """The asgi.py that `startproject` makes, left as it is; what cannot be looked into passes."""
    name = f"site_{uuid.uuid4().hex}"
    lines = [
        "from channels.routing import ProtocolTypeRouter",
        "from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler",
        "from django.core.asgi import get_asgi_application",
        "from realtime.routing import websocket_application",
        f"application = {application}",
    ]
    (tmp_path / f"{name}.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    settings.ASGI_APPLICATION = f"{name}.application"
    assert found() == (["realtime.W009"] if is_warned else [])
    sys.modules.pop(name, None)
