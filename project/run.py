"""
`make run`: the whole site on this machine, to try it out and to develop.

Owns the demo: its tables, its users and what its terminal says; PORT. Does not own how processes are started, reloaded
and ended: `realtime.development` does that, as for `manage.py run_signalbox`. Production starts them by
docker-compose.yml or the Procfile instead.
"""

import argparse
import os
import sys
import textwrap
from collections.abc import Mapping

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import Error as DatabaseError

from realtime.development.site import (
    BOT,
    CannotRun,
    Site,
    Stopped,
    check_port,
    parts_of_the_project,
    stop_by_signals,
)
from realtime.embedded import children
from realtime.embedded.server import EmbeddedServerError

__all__ = ["main"]

HOST = "127.0.0.1"
DEFAULT_PORT = 8000


def main() -> int:
    """
    Run the site until it is told to stop.

    Returns:
        The exit code: 0 after a request to stop, 1 when the site could not start or one of its parts ended.
    """
    parser = argparse.ArgumentParser(description="Run the whole site on this machine.")
    parser.add_argument("--stop-with-parent", action="store_true", help="stop when the process that started it dies")
    if parser.parse_args().stop_with_parent:
        children.stop_with_parent()
    stop_by_signals()
    try:
        _run(_port())
    except Stopped:
        return 0
    except (CannotRun, EmbeddedServerError, ImproperlyConfigured, DatabaseError, OSError) as error:
        sys.stderr.write(f"Signalbox: {error}\n")
        return 1


def _port() -> int:
    text = os.environ.get("PORT", "") or str(DEFAULT_PORT)
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) < 65536:
        raise CannotRun(f"PORT is {text!r}: it must be a number from 1 to 65535")
    check_port(HOST, int(text), other="make run PORT=")
    return int(text)


def _run(port: int) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    django.setup()
    site = Site(parts_of_the_project(HOST, port), host=HOST, port=port, reload=settings.DEBUG, say=_say)
    site.run(prepare=_prepare, on_ready=lambda pids: _write(_welcome(port, pids)))


def _prepare() -> None:
    call_command("migrate", verbosity=0)
    if settings.DEBUG:
        call_command("seed_demo_users", verbosity=0)


def _say(text: str) -> None:
    _write(f"\nSignalbox: {text}\n\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _welcome(port: int, pids: Mapping[str, int]) -> str:
    url = f"http://{HOST}:{port}/"
    if not settings.DEBUG:
        return f"\nSignalbox is at {url}   (Ctrl-C stops it; DEBUG is off, so there are no demo users)\n\n"
    return textwrap.dedent(f"""
        Signalbox is at {url}   (Ctrl-C stops it)

            alice   password demo     a customer
            bob     password demo     another customer
            admin   password admin    the staff, at {url}admin/

        To see it work:
            1. Sign in as alice and click "Place order": the bell counts at once. It rings again when a background task
               has made the receipt.
            2. In a private window sign in to {url}admin/ as admin and change the order's status:
               alice's bell rings.
            3. From a second terminal: .venv/bin/python manage.py notify alice "Your parcel is here"
            4. Stop the bot alone with `kill {pids[BOT]}`, send another one, and start the bot again:
               .venv/bin/python manage.py run_bot_subscriber
            5. Open {url}map/ as alice and start the simulation: 20,000 vehicles move on the map.

    """)


if __name__ == "__main__":
    sys.exit(main())
