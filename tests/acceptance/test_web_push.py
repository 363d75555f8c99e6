"""
Web push in a new project, set up as docs/how-to/deliver-by-email-and-more.md says, word for word, in a real browser.

All is real but two things. The push service is somebody else's: `PushManager.subscribe()` answers with keys of the test
and the address of a local receiver, and what the bot sends there, the test decrypts and hands to the service worker. A
click on a notification is an event that the test makes.
"""

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import BrowserContext, CDPSession, ConsoleMessage, Page, Worker, expect

from tests.acceptance.new_project import BOT, COMMANDS, DEVELOPMENT, SECONDS, Project, is_serving, new_project, sign_in
from tests.acceptance.site import free_port
from tests.integration.test_webpush_transport import Browser as Keys
from tests.support.browser import chromium
from tests.support.howto import blocks_of, commands_of
from tests.support.receivers import HttpReceiver, Reply, http_receiver
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent, pytest.mark.timeout(900)]

PAGE = "how-to/deliver-by-email-and-more.md"
# What the page says is enough, and Trusted Types.
POLICY = {
    "default-src": ["'self'"],
    "require-trusted-types-for": ["'script'"],
    "trusted-types": ["signalbox", "push"],
}
# The answer of the push service. The browser first checks the call itself.
PUSH_SERVICE = """
(() => {
  const given = SUBSCRIPTION;
  let subscription = null;
  const subscribe = PushManager.prototype.subscribe;
  PushManager.prototype.subscribe = async function (options) {
    await subscribe.call(this, options).catch((error) => {
      if (error.name !== "AbortError" || error.message.includes("no active Service Worker")) throw error;
    });
    window.askedFor = options;
    subscription = { toJSON: () => given, unsubscribe: async () => { subscription = null; return true; } };
    return subscription;
  };
  PushManager.prototype.getSubscription = async () => subscription;
})();
"""
# A program cannot click on a notification: an event from a script may neither wait nor open a window.
CLICK = """
async () => {
  const opened = [];
  const openWindow = { configurable: true, value: async (url) => void opened.push(url) };
  Object.defineProperty(self.clients, "openWindow", openWindow);
  ExtendableEvent.prototype.waitUntil = () => {};
  const [notification] = await self.registration.getNotifications();
  self.dispatchEvent(new NotificationEvent("notificationclick", { notification }));
  return opened;
}
"""
# Chromium drops a notification if the list is requested just before it is shown.
WATCH = """
() => {
  self.isShown = false;
  self.registration.showNotification = async (...given) => {
    await ServiceWorkerRegistration.prototype.showNotification.apply(self.registration, given);
    self.isShown = true;
  };
}
"""
SHOWN = """
async () => {
  const notifications = await self.registration.getNotifications();
  return notifications.map(({ title, body, tag }) => ({ title, body, tag }));
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What runs."""

    url: str
    project: Project
    receiver: HttpReceiver
    secrets: dict[str, str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, installed_python: Path) -> Iterator[Site]:
    """The project, with the web server in development and the bot."""
    commands = commands_of(PAGE)
    (make_secrets,) = commands["make the secrets"]
    ((bot_line,), (web_line,)) = (COMMANDS[name] for name in (BOT, DEVELOPMENT))
    with http_receiver() as receiver:
        receiver.reply = Reply(status=201)
        project = new_project(tmp_path_factory.mktemp("push"), installed_python)
        for block in blocks_of(PAGE):
            if not block.how.endswith("for the pager"):
                block.put_into(project.directory)
        secrets = dict(re.findall(r"^(\w+)=(.+)$", project.run(make_secrets), re.MULTILINE))
        project.environment.update(secrets)
        configure(project, receiver)
        port = free_port()
        url = f"http://127.0.0.1:{port}/"
        with project.running(bot_line) as bot, project.running(web_line, str(port)) as web:
            bot.wait_until(lambda: "relay and bot are running" in bot.log)
            web.wait_until(lambda: is_serving(url))
            yield Site(url=url, project=project, receiver=receiver, secrets=secrets)


def configure(project: Project, receiver: HttpReceiver) -> None:
    """Let the settings of the page reach a receiver on this machine, and give the pages their policy."""
    settings = project.directory / "mysite/settings.py"
    text = settings.read_text()
    for said, here in {
        "https://example.com/hooks": f"{receiver.url}/hooks",
        'os.environ["WEBHOOK_SECRET"]}': 'os.environ["WEBHOOK_SECRET"], "allow_private": True}',
        '"mailto:ops@example.com"}': '"mailto:ops@example.com", "allow_private": True}',
    }.items():
        assert text.count(said) == 1, said
        text = text.replace(said, here)
    middleware = "django.middleware.csp.ContentSecurityPolicyMiddleware"
    settings.write_text(f"{text}\nMIDDLEWARE += [{middleware!r}]\nSECURE_CSP = {POLICY!r}\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscriber:
    """Alice at the page's buttons, and the push service's end of her browser."""

    origin: str
    page: Page
    context: BrowserContext
    keys: Keys
    complaints: list[str]

    async def turn(self, name: str) -> None:
        await self.page.click(f"[data-push] [name={name}]")
        await self.is_told(f"Push is {name}.")

    async def is_told(self, words: str) -> None:
        """The text beside the buttons."""
        await expect(self.page.locator("[data-push] output")).to_contain_text(words, timeout=SECONDS * 1000)

    async def receive(self, payload: dict[str, Any]) -> None:
        """Hand the worker a message, as the browser does with one of the push service, and wait until it is shown."""
        worker = await self._worker()
        await worker.evaluate(WATCH)
        session = await self.context.new_cdp_session(self.page)
        message = {"registrationId": await registration(session), "data": json.dumps(payload)}
        await session.send("ServiceWorker.deliverPushMessage", {"origin": self.origin, **message})
        await wait_until(lambda: worker.evaluate("self.isShown"), seconds=SECONDS)
        await session.detach()

    async def shown(self) -> Any:
        """The notifications that the browser shows."""
        return await (await self._worker()).evaluate(SHOWN)

    async def click(self) -> Any:
        """Click on the notification; returns the URLs that were opened."""
        return await (await self._worker()).evaluate(CLICK)

    async def _worker(self) -> Worker:
        (worker,) = await wait_until(lambda: self.context.service_workers)
        return worker


async def registration(session: CDPSession) -> str:
    """The id of the only registration."""
    ids: set[str] = set()
    session.on(
        "ServiceWorker.workerRegistrationUpdated",
        lambda said: ids.update(each["registrationId"] for each in said["registrations"] if not each["isDeleted"]),
    )
    await session.send("ServiceWorker.enable")
    await wait_until(lambda: ids)
    (found,) = ids
    return found


def is_complaint(said: ConsoleMessage) -> bool:
    """Whether the page is to blame; the browser of a test has no push service, and says so."""
    return said.type == "error" and "does not support the Push API in incognito mode" not in said.text


@asynccontextmanager
async def subscriber(site: Site) -> AsyncIterator[Subscriber]:
    """Signed in, at the page; the browser lets the site show notifications."""
    keys, complaints = Keys(), list[str]()
    async with chromium() as browser:
        context = await browser.new_context()
        await context.grant_permissions(["notifications"], origin=site.url)
        subscription = json.dumps(keys.subscription(f"{site.receiver.url}/push"))
        await context.add_init_script(PUSH_SERVICE.replace("SUBSCRIPTION", subscription))
        page = await context.new_page()
        await page.goto(site.url)
        await sign_in(page)
        context.on("console", lambda said: complaints.append(said.text) if is_complaint(said) else None)
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        await page.goto(f"{site.url}push/")
        yield Subscriber(origin=site.url.rstrip("/"), page=page, context=context, keys=keys, complaints=complaints)


def browsers(site: Site) -> int:
    """The number of subscriptions that the site has."""
    code = "from notifications.models import PushSubscription; print(PushSubscription.objects.count())"
    return int(site.project.run(f"python manage.py shell -v0 -c '{code}'"))


async def test_a_notification_is_shown_by_a_browser_that_subscribed(site: Site) -> None:
    """From notify() to the click, until it is turned off; nothing breaks the policy of the page."""
    async with subscriber(site) as alice:
        await alice.turn("on")
        asked = await alice.page.evaluate("window.askedFor")
        assert asked == {"userVisibleOnly": True, "applicationServerKey": site.secrets["VAPID_PUBLIC_KEY"]}
        assert browsers(site) == 1

        site.project.run("python manage.py notify --url /invoices/7/ alice 'On its way'")
        requests = site.receiver.requests
        request = await wait_until(
            lambda: next((each for each in requests if each.path == "/push"), None), seconds=SECONDS
        )
        payload = alice.keys.read(request)
        await alice.receive(payload)
        assert await alice.shown() == [{name: payload[name] for name in ("title", "body", "tag")}]
        assert payload["body"] == "On its way"
        assert await alice.click() == ["https://example.com/invoices/7/"]
        assert await alice.shown() == []

        await alice.turn("off")
        assert browsers(site) == 0
        assert alice.complaints == []


async def test_a_click_opens_pages_of_the_site_and_https_alone(site: Site) -> None:
    """For every URL in the payload; without one, the site's front page opens."""
    opened: dict[str, list[str]] = {}
    async with subscriber(site) as alice:
        await alice.turn("on")
        wrong = ("http://example.org/a", "http://[", "javascript:alert(1)", "data:text/html,hello", "file:///etc/hosts")
        right = {"/orders/7/": f"{site.url}orders/7/", "": site.url, "https://example.org/a": "https://example.org/a"}
        for url in (*right, *wrong):
            await alice.receive({"title": "Order", "body": "", "tag": "notification-1", "url": url})
            opened[url] = await alice.click()
            assert await alice.shown() == []
    assert opened == {**{url: [to] for url, to in right.items()}, **{url: [] for url in wrong}}


async def test_what_is_no_subscription_is_refused_with_the_reason(site: Site) -> None:
    """The user who pressed the button sees the error. Visitors and pages of other sites change nothing."""
    before = browsers(site)
    good = Keys().subscription("https://push.example/1")
    async with subscriber(site) as alice:
        token = await alice.page.input_value("[data-push] [name=csrfmiddlewaretoken]")

        async def post(body: str, name: str = "subscribe", **headers: str) -> tuple[int, str]:
            response = await alice.context.request.post(
                f"{site.url}push/{name}/", data=body, headers={"X-CSRFToken": token, **headers}, max_redirects=0
            )
            return response.status, await response.text()

        for body, reason in (
            ("", "Expecting value"),
            ("[" * 4096, ""),
            ("x" * 4097, "at most 4096 bytes"),
            ("[1]", "not a push subscription"),
            ("{}", "not a push subscription"),
            (json.dumps({**good, "endpoint": "https://push.example/\x00"}), "not a push subscription"),
            (json.dumps({**good, "keys": {"p256dh": "\x00", "auth": "A"}}), "not a push subscription"),
            (json.dumps({**good, "endpoint": "file:///etc/hosts"}), "is not a"),
        ):
            status, said = await post(body)
            assert (status, reason in said) == (400, True), (body[:80], said)
        status, said = await post("[1]", "unsubscribe")
        assert (status, "not a push subscription" in said) == (400, True)
        assert (await post(json.dumps(good), **{"X-CSRFToken": "x" * 32}))[0] == 403
        assert (await alice.context.request.get(f"{site.url}push/subscribe/")).status == 405

        await alice.page.evaluate("PushManager.prototype.subscribe = async () => ({})")
        await alice.page.click("[data-push] [name=on]")
        await alice.is_told("this is not a push subscription")
        await alice.context.clear_cookies(name="sessionid")
        assert (await post(json.dumps(good)))[0] == 302
        await alice.page.click("[data-push] [name=on]")
        await alice.is_told("Reload the page and try again.")
    assert browsers(site) == before
