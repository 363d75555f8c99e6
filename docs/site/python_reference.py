"""
docs/reference/python.md: the public names of both apps, taken from the source.

`python -m docs.site.python_reference` writes the page. It reads the source without importing it, so the page does not
depend on the versions of Python and Django.

Owns which modules are public and how their names are shown. Does not own the text: that is the first paragraph of each
docstring.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PAGE", "PUBLIC", "render"]

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "reference" / "python.md"
# The public modules in the order of the page. None: everything in `__all__`; otherwise these names of it.
PUBLIC: dict[str, tuple[str, ...] | None] = {
    "notifications.services": None,
    "notifications.kinds": None,
    "notifications.preferences": None,
    "notifications.transports": None,
    "notifications.signals": None,
    "notifications.exceptions": None,
    "notifications.conf": None,
    "notifications.admin": ("CountedDeletion",),
    "notifications.apps": ("NotificationsConfig", "SignalboxConfig"),
    "realtime.setup": None,
    "realtime.publisher": None,
    "realtime.topics": None,
    "realtime.access": None,
    "realtime.streams": None,
    "realtime.streams.append": ("append_entries", "aappend_entries"),
    "realtime.logs": None,
    "realtime.sinks": None,
    "realtime.tasks": None,
    "realtime.tasks.conformance.suite": None,
    "realtime.layer": None,
    "realtime.statistics": ("collect", "register", "unregister", "ProcessStatistics", "Source"),
    "realtime.routing": None,
    "realtime.consumers": None,
    "realtime.server": None,
    "realtime.admin": ("disconnect_users",),
    "realtime.exceptions": None,
    "realtime.conf": None,
    "realtime.redis.clients": ("async_publisher", "async_reader", "close"),
}
HEAD = """\
# Python

The public names of both apps: what a project may import. Each module lists them in its `__all__`; every other name may
change without notice. Arguments after `*` are passed by keyword. The docstring of each name says more: `help(notify)`.

This page is made from the source by `python -m docs.site.python_reference`.
"""
# A class with more fields than this has a page of its own (settings).
MOST_FIELDS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """Where a public name is defined."""

    module: str
    node: ast.stmt
    # The comment above an assignment.
    comment: str


def render() -> str:
    """The text of the page."""
    parts, places = [HEAD], {}
    for module, chosen in PUBLIC.items():
        tree = _parse(module)
        parts.append(f"\n## {module}\n\n{_summary(ast.get_docstring(tree))}\n\n")
        for name in chosen or _public_names(tree):
            definition = _find(module, name)
            place = (definition.module, name)
            if place in places:
                parts.append(f"- `{name}`: see `{places[place]}`.\n")
                continue
            places[place] = f"{module}.{name}"
            parts += (f"{line}\n" for line in _lines(name, definition))
    return "".join(parts)


def _path(module: str) -> Path:
    path = ROOT / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _parse(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text())


def _public_names(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    raise LookupError("a public module has no __all__")


def _find(module: str, name: str) -> Definition:
    """Follow imports to the module of ours that defines `name`."""
    lines = _path(module).read_text().splitlines()
    for node in _statements(_parse(module).body):
        if isinstance(node, ast.ImportFrom) and any((each.asname or each.name) == name for each in node.names):
            return _find(node.module or "", name)
        if name in _defined(node):
            return Definition(module=module, node=node, comment=_comment(lines, node.lineno - 1))
    raise LookupError(f"{module}.{name} is public and nowhere defined")


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Those of a module, also inside `if`, `try` and `with`."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            yield from _statements([*node.body, *getattr(node, "orelse", [])])


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [ast.unparse(target) for target in node.targets]
    if isinstance(node, ast.AnnAssign):
        return [ast.unparse(node.target)]
    return [ast.unparse(node.name)] if isinstance(node, ast.TypeAlias) else []


def _comment(lines: list[str], index: int) -> str:
    """The first paragraph of the comment directly above a line, on one line."""
    found: list[str] = []
    while index and lines[index - 1].startswith("#"):
        index -= 1
        found.insert(0, lines[index].removeprefix("#").strip())
    return _summary("\n".join(found))


def _lines(name: str, definition: Definition) -> Iterator[str]:
    node = definition.node
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield _item(_signature(node), node)
    elif isinstance(node, ast.ClassDef):
        yield _item(f"{name}{_arguments_of_class(node)}", node)
        for each in node.body:
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and _is_shown(each):
                yield f"    {_item(_signature(each, of_class=True), each)}"
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        value = ast.unparse(node.value) if node.value and isinstance(node.value, ast.Constant) else ""
        yield f"- `{name} = {value}`: {definition.comment}" if value else f"- `{name}`: {definition.comment}"
    else:
        yield f"- `{name}`: {definition.comment}"


def _item(code: str, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    return f"- `{code}`: {_summary(ast.get_docstring(node))}"


def _summary(docstring: str | None) -> str:
    """The first paragraph on one line, without what it owns and without the mark of an example that follows."""
    text = " ".join((docstring or "").split("\n\n")[0].split())
    text = text.partition(" Owns ")[0]
    return f"{text.removesuffix('::')}." if text.endswith("::") else text


def _is_shown(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A public method or property that says what it does; "…" continues the docstring of the base class."""
    text = ast.get_docstring(node) or "…"
    return not node.name.startswith("_") and not text.startswith("…")


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, *, of_class: bool = False) -> str:
    decorators = {ast.unparse(each) for each in node.decorator_list}
    if decorators & {"property", "functools.cached_property", "cached_property"}:
        return node.name
    prefix = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    arguments = _arguments(node.args, without_first=of_class and "staticmethod" not in decorators)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and ast.unparse(node.returns) != "None" else ""
    return f"{prefix}{node.name}({arguments}){returns}"


def _arguments(arguments: ast.arguments, *, without_first: bool) -> str:
    """As in the source, without annotations; what is private is left out."""
    plain = [each.arg for each in (*arguments.posonlyargs, *arguments.args)]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    shown = [_argument(name, default) for name, default in zip(plain, defaults, strict=True)]
    if arguments.posonlyargs:
        shown.insert(len(arguments.posonlyargs), "/")
    shown = shown[1:] if without_first else shown
    if arguments.vararg:
        shown.append(f"*{arguments.vararg.arg}")
    elif arguments.kwonlyargs:
        shown.append("*")
    shown += map(_argument, (each.arg for each in arguments.kwonlyargs), arguments.kw_defaults)
    if arguments.kwarg:
        shown.append(f"**{arguments.kwarg.arg}")
    return ", ".join(shown)


def _argument(name: str, default: ast.expr | None) -> str:
    return name if default is None else f"{name}={ast.unparse(default)}"


def _arguments_of_class(node: ast.ClassDef) -> str:
    """Those of `__init__`, or the fields of a dataclass or a struct; nothing for others."""
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            return f"({_arguments(each.args, without_first=True)})"
    is_value = any("dataclass" in ast.unparse(each) for each in node.decorator_list)
    if not is_value and not any(ast.unparse(base) == "msgspec.Struct" for base in node.bases):
        return ""
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign) and not _is_class_variable(each)]
    if len(fields) > MOST_FIELDS:
        return ""
    return f"(*, {', '.join(map(_field, fields))})"


def _is_class_variable(node: ast.AnnAssign) -> bool:
    return "ClassVar" in ast.unparse(node.annotation)


def _field(node: ast.AnnAssign) -> str:
    name = ast.unparse(node.target)
    if node.value is None:
        return name
    if isinstance(node.value, ast.Call):
        # field(default_factory=…)
        return f"{name}=…"
    return f"{name}={ast.unparse(node.value)}"


if __name__ == "__main__":
    PAGE.write_text(render())
    sys.stdout.write(f"{PAGE.relative_to(ROOT)} written\n")
