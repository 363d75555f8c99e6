"""A refused delivery in the admin, in a real browser: it is seen, sent again by keyboard, and delivered."""

import asyncio
import json
from collections.abc import Iterator

import pytest
import redis
from playwright.async_api import Page, expect

from realtime.redis.keys import Keys
from tests.acceptance.deployed_site import DeployedSite
from tests.acceptance.people import at_browser
from tests.support.browser import chromium
from tests.support.receivers import HttpReceiver, Reply, http_receiver
from tests.support.waiting import DEADLINE_SECONDS, wait_until

# Other tests cover the databases, without a browser.
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


async def refuse(site: SiteWithWebhook, message: str) -> None:
    """Notify alice of something that the receiver refuses for good."""
    site.receiver.requests.clear()
    site.receiver.reply = Reply(status=400)
    await asyncio.to_thread(site.manage, "notify", "alice", message)
    await wait_until(lambda: len(site.receiver.requests) == 1)
    site.receiver.reply = Reply()


async def open_failed(site: SiteWithWebhook, page: Page) -> None:
    """Show the failed deliveries, once there is one."""

    async def is_shown() -> bool:
        await page.goto(f"{site.url}/admin/notifications/delivery/?state=failed", wait_until="networkidle")
        return await page.get_by_role("cell", name="400 Bad Request").is_visible()

    page.set_default_timeout(DEADLINE_SECONDS * 1000)
    await page.emulate_media(color_scheme="dark")
    await wait_until(is_shown)


async def check_sent(site: SiteWithWebhook, page: Page) -> None:
    """The receiver gets it again under the same id, and no delivery is failed any more."""
    await wait_until(lambda: len(site.receiver.requests) == 2)
    assert len({request.headers["webhook-id"] for request in site.receiver.requests}) == 1

    async def is_sent() -> bool:
        await page.goto(f"{site.url}/admin/notifications/delivery/?state=failed")
        return not await page.get_by_role("cell", name="400 Bad Request").is_visible()

    await wait_until(is_sent)


async def test_what_a_receiver_refused_is_sent_again_from_its_row(webhook_site: SiteWithWebhook) -> None:
    """There is no dead letter."""
    site = webhook_site
    await refuse(site, "Your parcel is here")
    async with chromium() as browser, at_browser(browser, site.url, "admin") as admin:
        page = admin.page
        await open_failed(site, page)
        await page.locator("input.action-select").press("Space")
        await page.locator("select[name=action]").select_option("resend")
        await page.get_by_role("button", name="Run").press("Enter")
        await expect(page.get_by_text("1 failed delivery is sent again within seconds.")).to_be_visible()
        await check_sent(site, page)
        assert admin.complaints == []
    with redis.Redis.from_url(site.redis_url) as client:
        assert client.xlen(Keys().dead_letters("notifications", "bot")) == 0


async def test_a_dead_letter_of_an_earlier_release_is_replayed(webhook_site: SiteWithWebhook) -> None:
    """In earlier releases, a failed delivery made its entry a dead letter. The page shows it in both looks."""
    site = webhook_site
    await refuse(site, "Your second parcel is here")
    async with chromium() as browser, at_browser(browser, site.url, "admin") as admin:
        page = admin.page
        await open_failed(site, page)
        await asyncio.to_thread(leave_dead_letter, site)
        # Beside the list, because the menu is folded away in a window of this width.
        await page.get_by_role("link", name="Dead letters", exact=True).press("Enter")
        await expect(page.get_by_role("cell", name="alice", exact=True)).to_be_visible()
        await page.emulate_media(color_scheme="light")
        await page.reload(wait_until="networkidle")
        await expect(page.get_by_role("cell", name="alice", exact=True)).to_be_visible()
        await page.locator(".sb-letters summary").press("Enter")
        await expect(page.locator(".sb-fields")).to_contain_text("Your second parcel is here")
        await page.get_by_role("checkbox", name="Select dead letter").press("Space")
        await page.get_by_role("button", name="Replay selected…").press("Enter")
        await expect(page.get_by_role("heading", name="Replay 1 dead letter of notifications, bot?")).to_be_visible()
        await page.get_by_role("button", name="Yes, replay 1").press("Enter")
        await expect(page.get_by_text("Replayed 1 dead letter.")).to_be_visible()
        await check_sent(site, page)
        assert admin.complaints == []


def leave_dead_letter(site: SiteWithWebhook) -> None:
    """Make the last entry a dead letter of the failed delivery, as earlier releases did."""
    with redis.Redis.from_url(site.redis_url) as client:
        ((raw_id, fields),) = client.xrevrange(Keys().stream("notifications"), count=1)
        entry_id = raw_id.decode()
        own = {"_id": entry_id, "_reason": "rejected", "_attempts": 1, "_error": "webhook: 400 Bad Request"}
        own |= {"_first_seen": 1, "_key": fields[b"u"]}
        client.xadd(Keys().dead_letters("notifications", "bot"), {**own, **fields})
    code = f"Delivery.objects.filter(state='failed').update(dead_letter='{entry_id}')"
    site.manage("shell", "-c", f"from notifications.models import Delivery; {code}")
