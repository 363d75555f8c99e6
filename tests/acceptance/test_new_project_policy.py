"""A new project with the Content Security Policies of docs/how-to/set-a-content-security-policy.md, word for word."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import ConsoleMessage, expect

from tests.acceptance.new_project import (
    BOT,
    COMMANDS,
    PRODUCTION,
    Project,
    is_serving,
    new_project,
    sign_in,
    tell_me,
)
from tests.acceptance.site import free_port
from tests.support.browser import chromium
from tests.support.howto import blocks_of

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent, pytest.mark.timeout(900)]

PAGE = "how-to/set-a-content-security-policy.md"
ADMIN_PAGES = (
    "",
    "notifications/event/",
    "notifications/event/1/change/",
    "notifications/event/statistics/",
    "notifications/delivery/dead-letters/",
    "auth/user/add/",
)


@pytest.fixture
def project(tmp_path_factory: pytest.TempPathFactory, installed_python: Path) -> Project:
    """All blocks of the page are where they say, and the project's own admin is in place of Django's."""
    project = new_project(tmp_path_factory.mktemp("policy"), installed_python)
    for block in blocks_of(PAGE):
        block.put_into(project.directory)
    settings = project.directory / "mysite/settings.py"
    assert settings.read_text().count("django.contrib.admin") == 1
    settings.write_text(settings.read_text().replace("django.contrib.admin", "mysite.apps.AdminConfig"))
    return project


@pytest.fixture
def url(project: Project) -> Iterator[str]:
    """Where it is served; a bot runs too."""
    url = f"http://127.0.0.1:{free_port()}/"
    (bot_line,), (web_line,) = COMMANDS[BOT], COMMANDS[PRODUCTION]
    with (
        project.running(bot_line) as bot,
        project.running(web_line, "--port", url.rpartition(":")[2].strip("/")) as web,
    ):
        bot.wait_until(lambda: "relay and bot are running" in bot.log)
        web.wait_until(lambda: is_serving(url))
        yield url


async def test_no_page_asks_for_what_the_documented_policies_forbid(project: Project, url: str) -> None:
    """The bell rings, the inbox and the admin's pages work, and the console stays empty."""
    assert "security.W027" in project.run("python manage.py check")
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # The project has no icon.
        if message.type == "error" and "favicon.ico" not in message.location["url"]:
            complaints.append(f"{message.location['url']}: {message.text}")

    async with chromium() as browser:
        context = await browser.new_context(base_url=url)
        context.on("console", note)
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        page, inbox = await context.new_page(), await context.new_page()
        await page.goto("")
        await sign_in(page)
        for path, policy in (("", "'strict-dynamic'"), ("admin/", "default-src 'self'")):
            response = await inbox.goto(path)
            assert response is not None and policy in response.headers["content-security-policy"], path
        await inbox.goto("notifications/")
        await tell_me(page)
        for each in (page, inbox):
            await expect(each.locator("[data-signalbox-count]")).to_have_text("1", timeout=60_000)
        await page.locator("[data-signalbox-toggle]").click()
        await page.locator("[data-signalbox-panel] [data-signalbox-action=read] button").click()
        for each in (page, inbox):
            await expect(each.locator("[data-signalbox-count]")).to_be_hidden()

        for path in ADMIN_PAGES:
            response = await page.goto(f"admin/{path}")
            assert response is not None and response.ok, path
            assert complaints == [], path
        await page.goto("admin/notifications/event/send/")
        await page.get_by_role("searchbox", name="Recipients").fill("ali")
        await page.get_by_role("option", name="alice").click()
        await page.fill("[name=message]", "Told by the admin")
        await page.get_by_role("button", name="Send", exact=True).click()
        await expect(page.get_by_text("is on its way to 1 recipient.")).to_be_visible()
        newest = inbox.locator("[data-signalbox-list=inbox] [data-signalbox-message]").first
        await expect(newest).to_have_text("Told by the admin", timeout=60_000)
        assert complaints == []
