"""
The code blocks of a page of the documentation, for tests that do what it says.

Owns how they are marked: each has in its first line, as a comment, the file that it belongs into and how
(`# mysite/urls.py: at the end`), or for commands what they do (`# once`).
"""

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Block", "blocks_of", "commands_of"]

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
MARK = re.compile(r"(?:#|//|<!--) (?P<path>[\w/.-]+\.(?:py|html|js)): (?P<how>.+?)(?: -->)?\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block that belongs into a file, its comment included."""

    path: str
    # "the whole file", "at the end", …, as the page has it.
    how: str
    text: str

    def put_into(self, project: Path) -> None:
        """Do what it says."""
        path = project / self.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.how.startswith("at the end"):
            with path.open("a") as file:
                file.write(f"\n{self.text}")
        else:
            assert self.how.startswith("the whole file"), self.how
            path.write_text(self.text)


def blocks_of(page: str) -> list[Block]:
    """Those of docs/`page` that belong into a file, in their order."""
    found = [(MARK.match(text), text) for text in _fenced(page, "python|html|js")]
    return [Block(path=mark["path"], how=mark["how"], text=text) for mark, text in found if mark]


def commands_of(page: str) -> dict[str, list[str]]:
    """The command lines of docs/`page`, in their order, by the comments above them."""
    found: dict[str, list[str]] = {}
    for text in _fenced(page, "sh"):
        comment, *lines = text.splitlines()
        found.setdefault(comment.removeprefix("# "), []).extend(lines)
    return found


def _fenced(page: str, languages: str) -> list[str]:
    text = (DOCS / page).read_text()
    return [text for _, text in re.findall(rf"^```({languages})\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]
