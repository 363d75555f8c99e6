"""
Which versions are supported, and which of them are run together.

Owns the supported versions of the four parts and the plan of cells. Does not own where a version comes from (programs).
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["DATABASES", "DJANGOS", "LOWEST", "PYTHONS", "SERVERS", "Cell", "plan"]

# The first installs exactly the lower bounds of pyproject.toml, the others the newest of everything with this Django.
LOWEST = "5.2, lower bounds"
DJANGOS = (LOWEST, "5.2", "6.0", "6.1")
PYTHONS = ("3.12", "3.13", "3.14")
# From old to new, Valkey after the Redis that it continues.
SERVERS = (
    *("Redis 6.2", "Redis 7.0", "Redis 7.2", "Valkey 7.2", "Redis 7.4", "Valkey 8.0", "Redis 8.0", "Valkey 8.1"),
    *("Redis 8.2", "Valkey 9.0", "Valkey 9.1"),
)
# SQLite comes with Python, so it has no place among old and new.
DATABASES = ("PostgreSQL 14", "PostgreSQL 15", "SQLite", "PostgreSQL 16", "PostgreSQL 17", "PostgreSQL 18")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Versions that are run together; each is one of the names above."""

    python: str
    django: str
    server: str
    database: str

    def __str__(self) -> str:
        return f"Python {self.python}, Django {self.django}, {self.server}, {self.database}"


def plan(
    *, pythons: Sequence[str], djangos: Sequence[str], servers: Sequence[str], databases: Sequence[str]
) -> list[Cell]:
    """
    As few cells as run each version at least once.

    Args:
        pythons, djangos, servers, databases: What there is of each part, from old to new.

    Returns:
        The cells from old to new: the oldest of all parts together first, the newest of all together last.
    """
    parts = (pythons, djangos, servers, databases)
    last = max(map(len, parts)) - 1
    # Spread evenly: from one cell to the next, a part stays or goes one version on.
    rows = [
        [part[(2 * index * (len(part) - 1) + last) // (2 * last or 1)] for part in parts] for index in range(last + 1)
    ]
    return [
        Cell(python=python, django=django, server=server, database=database)
        for python, django, server, database in rows
    ]
