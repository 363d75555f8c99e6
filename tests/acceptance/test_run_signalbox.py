"""`manage.py run_signalbox`: a site in one terminal; it restarts if its code changes, and leaves no process behind."""

import contextlib
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from realtime.embedded.server import ping
from tests.acceptance.new_project import SECONDS
from tests.acceptance.site import free_port
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parent.parent.parent
SETTINGS = """
INSTALLED_APPS += ["channels", "realtime", "notifications"]
ASGI_APPLICATION = "mysite.asgi.application"
REALTIME = {"REDIS_URL": "embedded://"}
CHANNEL_LAYERS = {"default": {"BACKEND": "realtime.layer.RedisChannelLayer"}}
DATABASES["default"]["OPTIONS"] = {"transaction_mode": "IMMEDIATE", "timeout": 20}
LOGIN_URL = "admin:login"
"""
ASGI = """
import os

from realtime.setup import asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
application = asgi_application()
"""
# The system checks warn of it: W003.
EMAIL = """
NOTIFICATIONS = {
    "TRANSPORTS": {"email": {"BACKEND": "notifications.transports.email.EmailTransport"}},
    "DEFAULT_TRANSPORTS": ["email"],
}
"""
URLS = """
from django.http import HttpResponse

urlpatterns += [path("", lambda request: HttpResponse("the first page"))]
"""


TESTS = """
from django.conf import settings
from django.contrib.auth.models import User
from django.test import TestCase

from notifications.conf import STREAM
from notifications.services import notify
from realtime import conf


class Test(TestCase):
    def test(self):
        self.assertFalse(settings.DEBUG)
        with self.captureOnCommitCallbacks(execute=True):
            notify(User.objects.create_user("bob"), "Your invoice is ready")
        self.assertEqual(conf.sync_redis().xlen(conf.keys().stream(STREAM)), 1)
"""


# Prints the process id of its web server when that answers.
STUBBORN_SITE = """
import sys
import django
from realtime.development import site

WEB = '''
import http.server, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.BaseHTTPRequestHandler).serve_forever()
'''
django.setup()
site.STOP_DEADLINE_SECONDS = 600
site.stop_by_signals()
port = int(sys.argv[1])
parts = [site.Part(name="web", arguments=["-c", WEB, str(port)])]
say = lambda text: print(text, flush=True)
try:
    site.Site(parts, host="127.0.0.1", port=port, reload=False, say=say).run(
        prepare=lambda: None, on_ready=lambda pids: say(pids["web"])
    )
except site.Stopped:
    pass
"""


TASKS = """
TASKS = {
    "default": {"BACKEND": "realtime.tasks.RedisStreamBackend"},
    "slow": {"BACKEND": "realtime.tasks.RedisStreamBackend", "QUEUES": ["slow"]},
    "dummy": {"BACKEND": "django.tasks.backends.dummy.DummyBackend"},
}
INSTALLED_APPS += ["mysite"]
"""
TASK = """
from django.tasks import task


@task
def note(text):
    with open("noted.txt", "a") as file:
        file.write(text)
"""
ENQUEUE = "from mysite.tasks import note; note.using(queue_name={queue!r}, backend={backend!r}).enqueue({text!r})"


class Running:
    """The command on a project."""

    def __init__(self, directory: Path, *arguments: str, **environment: str) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self._log = directory.parent / f"{self.port}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, directory / "manage.py", "run_signalbox", f"--port={self.port}", *arguments],
                # Not where manage.py is.
                cwd=directory.parent,
                env={**_environment(), **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def output(self) -> str:
        return self._log.read_text()

    def wait_for(self, words: str) -> re.Match[str]:
        """Wait until it has written this pattern."""

        def found() -> re.Match[str] | None:
            match = re.search(words, self.output())
            assert match or self.process.poll() is None, self.output()
            return match

        match = wait_until_sync(found, seconds=SECONDS)
        assert match is not None
        return match

    def page(self) -> str:
        """The front page, or the error instead of it."""
        try:
            with urllib.request.urlopen(self.url, timeout=10) as response:  # noqa: S310 - our own server
                return str(response.read().decode())
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            return repr(error)

    def pid_of(self, name: str) -> int:
        return int(self.wait_for(rf"the site is at {self.url} with .*{name} \(process (\d+)\)")[1])

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(SECONDS)
            finally:
                self.process.kill()
                self.process.wait()


def _environment() -> dict[str, str]:
    hidden = ("REDIS_URL", "DATABASE_URL", "DJANGO_SETTINGS_MODULE")
    inherited = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**inherited, "PYTHONPATH": str(ROOT)}


def manage(directory: Path, *arguments: str) -> str:
    done = attempt_to_manage(directory, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def attempt_to_manage(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that may fail."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=directory,
        env=_environment(),
        check=False,
        capture_output=True,
        text=True,
    )


def write(path: Path, text: str) -> None:
    """Append to a file so that its modification time changes."""
    before = path.stat().st_mtime_ns
    path.write_text(text)
    os.utime(path, ns=(before + 1_000_000, before + 1_000_000))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new project with its tables and the user alice."""
    directory = tmp_path_factory.mktemp("made") / "site"
    directory.mkdir()
    subprocess.run([sys.executable, "-m", "django", "startproject", "mysite", directory], check=True)
    for name, text in (("settings", SETTINGS), ("urls", URLS)):
        with (directory / f"mysite/{name}.py").open("a") as file:
            file.write(text)
    (directory / "mysite/asgi.py").write_text(ASGI)
    manage(directory, "migrate", "--verbosity=0")
    manage(directory, "shell", "-c", "from django.contrib.auth.models import User; User.objects.create_user('alice')")
    return directory


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    """A copy for one test."""
    return Path(shutil.copytree(made, tmp_path / "site"))


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def start(stack: contextlib.ExitStack, project: Path, *arguments: str, **environment: str) -> Running:
    running = Running(project, *arguments, **environment)
    stack.callback(running.end)
    return running


def read(terminal: int) -> bytes:
    """What a terminal shows next."""
    assert select.select([terminal], [], [], SECONDS)[0], "the command shows nothing more"
    return os.read(terminal, 4096)


def test_what_a_terminal_shows_from_start_to_ctrl_c(project: Path) -> None:
    """First that the site runs, when it does, with its address; at last why it stops. Nothing of its processes."""
    port = free_port()
    terminal, other_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "manage.py", "run_signalbox", f"--port={port}"],
        cwd=project,
        env=_environment(),
        **{"stdin": other_end, "stdout": other_end, "stderr": other_end, "start_new_session": True},
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(other_end)
    shown = b""
    try:
        # The end of the last line that a good start shows.
        while b'"It works"\r\n' not in shown:
            shown += read(terminal)
        os.write(terminal, b"\x03")
        # Linux raises an error when the last process that uses the terminal has ended.
        with contextlib.suppress(OSError):
            while some := read(terminal):
                shown += some
        assert process.wait(SECONDS) == 0, shown
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    address, *others = shown.decode().splitlines()
    assert re.fullmatch(
        rf"run_signalbox: the site is at http://127.0.0.1:{port}/ with the web server \(process \d+\), "
        r"run_bot_subscriber \(process \d+\); Ctrl-C stops it",
        address,
    )
    assert others == [
        'To send a notification, in a second terminal: python manage.py notify USERNAME "It works"',
        "^C",
        "run_signalbox: Ctrl-C: stopping; Ctrl-C again ends everything at once",
        "run_signalbox: stopped",
    ]


def test_a_second_ctrl_c_ends_everything_at_once(project: Path) -> None:
    """Here a process ignores SIGTERM, and would be given ten minutes."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", STUBBORN_SITE, str(port)],
        cwd=project,
        env={**_environment(), "DJANGO_SETTINGS_MODULE": "mysite.settings"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process:
        try:
            child = int(process.stdout.readline())
            process.send_signal(signal.SIGINT)
            assert "Ctrl-C again ends everything at once" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_missing_tables_are_one_line(project: Path) -> None:
    """Before anything starts."""
    (project / "db.sqlite3").unlink()
    done = attempt_to_manage(project, "run_signalbox", f"--port={free_port()}")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("CommandError: the database lacks migrations (")
    assert line.endswith("run `manage.py migrate`, then this again")


def test_a_site_whose_bot_waits_for_redis_is_shown(project: Path, stack: contextlib.ExitStack) -> None:
    """The line before its address says what is missing."""
    settings = project / "mysite/settings.py"
    settings.write_text(settings.read_text().replace("embedded://", "redis://127.0.0.1:1"))
    running = start(stack, project)
    running.pid_of("run_bot_subscriber")
    unavailable, waits, *_ = running.output().splitlines()
    assert unavailable.startswith("Redis is unavailable (")
    assert waits == "run_signalbox: run_bot_subscriber is not ready yet: notifications wait until it is"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_command_starts_all_and_one_signal_ends_all(
    project: Path, stack: contextlib.ExitStack, number: signal.Signals
) -> None:
    """Pages are served, another process joins the embedded server, and the bot delivers. Then no process is left."""
    running = start(stack, project)
    running.wait_for(f"run_signalbox: the site is at {running.url} with the web server .*Ctrl-C stops it")
    assert running.page() == "the first page"
    assert "1 notification, published" in manage(project, "notify", "alice", "Your invoice is ready")
    running.wait_for("user 1: Your invoice is ready")
    socket_path = project / "var/valkey.sock"
    assert ping(socket_path) == b"+PONG\r\n"
    os.killpg(running.process.pid, number)
    assert running.process.wait(SECONDS) == 0, running.output()
    assert "run_signalbox: stopped" in running.output()
    assert "Traceback" not in running.output()
    assert not ping(socket_path)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", running.port)).close()


def test_task_workers_are_parts_of_the_site(project: Path, stack: contextlib.ExitStack) -> None:
    """One for each backend of ours. They run the code of the last change; stopped alone, their tasks wait."""
    noted = project.parent / "noted.txt"
    (project / "mysite/tasks.py").write_text(TASK)
    with (project / "mysite/settings.py").open("a") as file:
        file.write(TASKS)

    def enqueue(text: str, backend: str = "default") -> None:
        manage(project, "shell", "-v0", "-c", ENQUEUE.format(queue=backend, backend=backend, text=text))

    def is_noted(text: str) -> bool:
        return noted.exists() and text in noted.read_text()

    running = start(stack, project)
    running.wait_for(
        r"with the web server \(process \d+\), run_bot_subscriber \(process \d+\), run_task_worker \(process \d+\), "
        r"run_task_worker --backend=slow \(process \d+\); Ctrl-C stops it"
    )
    enqueue("one ")
    enqueue("two ", "slow")
    wait_until_sync(lambda: is_noted("one ") and is_noted("two "), seconds=SECONDS)
    write(project / "mysite/tasks.py", TASK.replace("file.write(text)", "file.write(text.upper())"))
    running.wait_for(r"mysite/tasks.py has changed: starting again")
    again = running.wait_for(r"running again with .*run_task_worker \(process (\d+)\), run_task_worker --backend")
    enqueue("three ")
    wait_until_sync(lambda: is_noted("THREE "), seconds=SECONDS)

    os.kill(int(again[1]), signal.SIGTERM)
    running.wait_for("run_task_worker was stopped, and the site goes on without it: tasks wait.\n.* run_task_worker\n")
    enqueue("four ")
    enqueue("five ", "slow")
    wait_until_sync(lambda: is_noted("FIVE "), seconds=SECONDS)
    assert not is_noted("FOUR ")
    assert running.page() == "the first page"
    os.killpg(running.process.pid, signal.SIGTERM)
    assert running.process.wait(SECONDS) == 0
    assert "Traceback" not in running.output()


def test_it_starts_again_when_the_code_changes(project: Path, stack: contextlib.ExitStack) -> None:
    """The new page is served. After a change that cannot start, it waits for the next change."""
    running = start(stack, project)
    first_bot = running.pid_of("run_bot_subscriber")
    assert running.page() == "the first page"
    urls = project / "mysite/urls.py"
    good = urls.read_text().replace("the first page", "the second page")
    write(urls, good)
    running.wait_for(r"run_signalbox: site/mysite/urls.py has changed: starting again")
    running.wait_for(
        r"run_signalbox: running again with the web server \(process \d+\), run_bot_subscriber \(process \d+\)"
    )
    assert running.page() == "the second page"
    with pytest.raises(ProcessLookupError):
        os.kill(first_bot, 0)

    settings = project / "mysite/settings.py"
    text = settings.read_text()
    write(settings, text + "\nno_such_name\n")
    for name in ("the web server", "run_bot_subscriber"):
        running.wait_for(f"{name} ended with code 1, see above: it starts again when a file changes")
    write(settings, text)
    wait_until_sync(lambda: running.page() == "the second page", seconds=SECONDS)
    manage(project, "notify", "alice", "After all that")
    running.wait_for("user 1: After all that")


def test_a_project_with_an_odd_path_and_apps_in_a_directory_of_their_own(
    project: Path, stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    """It is started through a link, and its manage.py adds the directory of the apps to the path of Python."""
    odd = project.rename(tmp_path / "C# & 100%41 sure?")
    (tmp_path / "link").symlink_to(odd)
    project = tmp_path / "link"
    (project / "apps/shop").mkdir(parents=True)
    (project / "apps/shop/__init__.py").touch()
    (project / "apps/shop/notification_kinds.py").write_text("print('the shop is open', flush=True)\n")
    with (project / "mysite/settings.py").open("a") as settings:
        settings.write('INSTALLED_APPS += ["shop"]\n')
    command = project / "manage.py"
    command.write_text(
        command.read_text().replace(
            "import sys\n", "import sys\nsys.path.insert(0, os.path.dirname(__file__) + '/apps')\n"
        )
    )
    running = start(stack, project)
    running.pid_of("run_bot_subscriber")
    # This command, the web server and the bot.
    wait_until_sync(lambda: running.output().count("the shop is open") == 3, seconds=SECONDS)
    assert running.page() == "the first page"
    manage(project, "notify", "alice", "Your invoice is ready")
    running.wait_for("user 1: Your invoice is ready")
    write(project / "apps/shop/notification_kinds.py", "print('the shop is closed', flush=True)\n")
    running.wait_for("notification_kinds.py has changed: starting again")
    running.wait_for("the shop is closed")


def test_files_of_the_embedded_server_that_are_removed_end_it_with_one_line(
    project: Path, stack: contextlib.ExitStack
) -> None:
    """By `git clean`, for example."""
    running = start(stack, project)
    running.pid_of("the web server")
    shutil.rmtree(project / "var")
    assert running.process.wait(SECONDS) == 1
    assert f"CommandError: {project}/var was removed" in running.output()
    assert not [line for line in running.output().splitlines() if line.startswith("FileNotFoundError")]


def test_code_with_a_syntax_error_is_one_line(project: Path, stack: contextlib.ExitStack) -> None:
    """The site continues until no file has an error, even if another file changes meanwhile."""
    running = start(stack, project)
    bot = running.pid_of("run_bot_subscriber")
    # Django loads urls.py at the first request.
    assert running.page() == "the first page"
    urls, asgi = project / "mysite/urls.py", project / "mysite/asgi.py"
    text = urls.read_text()
    write(urls, text + "\nfirst = (\n")
    line = r"site/mysite/urls.py, line \d+: '\(' was never closed; the old code keeps running\n"
    running.wait_for(f"run_signalbox: {line}$")
    write(asgi, asgi.read_text() + "\n")
    running.wait_for(f"(run_signalbox: {line}){{2}}$")
    assert running.page() == "the first page"
    os.kill(bot, 0)
    write(urls, text.replace("the first page", "the second page"))
    running.wait_for("running again")
    assert running.page() == "the second page"
    assert "Traceback" not in running.output()


@pytest.mark.parametrize("name", ["the web server", "run_bot_subscriber"])
def test_one_that_dies_stops_the_others(project: Path, stack: contextlib.ExitStack, name: str) -> None:
    """Exit code 1, and one line says which process ended and how."""
    running = start(stack, project)
    os.kill(running.pid_of(name), signal.SIGKILL)
    assert running.process.wait(SECONDS) == 1
    assert f"CommandError: {name} ended by SIGKILL: see its output above; the others were stopped" in running.output()
    assert not ping(project / "var/valkey.sock")


def test_without_reload_a_change_is_left_alone(project: Path, stack: contextlib.ExitStack) -> None:
    """The pages stay as they were at the start; other commands see the change."""
    running = start(stack, project, "--no-reload")
    running.pid_of("the web server")
    assert running.page() == "the first page"
    urls = project / "mysite/urls.py"
    write(urls, urls.read_text().replace("the first page", "the second page"))
    # The loop that notices a stopped bot would have noticed the change before.
    os.kill(running.pid_of("run_bot_subscriber"), signal.SIGTERM)
    running.wait_for("run_bot_subscriber was stopped, and the site goes on without it")
    assert running.page() == "the first page"
    assert "has changed" not in running.output()


def test_a_warning_is_shown_once_until_the_code_changes(project: Path, stack: contextlib.ExitStack) -> None:
    """The command and the bot would both show it. Changed code is checked by the bot."""
    settings = project / "mysite/settings.py"
    settings.write_text(settings.read_text() + EMAIL)
    running = start(stack, project)
    running.pid_of("run_bot_subscriber")
    wait_until_sync(lambda: running.output().count("(notifications.W003)") == 1, seconds=SECONDS)
    urls = project / "mysite/urls.py"
    write(urls, urls.read_text() + "\n# changed\n")
    running.wait_for("running again with the web server")
    wait_until_sync(lambda: running.output().count("(notifications.W003)") == 2, seconds=SECONDS)
    # When all processes have ended, there is no third.
    running.end()
    assert running.output().count("(notifications.W003)") == 2


def test_without_debug_the_embedded_server_is_refused(project: Path, stack: contextlib.ExitStack) -> None:
    """A system check reports it before anything starts."""
    settings = project / "mysite/settings.py"
    settings.write_text(settings.read_text() + "\nDEBUG, ALLOWED_HOSTS = False, ['127.0.0.1']\n")
    running = start(stack, project)
    assert running.process.wait(SECONDS) == 1
    assert "realtime.E007" in running.output()
    assert "DEBUG is off" in running.output()
    assert not (project / "var").exists()


def test_a_port_that_cannot_be_had_is_one_line(project: Path) -> None:
    """The error says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = attempt_to_manage(project, "run_signalbox", "--port", str(port))
    assert done.returncode == 1
    assert done.stderr.startswith(f"CommandError: port {port} cannot be used (Address already in use): ")
    assert "--port " in done.stderr


def test_a_host_that_is_not_this_machine_is_one_line(project: Path) -> None:
    """192.0.2.1 is an address for examples."""
    done = attempt_to_manage(project, "run_signalbox", "--host=192.0.2.1", f"--port={free_port()}")
    assert done.returncode == 1
    assert done.stderr.startswith("CommandError: the host 192.0.2.1 cannot be used (Cannot assign requested address): ")


def test_the_tests_of_a_project_may_use_the_embedded_server(project: Path) -> None:
    """Django's test runner turns DEBUG off."""
    (project / "mysite/tests.py").write_text(TESTS)
    assert "Ran 1 test" in manage(project, "test", "mysite")
    assert (project / "var/valkey").is_dir()


def test_the_help_teaches(project: Path) -> None:
    """It describes what the command starts, when it restarts, how it ends, and has examples."""
    text = manage(project, "run_signalbox", "--help")
    for words in ("embedded://", "run_bot_subscriber", "when a Python file", "Ctrl-C", "--port 8001", "In production"):
        assert words in text
