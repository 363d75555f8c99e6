"""One notification from notify() to the browser, the mail and the inbox, by the processes of a deployed site."""

import asyncio
import urllib.request
from collections.abc import Iterator

import pytest
import redis

from tests.acceptance.deployed_site import DeployedSite
from tests.acceptance.listeners import Listener
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

MESSAGE = "Your order is on its way!"
# A process of manage.py on a loaded machine, and the bot's calls.
SECONDS = 60.0
ADDRESS = "somebody@example.com"
GIVE_ADDRESS = """
from django.contrib.auth import get_user_model
get_user_model().objects.filter(pk={user}).update(email={address!r})
"""
STATES = """
from notifications.models import Delivery
print([(row.transport, row.state) for row in Delivery.objects.all()])
"""


class MailingSite(DeployedSite):
    """A deployed site whose bot sends mails, which are files."""

    def mails(self) -> list[str]:
        """What was sent."""
        return [path.read_text() for path in (self.directory / "mails").glob("*")]

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {"DJANGO_SETTINGS_MODULE": "tests.matrix.site_settings"}


@pytest.fixture
def site() -> Iterator[MailingSite]:
    """Migrated from an empty database: a web server, the bot and the relay."""
    with MailingSite("signalbox") as site:
        yield site


async def test_a_notification_reaches_the_browser_the_mailbox_and_the_inbox(site: MailingSite) -> None:
    """The relay publishes what `manage.py notify` wrote, the bot mails it, and the inbox shows it."""
    sessions = await asyncio.to_thread(site.sessions, 2)
    (user, session), (_, other_session) = sessions.items()
    await asyncio.to_thread(site.manage, "shell", "-v0", "-c", GIVE_ADDRESS.format(user=user, address=ADDRESS))
    # A worker is listed before its first entry: health checks and takeovers look there.
    with redis.Redis.from_url(site.redis_url) as client:
        assert [len(client.xinfo_consumers("notifications", group)) for group in ("relay", "bot")] == [1, 1]
    async with Listener(site, session) as listener, Listener(site, other_session) as other:
        await asyncio.to_thread(site.manage, "notify", str(user), MESSAGE)
        heard = await listener.object()
        assert (heard["topic"], heard["data"]["message"]) == (f"user.{user}", MESSAGE)
        assert await other.answer(type="ping") == {"type": "pong"}
        await wait_until(lambda: MESSAGE in "".join(site.mails()), seconds=SECONDS)
        (mail,) = site.mails()
        assert f"To: {ADDRESS}" in mail
        await listener.say(type="read", ids=[heard["data"]["id"]])
        assert await listener.answer(type="ping") == {"type": "pong"}
    assert MESSAGE in await asyncio.to_thread(page, f"{site.url}/notifications/", session)
    assert MESSAGE not in await asyncio.to_thread(page, f"{site.url}/notifications/", other_session)
    await wait_until(lambda: "[('email', 'sent')]" in site.manage("shell", "-v0", "-c", STATES), seconds=SECONDS)


def page(url: str, session: str) -> str:
    """What a user who is logged in sees there."""
    request = urllib.request.Request(url, headers={"Cookie": f"sessionid={session}"})  # noqa: S310 (of this test)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=SECONDS) as response:
        text: str = response.read().decode()
        return text
