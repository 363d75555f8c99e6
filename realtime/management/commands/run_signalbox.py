"""manage.py run_signalbox: web server, bot, task worker and embedded Redis in one terminal, for development."""

import argparse
import signal
from collections.abc import Mapping
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import get_commands
from django.core.management.base import CommandError, CommandParser
from django.db import router

from realtime.management.base import EscapingCommand
from realtime.management.migrations import check_migrations
from realtime.management.streams import HelpFormatter

DEFAULT_PORT = 8000
HELP = """\
Starts the whole site in this terminal, for development:

  the embedded server   a Valkey server, if REALTIME["REDIS_URL"] is embedded://. Other commands of
                        the project, such as manage.py notify, use it too.
  the web server        uvicorn with your ASGI_APPLICATION: pages and WebSockets
  run_bot_subscriber    publishes notifications to browsers and sends them by your transports
  run_task_worker       runs background tasks, if TASKS names realtime.tasks.RedisStreamBackend; one
                        for each backend that does

With DEBUG on, all but the embedded server start again when a Python file, a template or a compiled
catalog changes, under BASE_DIR or in an app that is not an installed package. If Python cannot parse
a file, the old code keeps running. If the new code does not start, they wait for the next change.
After a change of REALTIME["REDIS_URL"] or of an installed package, stop this command and start it
again.

Ctrl-C and SIGTERM stop everything within seconds; a second Ctrl-C does it at once. If one process
dies, the others are stopped, and a line says which one died. To see what happens without the bot
or a task worker, stop it alone with `kill` and the number that is shown: notifications or tasks wait
until it runs again.

In production, run each of these processes by itself: see "How do I run it in production?".
"""
EPILOG = """\
examples:
  python manage.py run_signalbox
  python manage.py run_signalbox --port 8001
  python manage.py run_signalbox --host 0.0.0.0 --no-reload
"""


class Command(EscapingCommand):
    help = HELP

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=EPILOG, formatter_class=HelpFormatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="where the web server listens; default: %(default)s")
        parser.add_argument("--port", type=_port, default=DEFAULT_PORT, help="default: %(default)s")
        parser.add_argument(
            "--no-reload",
            action="store_true",
            help="do not start again when the code changes; the default without DEBUG",
        )

    def handle(self, *args: Any, host: str, port: int, no_reload: bool, **options: Any) -> None:
        try:
            # Needs a Unix.
            from realtime.development import site
            from realtime.embedded.server import EmbeddedServerError
        except ImportError as error:
            raise CommandError(f"run_signalbox needs Linux or macOS: {error}") from error

        site.stop_by_signals()
        try:
            site.check_port(host, port, other="--port ")
            _check_tables(site.BOT)
            # Of other apps: says what is missing, and goes on.
            self.check_migrations()
            parts = site.parts_of_the_project(host, port)
            reload = settings.DEBUG and not no_reload
            # Django has run the checks before this method.
            whole = site.Site(parts, host=host, port=port, reload=reload, say=self._say, is_checked=True)
            whole.run(prepare=lambda: None, on_ready=lambda pids: self._say(_ready(host, port, pids)))
        except site.Stopped as stopped:
            # After SIGHUP there is no terminal any more.
            if stopped.number != signal.SIGHUP:
                self._say("stopped")
        except (site.CannotRun, EmbeddedServerError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error

    def _say(self, text: str) -> None:
        self.stdout.write(f"run_signalbox: {text}")
        self.stdout.flush()


def _ready(host: str, port: int, pids: Mapping[str, int]) -> str:
    shown = f"[{host}]" if ":" in host else host
    names = ", ".join(f"{name} (process {pid})" for name, pid in pids.items())
    text = f"the site is at http://{shown}:{port}/ with {names}; Ctrl-C stops it"
    if not settings.DEBUG:
        text += "\nDEBUG is off, so this server has no static files: pages are without style sheets and scripts"
    if "notify" in get_commands():
        text += '\nTo send a notification, in a second terminal: python manage.py notify USERNAME "It works"'
    return text


def _check_tables(bot: str) -> None:
    """The bot would end at once without its tables."""
    app = next((app for app in apps.get_app_configs() if app.name == get_commands().get(bot)), None)
    # A project may have a command of this name in an app without tables.
    model = next(app.get_models(), None) if app else None
    if app and model:
        check_migrations(app.label, router.db_for_write(model))


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a number from 1 to 65535")
    return int(text)
