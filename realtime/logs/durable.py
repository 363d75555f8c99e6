"""Directories whose entries survive a crash of the machine: POSIX needs an fsync of the directory, too."""

import os
from pathlib import Path

__all__ = ["make_directory", "sync_directory"]


def make_directory(directory: Path) -> None:
    """Create a directory and its missing parents, and make all of them durable."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    sync_directory(directory.parent)


def sync_directory(directory: Path) -> None:
    """Make the names of the files in a directory durable. Raises OSError."""
    number = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
