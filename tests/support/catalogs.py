"""
The translations of both apps, and what their code asks them for.

Owns reading a .po file and finding the texts of Python files and templates, without GNU gettext.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from django.utils.translation.template import templatize

__all__ = ["APPS", "LANGUAGES", "Catalog", "Message", "locale_of", "messages_in_code", "read_po"]

ROOT = Path(__file__).resolve().parent.parent.parent
APPS = ("notifications", "realtime")
LANGUAGES = sorted(path.name for path in (ROOT / "notifications" / "locale").iterdir())
FUNCTIONS = {"_": 1, "gettext": 1, "gettext_lazy": 1, "gettext_noop": 1, "ngettext": 2, "ngettext_lazy": 2}
QUOTED = r'"(?:[^"\\]|\\.)*"'
FIELD = re.compile(rf"^(msgctxt|msgid|msgid_plural|msgstr(?:\[\d+\])?) ((?:{QUOTED}\s*)+)", re.MULTILINE)

# A msgid, with its plural if it has one.
type Message = tuple[str, ...]
# The translations of each, one for each plural form.
type Catalog = dict[Message, list[str]]


def locale_of(app: str, language: str) -> Path:
    """The directory of an app's .po and .mo file."""
    return ROOT / app / "locale" / language / "LC_MESSAGES"


def read_po(app: str, language: str) -> Catalog:
    """What the language's .po file says; its header is the translation of ""."""
    catalog: Catalog = {}
    for entry in (locale_of(app, language) / "django.po").read_text().split("\n\n"):
        assert not re.search(r"^(#, .*fuzzy|#~)", entry, re.MULTILINE), f"compilemessages leaves this out:\n{entry}"
        fields = {name: _unquoted(text) for name, text in FIELD.findall(entry)}
        assert "msgctxt" not in fields, entry
        message = tuple(fields[name] for name in ("msgid", "msgid_plural") if name in fields)
        assert message not in catalog, message
        catalog[message] = [text for name, text in fields.items() if name.startswith("msgstr")]
    return catalog


def messages_in_code(app: str) -> set[Message]:
    """Each text that the app's Python files and templates want translated."""
    found: set[Message] = set()
    for path in (ROOT / app).rglob("*.py"):
        found.update(_messages(ast.parse(path.read_text())))
    for path in (ROOT / app).rglob("*.html"):
        # What xgettext is given: Python's syntax for the tags, and X for all else.
        for call in re.findall(rf"\b(?:_|gettext|ngettext)\((?:[^()'\"]|'(?:[^'\\]|\\.)*'|{QUOTED})*\)", _python(path)):
            found.update(_messages(ast.parse(call)))
    return found


def _python(path: Path) -> str:
    return str(templatize(path.read_text(), origin=str(path)))


def _messages(tree: ast.AST) -> Iterator[Message]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
            yield tuple(ast.literal_eval(text) for text in node.args[: FUNCTIONS[node.func.id]])


def _unquoted(text: str) -> str:
    return "".join(ast.literal_eval(part) for part in re.findall(QUOTED, text))
