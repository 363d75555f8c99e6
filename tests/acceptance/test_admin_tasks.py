"""The admin's pages of background tasks in a real browser, with a real worker process."""

import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import redis
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.test import Client
from playwright.async_api import Page, expect

from realtime.redis.keys import Keys
from realtime.tasks.django_api import AnyTaskResult
from tests.acceptance.bell.axe import violations
from tests.support.browser import chromium
from tests.support.redis_server import RedisServer
from tests.support.task_functions import read_file
from tests.support.waiting import wait_until_sync

ROOT = Path(__file__).resolve().parents[2]
# Enough for a machine with two busy cores.
SECONDS = 120.0

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.database_independent,
    pytest.mark.asyncio,
    pytest.mark.django_db(transaction=True),
]


@pytest.fixture
def tasks(signalbox: Any, redis_client: redis.Redis, keys: Keys) -> Iterator[None]:
    """The site's tasks are in Redis."""
    signalbox.TASKS = {"default": {"BACKEND": "realtime.tasks.RedisStreamBackend"}}
    yield
    for name in redis_client.scan_iter(match=f"*{keys.prefix}tasks*"):
        redis_client.delete(name)


@contextlib.contextmanager
def worker(directory: Path, server: RedisServer, keys: Keys) -> Iterator[None]:
    """A process that runs them."""
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    environment |= {
        "DJANGO_SETTINGS_MODULE": "tests.support.task_settings",
        "VAR_DIR": str(directory),
        "REDIS_URL": server.url,
        "TEST_PREFIX": keys.prefix,
    }
    process = subprocess.Popen([sys.executable, "manage.py", "run_task_worker"], cwd=ROOT, env=environment)
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(SECONDS) == 0


@pytest_asyncio.fixture
async def admin(live_server: Any) -> AsyncIterator[Page]:
    """A browser page of a superuser. When the test ends, the browser has complained of nothing."""
    session = await sync_to_async(_sign_in)()
    complaints: list[str] = []
    async with chromium() as browser:
        context = await browser.new_context(base_url=f"{live_server.url}/admin/realtime/task/")
        await context.add_cookies([{"name": "sessionid", "value": session, "url": live_server.url}])
        page = await context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        yield page
        await context.close()
    assert complaints == []


def _sign_in() -> str:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client.cookies["sessionid"].value


def wait_until_finished(result: AnyTaskResult) -> None:
    wait_until_sync(lambda: (result.refresh(), result.is_finished)[1], seconds=SECONDS)


@pytest.mark.usefixtures("tasks")
async def test_a_failed_task_is_found_and_run_again_by_keyboard(
    admin: Page, tmp_path: Path, redis_server: RedisServer, keys: Keys
) -> None:
    """Its traceback is seen, its secrets are not; the list follows it without a reload until it has succeeded."""
    file = tmp_path / "invoice"
    result = await sync_to_async(read_file.enqueue)(str(file), password="hunter22")
    await admin.goto("")
    await expect(admin.get_by_text("No worker of the queue default is running.")).to_be_visible()
    with worker(tmp_path, redis_server, keys):
        await sync_to_async(wait_until_finished)(result)
        # Without a reload.
        failed = admin.get_by_role("link", name="Failed, queue default: 1")
        await expect(failed).to_be_visible()
        await expect(admin.get_by_text("No worker of the queue default is running.")).to_be_hidden()
        link = admin.get_by_role("link", name=result.id)
        await link.focus()
        await admin.keyboard.press("Enter")
        await expect(admin.get_by_text("FileNotFoundError").last).to_be_visible()
        await expect(admin.get_by_text("hunter22")).to_have_count(0)
        assert await violations(admin) == []
        await admin.go_back()

        file.write_text("Invoice 7")
        await admin.get_by_role("checkbox", name=f"Select task {result.id}").focus()
        await admin.keyboard.press("Space")
        await admin.get_by_role("button", name="Run selected again").focus()
        await admin.keyboard.press("Enter")
        await expect(admin.get_by_text("1 task will run again.")).to_be_visible()
        succeeded = admin.get_by_role("link", name="Successful, queue default: 1")
        await expect(succeeded).to_be_visible()
        assert await violations(admin) == []
        await succeeded.focus()
        await admin.keyboard.press("Enter")
        await link.focus()
        await admin.keyboard.press("Enter")
        await expect(admin.locator("#rt-state")).to_have_text("Successful")
        await expect(admin.locator("#rt-value")).to_have_text('"Invoice 7"')


@pytest.mark.usefixtures("tasks")
async def test_a_selection_stays_while_the_list_is_updated(admin: Page) -> None:
    """A task that comes meanwhile is counted; rows do not move under a selection. Then the task is discarded."""
    first = await sync_to_async(read_file.enqueue)("x")
    await admin.goto("?queue=default&state=ready")
    box = admin.get_by_role("checkbox", name=f"Select task {first.id}")
    await box.check()
    await sync_to_async(read_file.enqueue)("y")
    await expect(admin.get_by_role("link", name="Ready, queue default: 2")).to_be_visible()
    await expect(box).to_be_checked()
    await expect(admin.locator("#rt-tasks tr")).to_have_count(1)
    await admin.get_by_role("button", name="Discard selected…").press("Enter")
    await expect(admin.get_by_role("heading", name="Discard 1 task?").first).to_be_visible()
    assert await violations(admin) == []
    await admin.get_by_role("button", name="Yes, do it").press("Enter")
    await expect(admin.get_by_text("1 task was discarded.")).to_be_visible()
    await expect(admin.get_by_role("link", name="Ready, queue default: 1")).to_be_visible()


@pytest.mark.usefixtures("tasks")
@pytest.mark.parametrize("language", ["en", "de", "ar"])
async def test_the_pages_fit_a_narrow_screen(admin: Page, signalbox: Any, language: str) -> None:
    """In both directions."""
    signalbox.LANGUAGE_CODE = language
    result = await sync_to_async(read_file.enqueue)("x" * 300)
    await admin.set_viewport_size({"width": 400, "height": 800})
    for path in ("?queue=default&state=ready", f"{result.id}/change/"):
        await admin.goto(path)
        await expect(admin.get_by_text(result.id).first).to_be_attached()
        assert await admin.evaluate("document.documentElement.dir") == ("rtl" if language == "ar" else "ltr")
        assert await admin.evaluate("document.documentElement.scrollWidth") <= 400
        assert await violations(admin) == []
