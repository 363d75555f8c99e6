"""Where a page opens its WebSocket, and where the server answers: under a path, and at an address of its own."""

from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.template import Context, Template
from django.test import RequestFactory
from django.urls import get_script_prefix, set_script_prefix

from realtime.conf import websocket_url
from tests.integration.clients import HOST, Client, session_of
from tests.integration.test_checks import found, said


@pytest.fixture(autouse=True)
def _script_prefix() -> Any:
    before = get_script_prefix()
    yield
    set_script_prefix(before)


def rendered() -> str:
    return Template("{% load signalbox %}{% websocket_url %}").render(Context({"request": RequestFactory().get("/")}))


@pytest.mark.parametrize(
    ("prefix", "url", "expected"),
    [
        ("/", "ws/", "/ws/"),
        ("/app/", "ws/", "/app/ws/"),
        ("/app/", "live/socket/", "/app/live/socket/"),
        ("/app/", "/ws/", "/ws/"),
        ("/app/", "wss://live.example/ws/", "wss://live.example/ws/"),
    ],
)
def test_a_page_is_told_where_its_websocket_is(settings: Any, prefix: str, url: str, expected: str) -> None:
    """A relative path is under the path that the site is under; anything else is taken as it is."""
    settings.REALTIME = {**settings.REALTIME, "WEBSOCKET_URL": url}
    set_script_prefix(prefix)
    assert websocket_url() == rendered() == expected


@pytest.mark.parametrize("url", ["", "//evil.example/", "ftp://x/", "javascript:alert(1)", "ws://", "ws /", "/\\evil"])
def test_a_url_that_is_none_is_refused(settings: Any, url: str) -> None:
    """When the process starts, with an example."""
    settings.REALTIME = {**settings.REALTIME, "WEBSOCKET_URL": url}
    assert found() == ["realtime.E001"]
    assert 'write "ws/"' in said("realtime.E001")


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("signalbox")
@pytest.mark.parametrize(
    ("path", "root_path", "script_name", "is_found"),
    [
        ("/ws/", "", None, True),
        ("/app/ws/", "/app", None, True),
        # Daphne behind a proxy that has taken the path off.
        ("/ws/", "/app", None, True),
        ("/app/ws/", "", "/app", True),
        ("/app/ws/", "", "/app/", True),
        ("/ws/", "", "/app", True),
        # Nothing of it is the path that the site is under.
        ("/apple/ws/", "/app", None, False),
        ("/app/ws/", "", None, False),
        ("/app", "/app", None, False),
    ],
)
async def test_the_server_answers_under_the_path(
    settings: Any, alice: User, path: str, root_path: str, script_name: str | None, is_found: bool
) -> None:
    """As Django does for pages: the server or a setting tells the path, and a proxy may have taken it off."""
    settings.FORCE_SCRIPT_NAME = script_name
    cookie = f"sessionid={await sync_to_async(session_of)(alice)}".encode()
    client = Client(path, [HOST, (b"cookie", cookie)], [])
    client.scope["root_path"] = root_path
    await client.send_input({"type": "websocket.connect"})
    if is_found:
        await client.greeted()
        await client.disconnect()
    else:
        assert (await client.receive_output())["type"] == "websocket.close"
