"""If the encoding of the standard output lacks a character, an escape is printed, and nothing fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

from realtime.management.base import EscapingCommand

pytestmark = pytest.mark.database_independent
ROOT = Path(__file__).resolve().parents[2]
# Prints what the console transport prints, to the end.
PRINT = """
import asyncio, django
django.setup()
from notifications.transports.console import ConsoleTransport, send_message
asyncio.run(send_message(42, "caf\\u00e9 \\u20ac \\U0001f389 \\ud83d"))
ConsoleTransport(name="console").close()
"""


def run(*arguments: str, encoding: str) -> bytes:
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings", "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert b"Error" not in done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("encoding", "line"),
    [
        ("ascii", rb"user 42: caf\xe9 \u20ac \U0001f389 \ud83d"),
        ("latin-1", b"user 42: caf\xe9" + rb" \u20ac \U0001f389 \ud83d"),
        ("cp1252", b"user 42: caf\xe9 \x80" + rb" \U0001f389 \ud83d"),
        ("utf-8", "user 42: café € 🎉 ".encode() + rb"\ud83d"),
        # As somebody has asked for it.
        ("ascii:replace", rb"user 42: caf? ? ? \ud83d"),
    ],
)
def test_the_console_transport_prints_an_escape(encoding: str, line: bytes) -> None:
    """A notification with an emoji is delivered all the same, once."""
    assert run("-c", PRINT, encoding=encoding) == line + b"\n"


def test_a_command_says_its_help_in_ascii() -> None:
    """It has letters that ASCII lacks."""
    assert b"usage: " in run("manage.py", "notify", "--help", encoding="ascii")
    printed = run("-c", COMMAND, encoding="ascii")
    assert printed == rb"caf\xe9 \u20ac" + b"\n"


# A command of ours that prints what somebody else has named.
COMMAND = """
import django
django.setup()
from django.core.management import call_command
from realtime.management.base import EscapingCommand
class Command(EscapingCommand):
    requires_system_checks = []
    def handle(self, *args, **options):
        self.stdout.write("caf\\u00e9 \\u20ac")
call_command(Command())
"""


def test_each_command_of_ours_prints_so() -> None:
    """A new one begins with the same class."""
    ours = [name for name, app in get_commands().items() if app in ("notifications", "realtime", "project.demo")]
    assert len(ours) >= 10
    for name in ours:
        assert isinstance(load_command_class(get_commands()[name], name), EscapingCommand), name
