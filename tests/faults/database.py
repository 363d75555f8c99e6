"""
The database of a site under fault: questions from outside, and ten seconds in which nobody can use it.

Owns what "unreachable" means for each engine. SQLite has no server to go away: another process holds its write lock, so
that every transaction and every write fails. PostgreSQL ends all connections and takes no new ones.
"""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import psycopg

__all__ = ["Database", "PostgresDatabase", "SqliteDatabase"]


class Database(Protocol):
    """What the matrix needs of either."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a query finds."""

    def be_away(self, seconds: float) -> None:
        """Nobody can write to it for so long."""


class SqliteDatabase:
    """The file that the site makes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a query finds."""
        with contextlib.closing(sqlite3.connect(self._path, timeout=20)) as database:
            return database.execute(query).fetchall()

    def be_away(self, seconds: float) -> None:
        """An exclusive lock is held."""
        with contextlib.closing(sqlite3.connect(self._path, timeout=20, isolation_level=None)) as database:
            database.execute("BEGIN EXCLUSIVE")
            time.sleep(seconds)
            database.execute("ROLLBACK")


class PostgresDatabase:
    """A database of its own on the server at `url`."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name

    def __enter__(self) -> Self:
        self._execute(f'CREATE DATABASE "{self._name}"')
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._execute(f'DROP DATABASE IF EXISTS "{self._name}" WITH (FORCE)')

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a query finds."""
        with psycopg.connect(self._url, dbname=self._name, autocommit=True) as connection:
            return connection.execute(query).fetchall()  # type: ignore[call-overload]

    def be_away(self, seconds: float) -> None:
        """All connections are ended, and new ones refused."""
        with self._refusing():
            time.sleep(seconds)

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        self._execute(f'ALTER DATABASE "{self._name}" ALLOW_CONNECTIONS false')
        self._execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._name}'")  # noqa: S608
        try:
            yield
        finally:
            self._execute(f'ALTER DATABASE "{self._name}" ALLOW_CONNECTIONS true')

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]
