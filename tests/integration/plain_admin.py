"""
A project without unfold, of which `test_plain_admin` is the test: opens each page of the admin and sends from it.

Run as `python -m tests.integration.plain_admin` with VAR_DIR, REDIS_URL and TEST_PREFIX set; ends with 0 if all is
well.
"""

import os
import sys
import uuid

import django
from django.conf import settings

from project import settings as project_settings

settings.configure(
    **{
        **{name: getattr(project_settings, name) for name in dir(project_settings) if name.isupper()},
        "INSTALLED_APPS": [
            "django.contrib.admin",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django.contrib.messages",
            "django.contrib.staticfiles",
            "channels",
            "realtime",
            "notifications",
        ],
        "ROOT_URLCONF": __name__,
        "REALTIME": {**project_settings.REALTIME, "KEY_PREFIX": os.environ["TEST_PREFIX"]},
        "ALLOWED_HOSTS": ["testserver"],
        "TASKS": {"default": {"BACKEND": "realtime.tasks.RedisStreamBackend"}},
    }
)
django.setup()

from django.contrib import admin  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import path  # noqa: E402

from notifications.models import Event  # noqa: E402
from realtime.tasks.django_api import task as make_task  # noqa: E402


@make_task
def echo(text: str) -> str:
    """A task."""
    return text


urlpatterns = [path("admin/", admin.site.urls)]


def main() -> None:
    """Send a notification by the form, then look at everything."""
    call_command("check", fail_level="WARNING", verbosity=0)
    call_command("migrate", verbosity=0)
    boss = User.objects.create_superuser("boss")
    client = Client()
    client.force_login(boss)
    form = {"recipients": [boss.pk], "message": "Hello", "kind": "info", "token": str(uuid.uuid4())}
    sent = client.post("/admin/notifications/event/send/", form, follow=True)
    assert "is on its way to 1 recipient" in sent.content.decode(), sent.content.decode()
    event = Event.objects.get()
    assert event.published_at is not None
    task = echo.enqueue("Hello")
    for page in (
        "",
        "notifications/",
        "notifications/event/",
        "notifications/event/?q=hello",
        "notifications/event/send/",
        "notifications/event/statistics/",
        f"notifications/event/{event.pk}/change/",
        f"notifications/event/{event.pk}/delete/",
        "notifications/notification/",
        "notifications/notification/?state=waiting",
        "notifications/delivery/",
        "notifications/delivery/dead-letters/",
        "notifications/digest/",
        "notifications/scheduled/",
        "notifications/preference/",
        "notifications/quiethours/",
        "notifications/destination/",
        "notifications/pushsubscription/",
        "realtime/logpipeline/",
        "realtime/task/",
        f"realtime/task/{task.id}/change/",
        f"notifications/notification/{event.notifications.get().pk}/change/",
        "autocomplete/?app_label=notifications&model_name=notification&field_name=recipient&term=bo",
    ):
        response = client.get(f"/admin/{page}")
        assert response.status_code == 200, f"{page}: {response.status_code}"
        # The site's strict policy is enough for Django's own looks.
        assert "unsafe" not in response.headers["Content-Security-Policy"], page
        assert "unfold" not in response.content.decode(), page
    first = client.get("/admin/").content.decode()
    assert 'id="sb-dashboard"' in first
    # What the site is about comes first, with links to its lists and pages; the list of apps is below.
    nav, _, rest = first.partition('id="sb-part"')
    for page in ("event/", "notification/", "delivery/", "event/send/", "delivery/dead-letters/"):
        assert f'<li><a href="/admin/notifications/{page}">' in nav, page
    assert '<div id="content-main" class="app-list">' in rest
    users = client.get("/admin/auth/user/").content.decode()
    assert "Disconnect the selected users" in users
    form = {"action": "disconnect_users", "_selected_action": [boss.pk]}
    done = client.post("/admin/auth/user/", form, follow=True).content.decode()
    assert "1 user was disconnected, in 0 web processes." in done, done
    form = {"do": "discard selected", "confirmed": "yes"}
    done = client.post(f"/admin/realtime/task/{task.id}/change/", form, follow=True).content.decode()
    assert "1 task was discarded." in done, done
    # It has failed; now it is deleted.
    done = client.post(f"/admin/realtime/task/{task.id}/change/", form, follow=True).content.decode()
    assert "1 task was discarded." in done, done
    assert not [name for name in sys.modules if name.split(".")[0] == "unfold"]


if __name__ == "__main__":
    main()
