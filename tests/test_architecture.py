"""The rooms of docs/architecture.md, kept apart: import arrows, public names, docs against code."""

import ast
import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from django.core.management import BaseCommand, get_commands, load_command_class

from docs.site import python_reference
from notifications.conf import NotificationsSettings, TransportEntry
from notifications.models import Delivery
from realtime.conf import RealtimeSettings
from realtime.layer import RedisChannelLayer
from realtime.protocol.close_codes import CloseCode
from realtime.redis.keys import Keys
from realtime.statistics import METRICS, Now, ProcessStatistics, Total, Totals, WorkerStatistics
from realtime.statistics.metrics import OTHERS
from realtime.tasks.backend import BackendOptions
from tests.support.wheel import EXTRA_MODULES

pytestmark = pytest.mark.database_independent

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# Paths that pages name and this repository does not have: a project's own templates, and what `make bench-peers` makes.
MADE_ELSEWHERE = ("notifications/kinds/", "notifications/base.html", "benchmarks/peers/python")
# What people read, at the top and under docs/.
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(DOCS.rglob("*.md"))]

# What stands at the top of each app, from low to high. A package imports from itself and from lower levels.
LEVELS: dict[str, tuple[set[str], ...]] = {
    "realtime": (
        {"event_loops", "exceptions", "process_name"},
        {"untrusted", "embedded"},
        {"redis"},
        {"statistics"},
        {"pubsub", "streams", "broker"},
        {"protocol"},
        {"hub"},
        {"live"},
        # The edge: Django, Channels, uvicorn.
        {"conf", "extras", "models"},
        {"logs", "tasks"},
        {"sinks"},
        {"layer"},
        {"topics", "access"},
        {"publisher"},
        {"websocket"},
        {"consumers", "routing", "server", "admin", "web"},
        {"checks", "setup", "development"},
        {"apps", "management"},
    ),
    "notifications": (
        {"exceptions", "signals", "conf", "label"},
        {"database"},
        {"models"},
        {"content"},
        {"transports"},
        {"kinds"},
        {"preferences"},
        {"delivery"},
        {"events"},
        {"services"},
        {"topics", "statistics", "inbox"},
        {"workers"},
        {"urls", "checks", "templatetags", "admin", "health"},
        {"apps", "management"},
    ),
}
# The lowest level of `realtime` that may import Django, Channels and web servers.
EDGE = "conf"
EDGE_PACKAGES = ("django", "channels", "channels_redis", "asgiref", "uvicorn")
ROOMS_MAY_IMPORT = {
    "realtime": {"realtime"},
    "notifications": {"realtime", "notifications"},
    "project": {"realtime", "notifications", "project"},
}
# What the core may import beside the standard library: its requirements in pyproject.toml, and Django's asgiref.
CORE_REQUIREMENTS = {"django", "asgiref", "channels", "channels_redis", "redis", "hiredis", "msgspec"}
# Only where an app is installed, and with something to take its place.
OPTIONAL_IMPORTS = {"notifications.admin.looks": "unfold", "realtime.tasks.django_api": "django_tasks"}
# Files whose public names are fixed by Django, not by us.
WITHOUT_ALL = re.compile(r"/(migrations|management|templatetags)/|/(__init__|apps|urls|admin|settings|asgi)\.py$")


def modules(room: str) -> list[Path]:
    return [path for path in sorted((ROOT / room).rglob("*.py")) if "migrations" not in path.parts]


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """Each imported module, with the name taken from it when there is one."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from ((node.module or "", alias.name) for alias in node.names)


def level_of(app: str, name: str) -> int:
    for level, names in enumerate(LEVELS[app]):
        if name in names:
            return level
    raise AssertionError(f"{app}.{name} has no level: add it to LEVELS and to docs/architecture.md")


def imported_modules(path: Path) -> Iterator[str]:
    """The modules of ours that a module imports, also under TYPE_CHECKING."""
    for module, name in imports(path):
        full = f"{module}.{name}"
        if is_module(full):
            yield full
        elif is_module(module):
            yield module


def is_module(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def public_names(module: str) -> set[str]:
    path = ROOT / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


@pytest.mark.parametrize("room", ROOMS_MAY_IMPORT)
def test_rooms_import_only_what_they_may(room: str) -> None:
    """The transport knows no notification, and neither app knows the project that uses it."""
    for path in modules(room):
        for module, _ in imports(path):
            target = module.split(".")[0]
            if target in (*ROOMS_MAY_IMPORT, "tests", "benchmarks"):
                assert target in ROOMS_MAY_IMPORT[room], f"{path} imports {module}"


@pytest.mark.parametrize("app", LEVELS)
def test_lower_levels_never_import_higher_ones(app: str) -> None:
    """Nor does a package import another of its level."""
    for path in modules(app):
        own = module_name(path).split(".")[1:2]
        for target in imported_modules(path):
            package = target.split(".")[1:2]
            if own and package and package != own and target.split(".")[0] == app:
                assert level_of(app, package[0]) < level_of(app, own[0]), f"{path} imports {target}"


def test_only_the_edge_of_the_transport_knows_django() -> None:
    """The core takes values."""
    for path in modules("realtime"):
        name = module_name(path).split(".")[1:2]
        if name and level_of("realtime", name[0]) < level_of("realtime", EDGE):
            for module, _ in imports(path):
                assert module.split(".")[0] not in EDGE_PACKAGES, f"{path} imports {module}: only the edge may"


def test_no_circle_of_imports() -> None:
    """Not even under TYPE_CHECKING."""
    arrows = {module_name(path): set(imported_modules(path)) for room in ROOMS_MAY_IMPORT for path in modules(room)}
    while leaves := [name for name, targets in arrows.items() if not targets & arrows.keys() - {name}]:
        for name in leaves:
            del arrows[name]
    assert not arrows, f"modules in circles, or above one: {sorted(arrows)}"


def imports_at_start(tree: ast.AST) -> Iterator[tuple[str, str | None]]:
    """What a module imports when it is imported itself: in no function, and not for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for other in node.orelse:
                yield from imports_at_start(ast.Module(body=[other], type_ignores=[]))
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports_at_start(node)


@pytest.mark.parametrize("app", LEVELS)
def test_the_core_imports_only_what_the_package_requires(app: str) -> None:
    """Django, Channels, Redis and msgspec; what an extra brings is for the modules of that extra."""
    for path in modules(app):
        name = module_name(path)
        if name in EXTRA_MODULES:
            continue
        for module, imported in imports_at_start(ast.parse(path.read_text())):
            top = module.split(".")[0]
            if top in LEVELS:
                assert not {module, f"{module}.{imported}"} & EXTRA_MODULES.keys(), f"{path} imports {module}"
            elif top != OPTIONAL_IMPORTS.get(name):
                assert top in CORE_REQUIREMENTS | sys.stdlib_module_names, f"{path} imports {module}"


@pytest.mark.parametrize("app", LEVELS)
def test_no_package_uses_private_names_of_another(app: str) -> None:
    """A name that begins with an underscore is its module's."""
    for path in modules(app):
        for module, name in imports(path):
            parts = module.split(".")
            if parts[0] in LEVELS and name is not None:
                assert not name.startswith("_"), f"{path} imports {name} from {module}"


def test_notifications_use_only_public_names_of_the_transport() -> None:
    """What is not in a module's `__all__` may change without notice."""
    for path in modules("notifications"):
        for module, name in imports(path):
            if (
                module.startswith("realtime.")
                and name is not None
                and not (ROOT / Path(*module.split("."), f"{name}.py")).exists()
            ):
                assert name in public_names(module), f"{path} imports {name}, which {module} does not publish"


@pytest.mark.parametrize("room", ROOMS_MAY_IMPORT)
def test_modules_say_what_they_own_and_publish(room: str) -> None:
    """Each module opens with a docstring, and names its public definitions."""
    for path in modules(room):
        tree = ast.parse(path.read_text())
        if not tree.body or path.name == "apps.py":
            continue
        assert ast.get_docstring(tree), f"{path} does not say what it owns"
        if WITHOUT_ALL.search(str(path)):
            continue
        module = module_name(path)
        defined = {
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_")
        }
        assert not defined or public_names(module), f"{path} has no __all__"


# Docs against code --------------------------------------------------------------------------------------------------


def first_column(page: str) -> set[str]:
    """The `code` in the first cell of each table row of a page."""
    text = (DOCS / "reference" / page).read_text()
    return set(re.findall(r"^\| `([^`]+)`", text, flags=re.MULTILINE))


def test_every_setting_is_documented_and_every_documented_setting_exists() -> None:
    """docs/reference/settings.md lists exactly what the two apps and project/settings.py read."""
    source = (ROOT / "project" / "settings.py").read_text()
    variables = set(re.findall(r'env\.\w+\(\s*"(\w+)"', source))
    fields = {f'REALTIME["{name.upper()}"]' for name in RealtimeSettings.__dataclass_fields__}
    fields |= {f'NOTIFICATIONS["{name.upper()}"]' for name in NotificationsSettings.__dataclass_fields__}
    fields |= {name.upper() for name in TransportEntry.__struct_fields__}
    assert first_column("settings.md") == variables | fields | set(BackendOptions.__struct_fields__)


def test_every_option_of_a_backend_of_tasks_has_its_default_in_the_docs() -> None:
    """docs/reference/settings.md has the defaults of the code."""
    section = (DOCS / "reference/settings.md").read_text().partition("### Options of a backend in TASKS")[2]
    rows = re.findall(r"^\| `(\w+)` \| .+ \| `(.+)` \|$", section.partition("\n## ")[0], re.MULTILINE)
    assert {name: ast.literal_eval(default) for name, default in rows} == msgspec.structs.asdict(BackendOptions())


def test_every_command_is_documented_and_every_documented_command_exists() -> None:
    """docs/reference/commands.md lists exactly the management commands of the three apps."""
    commands = {
        path.stem
        for path in ROOT.glob("*/**/management/commands/*.py")
        if path.stem != "__init__" and not {".venv", "var", "site-packages"} & set(path.parts)
    }
    assert {name.split()[0] for name in first_column("commands.md")} == commands


def test_every_option_of_our_commands_is_documented() -> None:
    """docs/reference/commands.md names them in each command's row; Django's own are not ours to tell of."""
    rows = dict(re.findall(r"^\| `(\w+)(.*)$", (DOCS / "reference/commands.md").read_text(), re.MULTILINE))
    djangos = set(BaseCommand().create_parser("", "")._option_string_actions)
    for name, row in rows.items():
        parser = load_command_class(get_commands()[name], name).create_parser("manage.py", name)
        for option in set(parser._option_string_actions) - djangos:
            assert option in row or not option.startswith("--"), f"{name} {option} is not in its row"


def test_every_system_check_is_documented_and_every_documented_check_exists() -> None:
    """docs/reference/checks.md lists exactly the ids in the two checks.py, and that of the backend of tasks."""
    numbered = re.compile(r"(?:realtime|notifications)\.[EW]\d{3}")
    sources = ("realtime/checks.py", "realtime/tasks/backend.py", "notifications/checks.py")
    code = {id for path in sources for id in numbered.findall((ROOT / path).read_text())}
    assert first_column("checks.md") == code | {"realtime.E004", "realtime.W001"}


def test_every_close_code_is_documented() -> None:
    """docs/reference/close-codes.md is the table of the code."""
    text = (DOCS / "reference" / "close-codes.md").read_text()
    documented = {int(code): name for code, name in re.findall(r"^\| (\d+) \| `(\w+)`", text, flags=re.MULTILINE)}
    assert documented == {int(code): code.name for code in CloseCode}


def test_every_error_of_the_protocol_is_documented() -> None:
    """docs/reference/protocol.md has exactly the codes that the server sends."""
    section = (DOCS / "reference" / "protocol.md").read_text().partition("\n## Errors\n")[2].partition("\n## ")[0]
    used = re.compile(r'(?:FrameRefused\(code=|_refuse\(\s*|code, detail = |code=)"(\w+)"')
    sources = [*(ROOT / "realtime" / "protocol").glob("*.py"), *(ROOT / "realtime" / "live").glob("*.py")]
    sources += (ROOT / "realtime" / "websocket").glob("*.py")
    codes = {code for path in sources for code in used.findall(path.read_text())}
    assert set(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)) == codes


def test_every_state_of_a_delivery_is_documented() -> None:
    """docs/topics/delivery-guarantees.md has a row for each, under the name that the admin shows."""
    section = (DOCS / "topics" / "delivery-guarantees.md").read_text().partition("## The states of a delivery")[2]
    rows = re.findall(r"^\| (\w+) \|", section.partition("\n## ")[0], flags=re.MULTILINE)
    assert set(rows) - {"state"} == {str(label) for label in Delivery.State.labels}


def test_every_redis_key_is_documented() -> None:
    """docs/reference/redis-keys.md names each method of `Keys`, and no other."""
    methods = {name for name, value in vars(Keys).items() if callable(value) and not name.startswith("_")}
    assert first_column("redis-keys.md") == methods


def test_the_page_of_public_names_is_what_the_source_says() -> None:
    """docs/reference/python.md is made from the docstrings; each name has one."""
    text = python_reference.render()
    assert python_reference.PAGE.read_text() == text, "run `.venv/bin/python -m docs.site.python_reference`"
    assert re.findall(r"^ *- .*: *$", text, flags=re.MULTILINE) == [], "a docstring or a comment is missing"


def test_the_page_of_public_names_has_what_the_pages_import() -> None:
    """Examples use public names only."""
    listed = {
        f"{section.split()[0]}.{name}"
        for section in python_reference.PAGE.read_text().split("\n## ")[1:]
        for name in re.findall(r"^- `(?:async )?(\w+)", section, flags=re.MULTILINE)
    }
    for page in PAGES:
        for module, names in re.findall(
            r"^ *from ((?:realtime|notifications)\S*) import (.+)$", page.read_text(), re.M
        ):
            for name in re.findall(r"\w+", names):
                assert is_module(f"{module}.{name}") or f"{module}.{name}" in listed, f"{page} imports {module}.{name}"


def test_every_metric_is_documented() -> None:
    """docs/reference/statistics.md has each metric with its kind, unit, labels and meaning, in the same order."""
    rows = [
        f"| `{each.name}` | {each.kind} | {each.unit} | {', '.join(each.labels)} | {each.meaning} |"
        for each in METRICS.values()
    ]
    text = (DOCS / "reference/statistics.md").read_text()
    assert re.findall(r"^\| `\w+\.\w+` .*$", text, re.MULTILINE) == rows


def test_every_counter_of_a_part_is_a_metric() -> None:
    """And the other way round: what a part counts by an attribute is pushed under the name of that attribute."""
    kinds = {Now: "now", Total: "total", Totals: "total"}
    counters = {}
    for part in dataclasses.fields(ProcessStatistics):
        cls = WorkerStatistics if part.name == "workers" else part.type
        if part.name != "others":
            counters |= {f"{part.name}.{each.name}": kinds[each.type] for each in dataclasses.fields(cls)}
    parts = {name.partition(".")[0] for name in counters}
    assert {name: each.kind for name, each in METRICS.items() if name.partition(".")[0] in parts} == counters


def test_every_metric_that_is_counted_has_a_name() -> None:
    """What code counts by name is in the list of metrics, with as many labels."""
    called = re.compile(r"\b(?:count|observe)\(\s*f?\"([a-z_.]+)\"")
    named = set()
    for room in ("realtime", "notifications"):
        for path in modules(room):
            named |= set(called.findall(path.read_text()))
    assert named
    assert named <= METRICS.keys()


def test_every_other_counter_is_documented() -> None:
    """Each name that a part of ours registers for its own counters is in OTHERS, and OTHERS is in the documentation."""
    names = set()
    for room in ("realtime", "notifications"):
        for path in modules(room):
            names |= set(re.findall(r'\bregister\([\w.]+, f?"([^"]+)"\)', path.read_text()))
    assert {re.sub(r"{(\w+)}", r"<\1>", name) for name in names} == OTHERS.keys()
    text = (DOCS / "reference/statistics.md").read_text()
    rows = [f"| `{part}` | `{what}` | {meaning} |" for part, whats in OTHERS.items() for what, meaning in whats.items()]
    assert re.findall(r"^\| `[\w <>]+` \| `.*$", text, re.MULTILINE) == rows


def test_every_option_of_the_channel_layer_is_documented_with_its_default() -> None:
    """docs/reference/channel-layer.md has those that there are; its example is a channel layer."""
    options = inspect.signature(RedisChannelLayer).parameters.values()
    table = re.findall(r"^\| (`.+?`) \| (.+?) \|", (DOCS / "reference/channel-layer.md").read_text(), re.MULTILINE)
    documented = {name: default for names, default in table for name in re.findall(r"`(\w+)`", names)}
    assert set(documented) == {option.name for option in options}
    for option in options:
        if option.default is not None:
            assert ast.literal_eval(documented[option.name].strip("`")) == option.default


def test_every_page_is_linked_from_another() -> None:
    """What no link leads to is not found."""
    linked = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())
        if (page.parent / target).resolve() != page
    }
    assert [page for page in PAGES[1:] if page not in linked] == []


def test_links_between_pages_lead_somewhere() -> None:
    """No page of the docs points to a file that is not there."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page} links to {target}"


def test_links_to_headings_lead_somewhere() -> None:
    """Headings have the ids that GitHub gives them."""
    for page in PAGES:
        for target, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", page.read_text()):
            linked = (page.parent / target).resolve() if target else page
            text = re.sub(r"^```.*?^```", "", linked.read_text(), flags=re.MULTILINE | re.DOTALL)
            titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
            ids = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in ids, f"{page} links to {target}#{heading}"


def test_files_that_are_named_exist() -> None:
    """Each path, directory or pattern of the repository that a page has in backticks."""
    named = re.compile(r"`((?:tests|docs|realtime|notifications|project|benchmarks|deploy|\.ci)/[^`\s]*)`")
    for page in PAGES:
        for path in named.findall(page.read_text()):
            if path.startswith(MADE_ELSEWHERE):
                continue
            name = path.rstrip("/")
            assert [*ROOT.glob(name), *ROOT.glob(f"*/templates/{name}")], f"{page} names {path}"


def test_commands_that_are_named_exist() -> None:
    """Each `make …` and each `manage.py …` of a page."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in PAGES:
        code = "\n".join(re.findall(r"^```.*?^```|`[^`\n]+`", page.read_text(), flags=re.MULTILINE | re.DOTALL))
        assert set(re.findall(r"(?:^|`)make ([a-z-]+)", code, flags=re.MULTILINE)) <= targets, page
        # A page may have the whole of a command.
        its_own = set(re.findall(r"^# \w+/management/commands/(\w+)\.py: the whole file", code, flags=re.MULTILINE))
        assert set(re.findall(r"\bmanage\.py ([a-z_]+)", code)) <= get_commands().keys() | its_own, page


def test_the_front_page_has_the_supported_versions() -> None:
    """They are those of docs/reference/versions.md."""
    table = re.search(r"^\| part \|(?:.*\n)+?(?=\n)", (DOCS / "reference" / "versions.md").read_text(), re.MULTILINE)
    assert table is not None
    assert table[0] in (ROOT / "README.md").read_text()


def test_pictures_are_small_and_described() -> None:
    """A page is read on a slow line, and by people who do not see its pictures."""
    for page in PAGES:
        for words, target in re.findall(r"!\[(.*?)\]\((.+?)\)", page.read_text()):
            assert len(words.split()) >= 4, f"{page}: {target} has no description"
            assert (page.parent / target).stat().st_size < 400_000, f"{page}: {target} is large"


def test_python_on_the_front_page_is_python() -> None:
    """Each block compiles, and the settings are those of the page that a test follows in a new project."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    for block in blocks:
        ast.parse(block)
    (settings,) = [block for block in blocks if block.startswith("# mysite/settings.py")]
    assert settings in (DOCS / "how-to" / "add-to-your-project.md").read_text()
