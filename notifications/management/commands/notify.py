"""
`manage.py notify <username|id>… "message"`: notifies users, from a shell or another program.

Owns the command line, which is stable, and the output. Does not own the limits of content (content) or writing
(services).
"""

import argparse
import datetime
import json
import sys
from collections import Counter
from typing import Any

import redis
from django.contrib.auth import get_user_model
from django.core.exceptions import FieldDoesNotExist
from django.core.management.base import CommandError, CommandParser
from django.db import router
from django.db.models import QuerySet
from django.utils import timezone

from notifications.conf import PARTS, STREAM
from notifications.content.recipients import find_by_names
from notifications.database import clock
from notifications.database.clock import moment_of
from notifications.exceptions import InvalidNotification
from notifications.management.errors import setup_errors
from notifications.models import Event, Notification, Scheduled
from notifications.services import notify
from realtime import conf
from realtime.management.base import EscapingCommand
from realtime.management.progress import progress
from realtime.management.streams import HelpFormatter, parse_age
from realtime.streams.keys import GroupKeys
from realtime.streams.status import count_workers

EXAMPLES = """
examples:
  manage.py notify alice "Your order is on its way!"
  manage.py notify alice bob 42 "The shop closes at six" --title "Today" --kind shop.hours
  manage.py notify alice "Order 7 has shipped" --url /orders/7 --data '{"order": 7}'
  manage.py notify --all "Maintenance tonight at ten" --idempotency-key maintenance-2026-11-21
  manage.py notify alice "Your table is waiting" --deliver-after 2h
  manage.py notify --all "Merry Christmas" --deliver-after 2026-12-24T18:00+01:00
  manage.py notify alice "Build 7 is done" --kind build --collapse-key build-7
  manage.py notify alice "Bob mentioned you" --fallback email=15m

Each recipient is a username or a user id. If a name is one user's username and another's id, the username wins.
If a recipient is unknown, nobody is notified. Put " -- " before a message that starts with a dash.

Scheduled events and fallbacks (--deliver-after, --fallback) are in the database. A running run_bot_subscriber handles
them within about two seconds of their time. Until then, `manage.py cancel_event EVENT` cancels an event.
"""


class Command(EscapingCommand):
    """Prints the result in one line, or as one JSON object with --json. Exits with 1 if nobody was notified."""

    help = "Notify users: in their browsers at once, and by all other transports that they want."
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own declaration

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, epilog=EXAMPLES, formatter_class=HelpFormatter, **kwargs)
        plain = parser.parse_args

        def parse_args(args: Any = None, namespace: Any = None) -> Any:
            # parse_intermixed_args() allows options between the words ("alice --kind x Hello"), but it reads "-h" as an
            # option even after "--".
            parse = plain if args is not None and "--" in args else parser.parse_intermixed_args
            return parse(args, namespace)

        parser.parse_args = parse_args  # type: ignore[method-assign]
        return parser

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("recipients", nargs="*", metavar="recipient", help="username or id")
        parser.add_argument("message", help="what happened, at most 4000 characters; the last word of the command")
        parser.add_argument("--all", action="store_true", help="notify all active users")
        parser.add_argument("--kind", default="info", help='the kind of event, e.g. order.shipped (default: "info")')
        parser.add_argument("--title", default="", help="one line, at most 200 characters")
        parser.add_argument("--url", default="", help="where a click leads: a path or an http(s) address")
        parser.add_argument("--data", metavar="JSON", help="data for programs that show the notification, as JSON")
        parser.add_argument(
            "--idempotency-key", metavar="KEY", help="identifies the event: a second call with the key has no effect"
        )
        parser.add_argument(
            "--deliver-after",
            type=_time_or_wait,
            metavar="WHEN",
            help="when to notify: a wait (90s, 15m, 2h, 7d) or a time with its zone (2026-12-24T18:00+01:00)",
        )
        parser.add_argument(
            "--collapse-key",
            metavar="KEY",
            help="replaces each recipient's unread notification of the same kind and key",
        )
        parser.add_argument(
            "--fallback",
            action="append",
            type=_fallback,
            metavar="TRANSPORT=WAIT",
            help="a transport to use only if it is still unread after this time: email=15m; may be repeated",
        )
        parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object for programs")

    @setup_errors()
    def handle(self, *args: Any, **options: Any) -> None:
        recipients = _find(options["recipients"], is_for_all=options["all"])
        count = recipients.count() if isinstance(recipients, QuerySet) else len(recipients)
        began_at = timezone.now()
        done: Counter[str] = Counter()
        with progress(options.get("stderr") or sys.stderr, "saved", "published", count=count) as advance:

            def report(step: str, more: int) -> None:
                done[step] += more
                advance(step, more)

            try:
                event = notify(
                    recipients,
                    options["message"],
                    kind=options["kind"],
                    title=options["title"],
                    url=options["url"],
                    data=_parse(options["data"]),
                    idempotency_key=options["idempotency_key"],
                    deliver_after=options["deliver_after"],
                    collapse_key=options["collapse_key"],
                    fallback=dict(options["fallback"] or ()),
                    progress=report,
                )
            except InvalidNotification as error:
                raise CommandError(str(error)) from error
        is_new = done["saved"] > 0 or event.created_at >= began_at
        self.stdout.write(_json(event, is_new=is_new) if options["as_json"] else _sentence(event, is_new=is_new))
        if idle := _idle_groups():
            self.stderr.write(
                f"No {' and no '.join(idle)} is running: notifications wait until you start "
                "manage.py run_bot_subscriber."
            )


def _idle_groups() -> list[str]:
    """The consumer groups without a live worker; none if Redis is unavailable."""
    groups = [GroupKeys(conf.keys().stream(STREAM), part) for part in PARTS]
    try:
        counts = count_workers(conf.sync_redis(), groups)
    except redis.RedisError:
        return []
    return [keys.group for keys, count in zip(groups, counts, strict=True) if not count]


def _find(names: list[str], *, is_for_all: bool) -> Any:
    if is_for_all and names:
        raise CommandError("give either --all or names, not both; quote a message of several words")
    if not is_for_all and not names:
        raise CommandError("give the recipients before the message, or use --all")
    users = get_user_model()
    if not is_for_all:
        found, unknown = find_by_names(names, using=router.db_for_write(users))
        if unknown:
            raise CommandError(f"no user has the username or id {', '.join(unknown)}: nobody was notified")
        return found
    try:
        users._meta.get_field("is_active")
    except FieldDoesNotExist:
        return users._default_manager.using(router.db_for_write(users)).all()
    return users._default_manager.using(router.db_for_write(users)).filter(is_active=True)


def _parse(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise CommandError(f"--data is not JSON: {error}") from error


def _time_or_wait(text: str) -> datetime.datetime | datetime.timedelta:
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        return _wait(text, or_else=" or a time with its zone such as 2026-12-24T18:00+01:00")
    if time.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} has no time zone: use {text}Z or {text}+01:00")
    if time < clock.now():
        raise argparse.ArgumentTypeError(f"{text!r} is in the past: give a later time, or leave it out to send at once")
    return time


def _wait(text: str, *, or_else: str = "") -> datetime.timedelta:
    try:
        return datetime.timedelta(seconds=parse_age(text))
    except (argparse.ArgumentTypeError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration: use 90s, 15m, 2h or 7d{or_else}") from None


def _fallback(text: str) -> tuple[str, datetime.timedelta]:
    transport, equals, wait = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} has no duration: use {text}=15m")
    return transport, _wait(wait)


def _json(event: Event, *, is_new: bool) -> str:
    result: dict[str, Any] = {
        "event_id": event.pk,
        "notification_count": _count(Notification, event),
        "is_published": event.published_at is not None,
        "is_new": is_new,
    }
    # Only for scheduled and cancelled events, so that the output of all others stays as programs know it.
    if event.deliver_at is not None:
        result |= {"scheduled_count": _count(Scheduled, event), "deliver_at": moment_of(event.deliver_at).isoformat()}
    if event.cancelled_at is not None:
        result |= {"is_cancelled": True}
    return json.dumps(result)


def _sentence(event: Event, *, is_new: bool) -> str:
    what = f"event {event.pk}: {_counted(event)}"
    if not is_new:
        what += " created by an earlier call with this key"
    if event.cancelled_at is not None:
        return f"{what}, cancelled"
    if event.deliver_at is not None:
        return f"{what}, scheduled for {moment_of(event.deliver_at):%Y-%m-%d %H:%M:%S} UTC"
    if event.published_at is None:
        return f"{what}, in the outbox: Redis is unavailable, the sweep publishes later"
    return f"{what}, published"


def _count(model: type[Notification] | type[Scheduled], event: Event) -> int:
    # Never from a replica, which may lag.
    return model._base_manager.using(router.db_for_write(model)).filter(event=event).count()


def _counted(event: Event) -> str:
    count = _count(Notification, event) if event.deliver_at is None else _count(Scheduled, event)
    return f"{count} notification{'' if count == 1 else 's'}"
