"""What a provider refused, in the admin in a real browser: seen, replayed by keyboard, and delivered."""

import asyncio
import json
from collections.abc import Iterator

import pytest
import redis
from playwright.async_api import expect

from realtime.redis.keys import Keys
from tests.acceptance.deployed_site import DeployedSite
from tests.acceptance.people import at_browser
from tests.support.browser import chromium
from tests.support.receivers import HttpReceiver, Reply, http_receiver
from tests.support.waiting import DEADLINE_SECONDS, wait_until

# What is particular to a database is shown without a browser.
pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent]

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqr"


class SiteWithWebhook(DeployedSite):
    """A site whose one transport is a webhook to `receiver`."""

    def __init__(self, receiver: HttpReceiver) -> None:
        super().__init__("signalbox")
        self.receiver = receiver

    def _environment(self) -> dict[str, str]:
        options = {"url": self.receiver.url, "secret": SECRET, "allow_private": True}
        backend = "notifications.transports.webhook.WebhookTransport"
        settings = {
            "TRANSPORTS": {"webhook": {"BACKEND": backend, "OPTIONS": options}},
            "DEFAULT_TRANSPORTS": ["webhook"],
        }
        own = {"DJANGO_SETTINGS_MODULE": "tests.support.subscriber_settings", "NOTIFICATIONS": json.dumps(settings)}
        return {**super()._environment(), **own}


@pytest.fixture(scope="module")
def webhook_site() -> Iterator[SiteWithWebhook]:
    with http_receiver() as receiver, SiteWithWebhook(receiver) as site:
        yield site


async def test_what_a_receiver_refused_is_replayed_and_delivered(webhook_site: SiteWithWebhook) -> None:
    """The delivery fails for good; the page shows it in both looks; after a replay the receiver has it once more."""
    site, receiver = webhook_site, webhook_site.receiver
    receiver.reply = Reply(status=400)
    await asyncio.to_thread(site.manage, "notify", "alice", "Your parcel is here")
    with redis.Redis.from_url(site.redis_url) as client:
        await wait_until(lambda: client.xlen(Keys().dead_letters("notifications", "bot")) == 1)
    receiver.reply = Reply()
    async with chromium() as browser, at_browser(browser, site.url, "admin") as admin:
        page = admin.page
        page.set_default_timeout(DEADLINE_SECONDS * 1000)
        await page.emulate_media(color_scheme="dark")
        await page.goto(f"{site.url}/admin/notifications/delivery/?state=failed", wait_until="networkidle")
        await expect(page.get_by_role("cell", name="400 Bad Request")).to_be_visible()
        # Beside the list, because the menu is folded away in a window of this width.
        await page.get_by_role("link", name="Dead letters").press("Enter")
        await expect(page.get_by_role("cell", name="alice", exact=True)).to_be_visible()
        await page.emulate_media(color_scheme="light")
        await page.reload(wait_until="networkidle")
        await expect(page.get_by_role("cell", name="alice", exact=True)).to_be_visible()
        await page.locator(".sb-letters summary").press("Enter")
        await expect(page.locator(".sb-fields")).to_contain_text("Your parcel is here")
        await page.get_by_role("checkbox", name="Select dead letter").press("Space")
        await page.get_by_role("button", name="Replay selected…").press("Enter")
        await expect(page.get_by_role("heading", name="Replay 1 dead letter of notifications, bot?")).to_be_visible()
        await page.get_by_role("button", name="Yes, replay 1").press("Enter")
        await expect(page.get_by_text("Replayed 1 dead letter.")).to_be_visible()
        await wait_until(lambda: len(receiver.requests) == 2)
        assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1

        async def is_sent() -> bool:
            await page.goto(f"{site.url}/admin/notifications/delivery/?state=sent")
            return await page.get_by_role("cell", name="sent", exact=True).is_visible()

        await wait_until(is_sent)
        assert admin.complaints == []
