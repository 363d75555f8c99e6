"""
`make run`: the whole site on this machine, to try it out and to develop.

Owns the order in which the parts start and end, and what it tells the person who started it. The parts: the embedded
server (unless REDIS_URL is set), the database's tables, the demo users (only with DEBUG on), the web server, and
run_bot_subscriber. Production starts them by docker-compose.yml or the Procfile instead.
"""

import argparse
import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from typing import NoReturn

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import Error as DatabaseError
from django.db import connections

from project import health
from realtime import conf
from realtime.embedded import children
from realtime.embedded.server import EmbeddedServerError

__all__ = ["main"]

BOT = "run_bot_subscriber"
HOST = "127.0.0.1"
DEFAULT_PORT = 8000
READY_DEADLINE_SECONDS = 60.0
POLL_SECONDS = 0.1
# All is gone within 10 s of a request to stop: the children by then, the embedded server soon after them.
STOP_DEADLINE_SECONDS = 6.0
DRAIN_SECONDS = 3


class CannotRun(Exception):
    """The site cannot start, or cannot go on; the text says why and what to do."""


class Stopped(BaseException):
    """Somebody asked the site to stop: Ctrl-C, SIGTERM, or the terminal is gone."""


def main() -> int:
    """
    Run the site until it is told to stop.

    Returns:
        The exit code: 0 after a request to stop, 1 when the site could not start or one of its parts ended.

    Guarantees:
        When it returns, every process that it started is gone. When it is killed they end by themselves (Linux).
    """
    parser = argparse.ArgumentParser(description="Run the whole site on this machine.")
    parser.add_argument("--stop-with-parent", action="store_true", help="stop when the process that started it dies")
    if parser.parse_args().stop_with_parent:
        children.stop_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _raise_stopped)
    try:
        _run(_port())
    except Stopped:
        return 0
    except (CannotRun, EmbeddedServerError, ImproperlyConfigured, DatabaseError, OSError) as error:
        sys.stderr.write(f"Signalbox: {error}\n")
        return 1


def _raise_stopped(number: int, frame: object) -> NoReturn:
    # Once is enough: nothing may interrupt the stopping, which has a deadline.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise Stopped


def _port() -> int:
    text = os.environ.get("PORT", "") or str(DEFAULT_PORT)
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) < 65536:
        raise CannotRun(f"PORT is {text!r}: it must be a number from 1 to 65535")
    port = int(text)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            other = port + 1 if 1024 <= port < 65535 else DEFAULT_PORT
            raise CannotRun(
                f"port {port} cannot be had ({error.strerror}): stop the program that uses it, "
                f"or choose another port: make run PORT={other}"
            ) from error
    return port


def _run(port: int) -> NoReturn:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    with contextlib.ExitStack() as stack:
        django.setup()
        settings.VAR_DIR.mkdir(parents=True, exist_ok=True)
        server = conf.embedded_server()
        if server is not None:
            stack.enter_context(server)
        call_command("migrate", verbosity=0)
        if settings.DEBUG:
            call_command("seed_demo_users", verbosity=0)
        connections.close_all()
        processes = {
            "the web server": _start(
                *["-m", "realtime.web", "project.asgi:application"],
                *[f"--port={port}", f"--drain-seconds={DRAIN_SECONDS}"],
            )
        }
        stack.callback(lambda: children.stop(processes.values(), deadline_seconds=STOP_DEADLINE_SECONDS))
        bot = processes[BOT] = _start("manage.py", "run_bot_subscriber")
        _wait_until_page_answers(port, processes)
        sys.stdout.write(_welcome(port, bot.pid))
        sys.stdout.flush()
        while True:
            _let_bot_be_stopped(processes)
            _raise_if_one_ended(processes)
            if server is not None:
                server.tend()
            time.sleep(POLL_SECONDS)


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own programs
        [sys.executable, *arguments],
        cwd=settings.BASE_DIR,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        # Ctrl-C reaches this process alone, and it stops its children in order.
        start_new_session=True,
        preexec_fn=children.end_with_parent(),
    )


def _let_bot_be_stopped(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    """If the bot was stopped on purpose, by SIGTERM, go on without it: somebody wants to see what happens then."""
    bot = processes.get(BOT)
    if bot is not None and bot.poll() in (0, -signal.SIGTERM):
        del processes[BOT]
        sys.stdout.write(
            f"\n{BOT} was stopped, and the site goes on without it: notifications wait.\n"
            f"To start it again, in a second terminal: .venv/bin/python manage.py {BOT}\n\n"
        )
        sys.stdout.flush()


def _raise_if_one_ended(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    for name, process in processes.items():
        code = process.poll()
        if code is not None:
            how = f"with code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
            raise CannotRun(f"{name} ended {how}: its own words are above; the rest is stopped")


def _wait_until_page_answers(port: int, processes: dict[str, subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + READY_DEADLINE_SECONDS
    while True:
        _raise_if_one_ended(processes)
        try:
            health.check_web(port)
        except (health.Unwell, OSError, http.client.HTTPException) as error:
            if time.monotonic() > deadline:
                raise CannotRun(
                    f"no page within {READY_DEADLINE_SECONDS:.0f} s ({error}): see the errors above"
                ) from error
        else:
            return
        time.sleep(POLL_SECONDS)


def _welcome(port: int, bot_pid: int) -> str:
    url = f"http://{HOST}:{port}/"
    if not settings.DEBUG:
        return f"\nSignalbox is at {url}   (Ctrl-C stops it; DEBUG is off, so there are no demo users)\n\n"
    return textwrap.dedent(f"""
        Signalbox is at {url}   (Ctrl-C stops it)

            alice   password demo     a customer
            bob     password demo     another customer
            admin   password admin    the staff, at {url}admin/

        To see it work:
            1. Sign in as alice and click "Place order": the bell counts at once.
            2. In a private window sign in to {url}admin/ as admin and change the order's status:
               alice's bell rings.
            3. From a second terminal: .venv/bin/python manage.py notify alice "Your parcel is here"
            4. Stop the bot alone with `kill {bot_pid}`, send another one, and start the bot again:
               .venv/bin/python manage.py run_bot_subscriber

    """)


if __name__ == "__main__":
    sys.exit(main())
