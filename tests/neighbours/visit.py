"""
A site that has a neighbour: notifies a user, delivers it, and opens every page.

Run as `python -m tests.neighbours.visit <label> <relation>` with the variables of tests.neighbours.settings: the label
of our app and the name of `user.notifications` there. Ends with 0 if all is as it should be.
"""

import asyncio
import os
import sys
from io import StringIO
from typing import Any

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.neighbours.settings"
django.setup()

from channels.routing import ProtocolTypeRouter  # noqa: E402
from django.apps import apps  # noqa: E402
from django.contrib.auth.models import Permission, User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.test import Client  # noqa: E402

from notifications.conf import PARTS  # noqa: E402
from notifications.models import Delivery, Event, Notification  # noqa: E402
from notifications.preferences import set_preference  # noqa: E402
from notifications.services import mark_read, notify  # noqa: E402
from notifications.workers.service import Subscriber  # noqa: E402
from realtime.routing import websocket_application  # noqa: E402
from tests.support.waiting import wait_until  # noqa: E402

application = ProtocolTypeRouter({"websocket": websocket_application()})
PAGES = (
    *("event/", "event/?q=hello", "event/send/", "event/statistics/", "notification/", "delivery/"),
    *("delivery/dead-letters/", "digest/", "scheduled/", "preference/", "quiethours/", "destination/"),
    "pushsubscription/",
)


def main(label: str, relation: str) -> None:
    """Migrate, notify, deliver, look."""
    call_command("migrate", run_syncdb=True, verbosity=0)
    call_command("makemigrations", label, check=True, dry_run=True, verbosity=0)
    call_command("check", fail_level="WARNING", verbosity=0)
    boss = User.objects.create_superuser("boss")
    event = notify(boss, "Your invoice is ready", url="/invoices/7/")
    set_preference(boss.pk, "info", "console", True)
    asyncio.run(deliver())
    assert (Event._meta.db_table, Delivery._meta.app_label) == (f"{label}_event", label)
    told: Any = getattr(boss, relation).get()
    assert isinstance(told, Notification)
    # Deleted with the user, and found from it.
    assert User.objects.filter(**{f"{relation}__event": event}).get() == boss
    look(label, boss, told)
    look_with_permissions(label)
    mark_read(boss.pk, [told.pk])
    call_command("prune_notifications", "--older-than", "1d", verbosity=0, stdout=StringIO(), stderr=StringIO())


async def deliver() -> None:
    """Run the relay and the bot until it is delivered."""
    subscriber = Subscriber(parts=PARTS)
    running = asyncio.create_task(subscriber.run())
    await wait_until(lambda: Delivery.objects.filter(state="sent").aexists(), seconds=90)
    subscriber.stop(deadline_seconds=10)
    await running


def look(label: str, boss: User, told: Notification) -> None:
    """Every page answers, the neighbour's too, and what is on them is whose it should be."""
    client = Client()
    client.force_login(boss)
    for page in ("told/", "told/bell/"):
        text = read(client, f"/{page}")
        assert "Your invoice is ready" in text
        assert 'action="/told/read/"' in text
    for page in (*PAGES, f"event/{told.event_id}/change/", f"notification/{told.pk}/change/"):
        read(client, f"/admin/{label}/{page}")
    assert "Send notification" in read(client, f"/admin/{label}/event/")
    assert f"/admin/{label}/notification/{told.pk}/change/" in read(
        client, f"/admin/{label}/event/{told.event_id}/change/"
    )
    assert f"/admin/{label}/delivery/" in read(client, f"/admin/{label}/notification/{told.pk}/change/")
    if apps.is_installed("tests.neighbours.notifications"):
        assert read(client, "/neighbour/") == "the neighbour's"
        for model in ("event", "notification"):
            assert f'href="/admin/notifications/{model}/add/' in read(client, f"/admin/notifications/{model}/")
        theirs = apps.get_model("notifications.Event").objects.create(name="theirs")
        assert "Recipients" not in read(client, f"/admin/notifications/event/{theirs.pk}/change/")


def look_with_permissions(label: str) -> None:
    """Staff get what the permissions of our app allow."""
    staff = User.objects.create_user("staff", is_staff=True)
    client = Client()
    client.force_login(staff)
    assert client.get(f"/admin/{label}/delivery/dead-letters/").status_code == 403
    names = ("view_event", "add_event", "view_delivery", "view_dead_letters")
    staff.user_permissions.set(Permission.objects.filter(content_type__app_label=label, codename__in=names))
    for page in ("delivery/dead-letters/", "event/send/", "event/statistics/"):
        read(client, f"/admin/{label}/{page}")


def read(client: Client, url: str) -> str:
    response = client.get(url)
    assert response.status_code == 200, f"{url}: {response.status_code}"
    return response.content.decode()


if __name__ == "__main__":
    main(*sys.argv[1:])
