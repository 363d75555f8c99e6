"""
An admin with rows in every section of its dashboard: `python -m tests.acceptance.filled_admin plain` or `unfold`.

Run with VAR_DIR, REDIS_URL and TEST_PREFIX set, the Redis being of its own. Prints the URL and a session of a
superuser, and serves until it is ended. Owns the rows. Does not own the settings (integration.plain_admin, project).
"""

import datetime
import os
import sys
from collections import Counter
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import django

if sys.argv[1] == "plain":
    from tests.integration import plain_admin as plain_admin
else:
    os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
    django.setup()

from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.test import Client
from django.utils import timezone

from notifications.models import Delivery
from notifications.services import notify
from realtime.conf import keys, sync_redis
from realtime.statistics.fields import encode
from realtime.statistics.histograms import bucket_of
from realtime.statistics.pusher import Pusher
from realtime.streams.keys import GroupKeys
from tests.support.domain import make_users
from tests.support.statistics import make_rows

KINDS = ("order.shipped", "order.returned.by.the.customer", "invoice.payment.reminder.second")


class _Server(ThreadingMixIn, WSGIServer):
    # A browser opens connections that it may never use.
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Nobody reads the requests."""


def main() -> None:
    """Fill and serve."""
    settings.ALLOWED_HOSTS = ["127.0.0.1", "testserver"]
    call_command("migrate", verbosity=0)
    _fill()
    client = Client()
    client.force_login(User.objects.create_superuser("boss"))
    application = StaticFilesHandler(get_wsgi_application())
    with make_server("127.0.0.1", 0, application, _Server, _QuietHandler) as server:
        sys.stdout.write(f"http://127.0.0.1:{server.server_port} {client.cookies['sessionid'].value}\n")
        sys.stdout.flush()
        server.serve_forever()


def _fill() -> None:
    users, now = make_users(20), timezone.now()
    times = [now - datetime.timedelta(minutes=7 * number) for number in range(150)]
    # First, because it would wait behind the events of `make_rows` that are in the outbox.
    notify(users, "Your order is on its way!", kind="order.shipped")
    make_rows(users, times, kinds=KINDS)
    answers = ("550 5.1.1 <somebody@example.com>: Recipient address rejected: User unknown", "503", "(empty)")
    for number, delivery in enumerate(Delivery.objects.filter(state="failed")):
        Delivery.objects.filter(pk=delivery.pk).update(answer=answers[number % 3])
    # A delivery that nobody handles: the balance has a difference.
    Delivery.objects.filter(pk__in=Delivery.objects.filter(state="pending").values("pk")[:1]).update(due_at=None)
    _run()


def _run() -> None:
    """What processes leave in Redis: a group with a worker, a background task, counters and latencies."""
    client, names = sync_redis(), keys()
    stream = names.stream("notifications")
    client.xgroup_create(stream, "bot", "0")
    consumer = "notifications-bot-7d9f8b6c5d-x2x4q-1-4f9a1c"
    client.xreadgroup("bot", consumer, {stream: ">"}, count=2)
    client.set(GroupKeys(stream, "bot").worker_lease(consumer), "token", px=600_000)
    totals: Counter[str] = Counter({"hub.delivery_count": 1_234_567, "deliveries.sent": 17})
    for metric in ("publications.socket_seconds", "notifications.relay_seconds"):
        totals[encode((metric, str(bucket_of(0.0123))))] = 1_234_567
    totals[encode(("deliveries.send_seconds", "email", str(bucket_of(0.123))))] = 123_456
    pusher = Pusher(
        lambda: (client, names), role=lambda: "relay and bot", read=lambda: (totals, {"clients.open_count": 12_345})
    )
    if not pusher.push():
        raise RuntimeError("the counters were not pushed")


if __name__ == "__main__":
    main()
