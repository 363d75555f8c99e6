"""The package as a stranger gets it: one wheel, in a virtual environment that has nothing else."""

import json
import re
import shlex
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.new_project import Process
from tests.support.redis_server import RedisServer
from tests.support.wheel import EXTRA_MODULES, ROOT, environment, install, lower_bounds, new_venv

# A package index may be far away.
pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent, pytest.mark.timeout(900)]

APPS = ("realtime", "notifications")
# Appended to what `django-admin startproject` makes.
SETTINGS = """
INSTALLED_APPS += ["channels", "realtime", "notifications"]
REALTIME = {"REDIS_URL": "%(url)s"}
CHANNEL_LAYERS = {
    "default": {"BACKEND": "realtime.layer.RedisChannelLayer", "CONFIG": {"hosts": [REALTIME["REDIS_URL"]]}},
}
DATABASES["default"]["OPTIONS"] = {"transaction_mode": "IMMEDIATE", "timeout": 20}
"""
# A transport of each extra, with options that are right.
TRANSPORTS = {
    "webhook": {
        "BACKEND": "notifications.transports.webhook.WebhookTransport",
        "OPTIONS": {"url": "https://example.com/", "secret": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="},
    },
    "chat": {
        "BACKEND": "notifications.transports.apprise.AppriseTransport",
        "OPTIONS": {"urls": ["json://example.com"]},
    },
    "webpush": {
        "BACKEND": "notifications.transports.webpush.WebPushTransport",
        "OPTIONS": {
            "private_key": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY",
            "subject": "mailto:ops@example.com",
        },
    },
}
# A sink that each extra is for.
SINKS = {
    "logs": 'class Files(NdjsonSink):\n    url = "memory://files"\n',
    "parquet": 'class Files(NdjsonSink):\n    url = "files"\n    format = "parquet"\n',
}
# Imports each module of the apps in a process of its own making, and prints which could not be, and why.
IMPORT_ALL = """
import django, importlib, json, pkgutil
django.setup()
failed = {}
for app in ("realtime", "notifications"):
    package = importlib.import_module(app)
    assert "site-packages" in package.__file__
    for module in pkgutil.walk_packages(package.__path__, f"{app}."):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            failed[module.name] = str(error)
print(json.dumps(failed))
"""


def files_of_the_apps() -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for app in APPS
        for path in (ROOT / app).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def contents(wheel: Path) -> set[str]:
    """Without the metadata."""
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_the_wheel_has_all_files_of_the_two_apps_and_no_others(wheel: Path) -> None:
    """Migrations, templates, static files, catalogs and Lua scripts are in it; project/ and tests/ are not."""
    assert contents(wheel) == files_of_the_apps()
    kinds = ("/migrations/0001_initial.py", "bell.html", "client.js", "django.mo", "django.po", ".lua", "py.typed")
    for kind in kinds:
        assert any(name.endswith(kind) for name in contents(wheel)), kind
    for app in APPS:
        assert f"{app}/py.typed" in contents(wheel)


def test_a_source_distribution_gives_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """`python -m build`, as for a release."""
    python = new_venv(tmp_path / "venv")
    install(python, None, "build")
    subprocess.run(
        [python, "-m", "build", "--outdir", tmp_path / "dist", ROOT],
        check=True,
        capture_output=True,
        cwd=tmp_path,
        env=environment(),
    )
    (built,) = (tmp_path / "dist").glob("*.whl")
    assert built.name == wheel.name
    assert contents(built) == contents(wheel)
    assert len(list((tmp_path / "dist").glob("*.tar.gz"))) == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A new project, on the `python` of a virtual environment."""

    python: Path
    directory: Path
    environment: dict[str, str]

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run this Python in the project."""
        return subprocess.run(
            [self.python, *arguments],
            cwd=self.directory,
            env={**self.environment, **variables},
            check=False,
            capture_output=True,
            text=True,
        )

    def manage(self, *arguments: str) -> str:
        """Run a command that must succeed, and return its output."""
        done = self.run("manage.py", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def failed_imports(self) -> dict[str, str]:
        done = self.run("-c", IMPORT_ALL, DJANGO_SETTINGS_MODULE="mysite.settings")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def adds(self, extra: str) -> str:
        """The command that adds an extra to this environment, as errors have it."""
        return f'{self.python} -m pip install "signalbox[{extra}]"'

    def use(self, name: str) -> str:
        """Make settings that have one more transport; returns their module."""
        transports = {"TRANSPORTS": {name: TRANSPORTS[name]}, "DEFAULT_TRANSPORTS": [name]}
        text = f"from mysite.settings import *\nNOTIFICATIONS = {transports!r}\n"
        (self.directory / f"mysite/with_{name}.py").write_text(text)
        return f"mysite.with_{name}"

    def sink_of(self, extra: str) -> str:
        """Make settings with an app that has a sink; returns their module."""
        app = self.directory / f"sink_{extra}"
        app.mkdir()
        (app / "__init__.py").touch()
        (app / "sinks.py").write_text(f"from realtime.sinks import NdjsonSink\n\n\n{SINKS[extra]}")
        text = f'from mysite.settings import *\nINSTALLED_APPS += ["sink_{extra}"]\n'
        (self.directory / f"mysite/with_sink_{extra}.py").write_text(text)
        return f"mysite.with_sink_{extra}"


def new_site(wheel: Path, directory: Path, redis_url: str, *options: str | Path, extras: str = "") -> Site:
    python = new_venv(directory / "venv")
    install(python, wheel, *options, extras=extras)
    project = directory / "project"
    project.mkdir()
    site = Site(python=python, directory=project, environment=environment(PYTHONUNBUFFERED="1"))
    assert site.run("-m", "django", "startproject", "mysite", ".").returncode == 0
    with (project / "mysite/settings.py").open("a") as settings:
        settings.write(SETTINGS % {"url": redis_url})
    return site


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with RedisServer() as server:
        yield server.url


@pytest.fixture(scope="module")
def core(wheel: Path, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """With no extra."""
    return new_site(wheel, tmp_path_factory.mktemp("core"), redis_url)


def notify_and_deliver(site: Site) -> str:
    """From startproject to what the bot prints, which is returned; the check finds no errors."""
    site.manage("migrate")
    site.manage("check")
    site.manage("shell", "-c", "from django.contrib.auth.models import User; User.objects.create_user('alice')")
    assert "1 notification, published" in site.manage("notify", "alice", "Your invoice is ready")
    command = [str(site.python), "manage.py", "run_bot_subscriber"]
    bot = Process(site.directory / "bot.log", command, site.environment)
    try:
        bot.wait_until(lambda: "user 1: Your invoice is ready" in bot.log)
    finally:
        bot.stop()
    assert "notifications" in site.manage("stream_status")
    return bot.log


def write_a_file(site: Site, extra: str) -> None:
    """A record is appended, and the sink for an extra writes it."""
    settings = site.sink_of(extra)
    record = '{"level": "INFO", "timestamp": "2026-01-31T12:00:00Z", "logger": "till", "message": "sold"}'
    append = f"from realtime.conf import sync_redis; sync_redis().xadd('logs', {{'record': {record!r}}})"
    site.manage("shell", "-c", append)
    command = [str(site.python), "manage.py", "run_log_sink", "--settings", settings]
    sink = Process(site.directory / "sink.log", command, site.environment)
    try:
        sink.wait_until(lambda: "Files running" in sink.log)
        status = "stream_status", "logs", "--group", "Files", "--json"
        sink.wait_until(lambda: json.loads(site.manage(*status))["streams"][0]["groups"][0]["oldest_seconds"] is None)
    finally:
        sink.stop()
    assert "Traceback" not in sink.log


def test_a_new_project_notifies_with_the_core_alone(core: Site) -> None:
    """Django, Channels, Redis and msgspec are enough."""
    assert "Traceback" not in notify_and_deliver(core)


def test_the_lowest_versions_are_enough(wheel: Path, tmp_path: Path) -> None:
    """Every requirement in the version that pyproject.toml names: the newest are what the other tests install."""
    constraints = tmp_path / "lowest.txt"
    constraints.write_text("\n".join(lower_bounds()))
    with RedisServer() as server:
        extras = "all,embedded,parquet,tasks,conformance"
        site = new_site(wheel, tmp_path, server.url, "--constraint", constraints, extras=extras)
        installed = site.run("-m", "pip", "freeze").stdout.splitlines()
        assert [each for each in installed if each.startswith("Django==")] == ["Django==5.2"]
        assert site.failed_imports() == {}
        for name in TRANSPORTS:
            site.manage("check", "--settings", site.use(name))
        assert "Traceback" not in notify_and_deliver(site)
        for extra in SINKS:
            write_a_file(site, extra)


def test_the_core_imports_without_any_extra(core: Site) -> None:
    """Only the modules of an extra are missing, and those that users name say which."""
    failed = core.failed_imports()
    assert failed.keys() == EXTRA_MODULES.keys()
    for module in (
        "realtime.server",
        *(f"notifications.transports.{name}" for name in ("apprise", "webhook", "webpush")),
    ):
        assert failed[module].endswith(f"is not installed in this environment: run {core.adds(EXTRA_MODULES[module])}")


@pytest.mark.parametrize("name", TRANSPORTS)
@pytest.mark.parametrize("command", ["check", "run_bot_subscriber"])
def test_a_transport_without_its_extra_is_one_line(core: Site, name: str, command: str) -> None:
    """By the system check, and by the bot itself where checks are skipped."""
    done = core.run("manage.py", command, "--settings", core.use(name))
    text = done.stdout + done.stderr
    assert done.returncode == 1
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if "is not installed" in line]
    assert f'NOTIFICATIONS["TRANSPORTS"]["{name}"]' in line
    assert line.endswith(f"is not installed in this environment: run {core.adds(name)}")


@pytest.mark.parametrize("extra", SINKS)
def test_a_sink_without_its_extra_is_one_line(core: Site, extra: str) -> None:
    """By the command that runs it."""
    done = core.run("manage.py", "run_log_sink", "--settings", core.sink_of(extra))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].endswith(f"is not installed in this environment: run {core.adds(extra)}")


def test_a_cron_expression_without_its_extra_is_one_line(core: Site) -> None:
    """By the worker, also when it only lists the periodic tasks. An interval needs no extra."""
    (core.directory / "mysite/with_tasks.py").write_text(
        "from mysite.settings import *\nINSTALLED_APPS += ['mysite']\n"
        "TASKS = {'default': {'BACKEND': 'realtime.tasks.RedisStreamBackend'}}\n"
    )
    for schedule, code in (("every_seconds=60", 0), ("cron='0 3 * * *'", 1)):
        (core.directory / "mysite/tasks.py").write_text(
            "from django.tasks import task\nfrom realtime.tasks import periodic\n\n\n"
            f"@periodic({schedule})\n@task\ndef tidy(): ...\n"
        )
        done = core.run("manage.py", "run_task_worker", "--list", "--settings", "mysite.with_tasks")
        assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].endswith(f"is not installed in this environment: run {core.adds('tasks')}")


def test_the_command_of_the_error_adds_what_is_missing(wheel: Path, redis_url: str, tmp_path: Path) -> None:
    """It keeps the installed package, which PyPI does not have, and the transport works then."""
    site = new_site(wheel, tmp_path, redis_url)
    settings = site.use("webhook")
    said = site.run("manage.py", "check", "--settings", settings).stderr
    (command,) = re.findall(r"in this environment: run (.+)$", said, re.MULTILINE)
    before = site.run("-m", "pip", "show", "--files", "signalbox").stdout
    subprocess.run(shlex.split(command), cwd=tmp_path, env=site.environment, check=True, capture_output=True)
    site.manage("check", "--settings", settings)
    assert site.run("-m", "pip", "show", "--files", "signalbox").stdout == before


def test_the_wheel_refuses_an_older_python(wheel: Path) -> None:
    """pip reads it from the metadata."""
    (name,) = [each for each in zipfile.ZipFile(wheel).namelist() if each.endswith(".dist-info/METADATA")]
    assert "\nRequires-Python: >=3.12\n" in zipfile.ZipFile(wheel).read(name).decode()


def test_with_all_extras_everything_works(wheel: Path, redis_url: str, tmp_path: Path) -> None:
    """Each module is imported, and each transport is made."""
    site = new_site(wheel, tmp_path, redis_url, extras="all,embedded,conformance")
    assert site.failed_imports() == {}
    for name in TRANSPORTS:
        site.manage("check", "--settings", site.use(name))
    assert site.run("-m", "pip", "check").returncode == 0
