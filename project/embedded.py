"""The embedded Redis-compatible server."""

from pathlib import Path


def url_for(directory: Path) -> str:
    return f"unix://{directory}/valkey.sock"
