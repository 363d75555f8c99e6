"""
The documentation site: `make docs` builds it in var/docs/; `make check` does too.

Owns what must hold: every warning is an error (a link or heading that does not exist, a page that is in no list), and
no page makes a browser fetch from another host. Does not own the text, nor the configuration of Sphinx (conf.py).
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["foreign_requests", "main"]

ROOT = Path(__file__).resolve().parent.parent.parent
OUTPUT = ROOT / "var" / "docs"
# What a browser fetches by itself: scripts, images, style sheets, fonts. A link that a reader clicks is not among them.
FETCHED = re.compile(
    r"""(?:\ssrc=|<link\b[^>]*\shref=|url\(|@import\s)\s*["']?((?:https?:)?//[^"'\s)>]+)""", flags=re.IGNORECASE
)


def main(words: Sequence[str] | None = None) -> int:
    """Build the site and check it; 0, or 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m docs.site.build", description="Builds the documentation site.")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the directory of the site; default: %(default)s")
    output: Path = parser.parse_args(words).output
    # All pages each time: of those that it does not write again, Sphinx forgets the index entries of the search.
    build = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "--nitpicky"]
    build += ["--fresh-env", "--write-all"]
    places = [f"--conf-dir={ROOT / 'docs/site'}", f"--doctree-dir={output}/.doctrees", str(ROOT / "docs"), str(output)]
    if subprocess.run([*build, *places], check=False).returncode:  # noqa: S603 - our own program
        return 1
    if found := foreign_requests(output):
        sys.stderr.write("".join(f"{path}: fetches {url}\n" for path, url in found))
        return 1
    sys.stdout.write(f"the site is in {output}/: open {output / 'index.html'}\n")
    return 0


def foreign_requests(site: Path) -> list[tuple[Path, str]]:
    """Each address on another host that a page or style sheet fetches, and where it stands."""
    pages = [path for path in sorted(site.rglob("*")) if path.suffix in (".html", ".css")]
    return [(path, url) for path in pages for url in FETCHED.findall(path.read_text())]


if __name__ == "__main__":
    sys.exit(main())
