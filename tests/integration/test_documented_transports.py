"""
Webhooks, web push and a transport of your own, set up as the page says: to a real receiver, and to a stand-in for a
push service.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.checks import run_checks

from notifications import services
from notifications.transports.registry import load_transport
from tests.acceptance.site import free_port
from tests.integration.test_webpush_transport import Browser
from tests.support.howto import Block, blocks_of, commands_of
from tests.support.messages import KEY, envelope, message
from tests.support.receivers import Reply, http_receiver
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.django_db(transaction=True)
PAGE = "how-to/deliver-by-email-and-more.md"
BLOCKS: dict[str, Block] = {
    block.path: block
    for block in blocks_of(PAGE)
    if "static files" not in block.how and not block.how.endswith("for the pager")
}
(PAGER_SETTINGS,) = [block for block in blocks_of(PAGE) if block.how.endswith("for the pager")]
SAID = envelope(kind="order.shipped", message="On its way")


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, str]:
    """What the page's program makes."""
    for name in ("make_secrets.py", "receiver.py"):
        BLOCKS[name].put_into(tmp_path)
    assert commands_of(PAGE)["make the secrets"] == ["python make_secrets.py"]
    done = subprocess.run([sys.executable, "make_secrets.py"], cwd=tmp_path, check=True, capture_output=True, text=True)
    return dict(re.findall(r"^(\w+)=(.+)$", done.stdout, re.MULTILINE))


@pytest.fixture
def configured(secrets: dict[str, str], settings: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The settings of the page, with which the checks have nothing to say."""
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    found: dict[str, Any] = {}
    exec(BLOCKS["mysite/settings.py"].text, found)  # noqa: S102 - our own page
    settings.NOTIFICATIONS = found["NOTIFICATIONS"]
    assert run_checks(tags=["notifications"]) == []
    return found["NOTIFICATIONS"]  # type: ignore[no-any-return]


@pytest.fixture
def receiver(tmp_path: Path, secrets: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """Its URL, and what it prints."""
    assert commands_of(PAGE)["the receiver"] == ["python receiver.py 9000"]
    url, log = f"http://127.0.0.1:{(port := free_port())}/", tmp_path / "receiver.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "receiver.py", str(port)],
            cwd=tmp_path,
            env={**os.environ, "WEBHOOK_SECRET": secrets["WEBHOOK_SECRET"]},
            stdout=output,
            stderr=output,
        )

    def listens() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(url).status_code == HTTPStatus.NOT_IMPLEMENTED
        except httpx.TransportError:
            return False

    try:
        wait_until_sync(listens, seconds=60)
        yield url, log
    finally:
        process.kill()
        process.wait()


async def test_the_receiver_of_the_page_takes_what_is_signed_and_nothing_else(
    configured: dict[str, Any], settings: Any, receiver: tuple[str, Path], alice: User
) -> None:
    url, log = receiver
    configured["TRANSPORTS"]["webhook"]["OPTIONS"].update(url=url, allow_private=True)
    settings.NOTIFICATIONS = {**configured}
    transport = load_transport("webhook")
    (address,) = await sync_to_async(lambda: list(transport.find_addresses(alice)))()
    assert (await transport.send(message(alice, said=SAID), address)).startswith("204")
    assert f"{KEY} order.shipped On its way\n" in log.read_text()
    async with httpx.AsyncClient() as client:
        forged = {"webhook-id": "x", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}
        assert (await client.post(url, content=b"{}", headers=forged)).status_code == HTTPStatus.UNAUTHORIZED


async def test_the_key_of_the_page_reaches_a_browser(
    configured: dict[str, Any], settings: Any, secrets: dict[str, str], alice: User
) -> None:
    """The public key that the program prints is the one that the push service gets."""
    configured["TRANSPORTS"]["push"]["OPTIONS"]["allow_private"] = True
    settings.NOTIFICATIONS = {**configured}
    transport, browser = load_transport("push"), Browser()
    with http_receiver() as service:
        service.reply = Reply(status=201)
        await sync_to_async(services.add_push_subscription)(alice.pk, browser.subscription(f"{service.url}/push"))
        (address,) = await sync_to_async(lambda: list(transport.find_addresses(alice)))()
        await transport.send(message(alice, said=SAID, body="On its way"), address)
        (request,) = service.requests
    assert browser.read(request)["body"] == "On its way"
    assert request.headers["authorization"].endswith(f"k={secrets['VAPID_PUBLIC_KEY']}")


async def test_the_pager_of_the_page_sends_and_is_limited_to_its_developer(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alice: User, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checks have nothing to say of its settings; without DELIVERY, they warn as the page says."""
    BLOCKS["mysite/pager.py"].put_into(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    found: dict[str, Any] = {}
    exec(PAGER_SETTINGS.text, found)  # noqa: S102 - our own page
    settings.DEBUG, settings.NOTIFICATIONS = True, found["NOTIFICATIONS"]
    assert run_checks(tags=["notifications"]) == []
    transport = load_transport("pager")
    (address,) = await sync_to_async(transport.addresses_of)(alice)
    answer = await transport.send_in_time(message(alice, body="On its way"), address)
    assert answer == "the provider's answer"
    assert capsys.readouterr().out == f"pager of alice: On its way (key {KEY})\n"
    settings.NOTIFICATIONS = {name: value for name, value in found["NOTIFICATIONS"].items() if name != "DELIVERY"}
    (warning,) = run_checks(tags=["notifications"])
    assert warning.id == "notifications.W004" and "delivery by pager reaches real people" in warning.msg
