"""`make run` with DATABASE_URL uses that PostgreSQL, and no SQLite."""

import os
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from tests.acceptance.site import Site

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(
        "DATABASE_URL" not in os.environ, reason="there is no PostgreSQL: try .ci/with-postgres make test"
    ),
]


def test_given_database_is_used_and_no_file_is_made(tmp_path: Path) -> None:
    """With DATABASE_URL set there is no SQLite file; the tables and the demo users are in PostgreSQL."""
    url = os.environ["DATABASE_URL"]
    name = f"run_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            own = urlsplit(url)._replace(path=f"/{name}").geturl()
            with Site(tmp_path / "var", environment={"DATABASE_URL": own}).wait_until_ready():
                assert not list((tmp_path / "var").glob("*.sqlite3*"))
            with psycopg.connect(own) as connection:
                users = connection.execute("SELECT username FROM auth_user ORDER BY username").fetchall()
                assert users == [("admin",), ("alice",), ("bob",)]
        finally:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
