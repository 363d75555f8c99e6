"""Clients of Redis: what a new connection costs before anything is sent."""

import importlib.metadata
from collections.abc import Callable
from typing import Any

import pytest
import redis

from realtime.redis import clients


@pytest.mark.parametrize("make", [clients.publisher, clients.async_publisher, clients.async_reader])
def test_a_new_connection_reads_nothing_from_disk(make: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sync code that sends to a group opens one for each call; redis-py would read its version from its metadata."""
    pool = make("redis://localhost").connection_pool

    def refuse(name: str) -> str:
        raise AssertionError(f"the metadata of {name} is read")

    monkeypatch.setattr(importlib.metadata, "version", refuse)
    connection = pool.make_connection()
    info = getattr(connection, "driver_info", None)
    assert (info.lib_version if info else connection.lib_version) == redis.__version__
