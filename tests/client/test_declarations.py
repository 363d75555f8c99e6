"""The TypeScript declarations of the browser's scripts: they say what the code has, and what they say can be used."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from playwright._impl._driver import compute_driver_executable

from tests.support.page_libraries import library

# npm may have to get the compiler first.
pytestmark = [pytest.mark.database_independent, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent / "typescript"
CLIENT = ROOT / "realtime/static/realtime/client.js"
BELL = ROOT / "notifications/static/notifications/bell.js"


def run_node(*arguments: object) -> str:
    """What a script prints; it may fail."""
    node, _ = compute_driver_executable()
    result = subprocess.run(
        [node, *map(str, arguments)], capture_output=True, text=True, timeout=200, check=False, cwd=ROOT
    )
    return (result.stdout + result.stderr).strip()


@pytest.fixture(scope="module")
def compiler() -> Path:
    return library("typescript")


@pytest.mark.parametrize("file", [CLIENT, BELL], ids=lambda file: file.name)
def test_declarations_and_code_have_the_same_names(file: Path, compiler: Path) -> None:
    """Exports, members, events, options and numbers of arguments."""
    assert run_node(HERE / "compare.js", file) == ""


def test_a_difference_in_either_direction_is_found(tmp_path: Path, compiler: Path) -> None:
    """What is missing in the declarations, and what only they have."""
    copy = shutil.copytree(CLIENT.parent, tmp_path / "realtime")
    # As in the repository, for Node.js.
    shutil.copy(ROOT / "package.json", tmp_path)
    declarations = copy / "client.d.ts"
    text = declarations.read_text()
    for old, new in (
        ("  reconnect(): void;\n", ""),
        ("  setFilter(filter: Filter): void;", "  setFilter(filter: Filter): void;\n  pause(): void;"),
        ("export const SIGNED_OUT: Set<string>;", "export const SIGNED_IN: Set<string>;"),
        ("ack(offset?: number)", "ack(offset: number)"),
        ('    | "SLOW"\n', ""),
        ("  url?: string;\n", "  uri?: string;\n"),
        ("  signedout: ClientError;\n", "  signedin: ClientError;\n"),
    ):
        assert old in text
        text = text.replace(old, new, 1)
    declarations.write_text(text)
    assert sorted(run_node(HERE / "compare.js", copy / "client.js").splitlines()) == [
        "CLOSE_CODES.SLOW is not declared",
        "Connection.reconnect is not declared",
        "ConnectionEvents.signedin is declared, and is not in the code",
        "ConnectionEvents.signedout is not declared",
        "LiveSubscription.pause is declared, and is not in the code",
        "Options.uri is declared, and is not in the code",
        "Options.url is not declared",
        "SIGNED_IN is declared, and is not in the code",
        "SIGNED_OUT is not declared",
        "Subscription.ack is (1 to 1 arguments) in the declarations, (0 to 1 arguments) in the code",
    ]


def test_a_site_in_typescript_compiles(compiler: Path) -> None:
    """Each marked mistake in the example is one, and there are no others."""
    assert run_node(compiler, "-p", HERE) == ""


def test_the_documented_configuration_compiles(tmp_path: Path, compiler: Path) -> None:
    """As docs/reference/client.md says, with the repository in place of the installed packages."""
    page = (ROOT / "docs/reference/client.md").read_text()
    for language, name in (("json", "tsconfig.json"), ("ts", "page.ts")):
        (text,) = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
        (tmp_path / name).write_text(text.replace("./.venv/lib/python3.13/site-packages", str(ROOT)))
    assert run_node(compiler, "-p", tmp_path, "--noEmit") == ""
