"""The sync client of Redis that a process has for short commands."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from realtime import conf

pytestmark = [pytest.mark.usefixtures("signalbox"), pytest.mark.database_independent]


def test_threads_that_ask_at_the_same_time_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """If one got another client, its pipeline would fail when that client is dropped and closed."""
    conf.sync_redis().close()
    conf._sync_clients.clear()
    all_are_here = threading.Barrier(4)
    monkeypatch.setattr(conf, "join_embedded_server", lambda: all_are_here.wait(10))
    with ThreadPoolExecutor(4) as threads:
        found = [future.result() for future in [threads.submit(conf.sync_redis) for _ in range(4)]]
    assert all(client is found[0] for client in found)
    assert found[0].ping()


def test_after_a_change_of_the_setting_there_is_another(signalbox: object) -> None:
    """The old one may still be in use."""
    before = conf.sync_redis()
    signalbox.REALTIME = {**signalbox.REALTIME, "KEY_PREFIX": "other:"}  # type: ignore[attr-defined]
    assert conf.sync_redis() is not before
    before.close()
