"""
What the search of the documentation site finds directly: a Sphinx extension.

Owns the index entries: the name in the first cell of each row of a reference table leads to its row, so that a search
for `W004`, `4507` or `HISTORY_SECONDS` finds what explains it first. Sphinx alone ignores numbers, and ranks all pages
with a word alike. Does not own the text of the pages.
"""

import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

__all__ = ["names_of", "setup"]

# Pages with tables of names.
REFERENCE = "reference/"
_CLOSE_CODE = re.compile(r"4\d{3}")
# `realtime.E007`, `hub.failed_count`, `NOTIFICATIONS["BASE_URL"]`, `publish TOPIC JSON`
_LAST_PART = re.compile(r'(?:^|[."])(\w+)"?\]?$')


def names_of(cell: str) -> list[str]:
    """Under which names a row is found, by the text of its first cell."""
    first = _first_word(cell)
    last = _LAST_PART.search(first)
    found = [first, *([last[1]] if last else []), *([f"close code {first}"] if _CLOSE_CODE.fullmatch(cell) else [])]
    return list(dict.fromkeys(name for name in found if len(name) > 1))


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-read", _add_entries)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _add_entries(app: Sphinx, doctree: nodes.document) -> None:
    if not app.env.docname.startswith(REFERENCE):
        return
    for row, cell in _rows(doctree):
        names = names_of(cell.astext())
        target = nodes.make_id(f"row-{_first_word(cell.astext())}")
        # A name that stands in several tables of a page leads to the first of them.
        if names and target not in doctree.ids:
            row["ids"].append(target)
            doctree.ids[target] = row
            entries = [("single", name, target, "main", None) for name in names]
            cell.insert(0, addnodes.index(entries=entries))


def _first_word(cell: str) -> str:
    # A semicolon would divide an index entry.
    return (cell.replace(";", " ").split() or [""])[0]


def _rows(doctree: nodes.document) -> Iterator[tuple[nodes.row, nodes.entry]]:
    """Each row of a table, without heads, and its first cell."""
    for body in doctree.findall(nodes.tbody):
        for row in body.findall(nodes.row):
            first = next(iter(row.findall(nodes.entry)), None)
            if first is not None:
                yield row, first
