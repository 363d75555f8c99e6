"""A client that reads nothing, on real web servers: it delays no other client, and resumes without loss."""

import asyncio
import json
import socket
import time

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from realtime.protocol.close_codes import CloseCode
from realtime.websocket.connection import ABORT_AFTER_SECONDS
from tests.acceptance.deployed_site import WEB, DeployedSite
from tests.acceptance.listeners import Follower, opening
from tests.support.waiting import Standstill

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent]

TOPIC = "news.heavy"
# All of it fits into the history. It is more than the kernel's buffer (4 MiB at most) and the unsent data (2 MiB on
# Daphne) hold together.
PUBLICATIONS = 99
PUBLICATION_BYTES = 65_000
BATCH = 11
# For seven hundred kilobytes without a delay, on two cores that are busy with other work too. Clients that waited for
# the slow one would wait until it is cut, after five seconds.
IN_TIME_SECONDS = 4.0


async def _connect_without_reading(site: DeployedSite, session: str) -> ClientConnection:
    """A subscribed connection. Later messages stay in the kernel's small buffer until they are read."""
    host, port = site.address.split(":")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    connection = await opening(site, session, sock=sock, max_queue=None, close_timeout=0.1)
    await connection.send(json.dumps({"type": "subscribe", "topic": TOPIC}))
    while f'"{TOPIC}"' not in str(await connection.recv()):
        pass
    connection.transport.pause_reading()
    return connection


async def test_a_client_that_reads_nothing_is_closed_and_the_others_are_served_in_time(
    site: DeployedSite, sessions: dict[int, str]
) -> None:
    """
    When it reads at last, it is closed with 4000. It has then missed nothing: the history continues where its messages
    end. The memory that the process holds for it meanwhile is bounded.
    """
    slow_session, fast_session = list(sessions.values())[:2]
    start = site.publish(TOPIC, b'"start"')
    slow = await _connect_without_reading(site, slow_session)
    started, delays = time.monotonic(), list[float]()
    async with Follower(site, fast_session, TOPIC) as fast, Standstill() as stood:
        for first in range(0, PUBLICATIONS, BATCH):
            texts = [json.dumps([number, "x" * PUBLICATION_BYTES]).encode() for number in range(first, first + BATCH)]
            sent_at = time.monotonic()
            last = site.publish(TOPIC, *texts)
            await fast.until(lambda position=last: fast.position == (position.offset, position.epoch))
            delays.append(time.monotonic() - sent_at)
        assert max(delays) - stood.seconds < IN_TIME_SECONDS
        assert fast.connection_count == 1
        assert [each[0] for each in fast.data] == list(range(PUBLICATIONS))
    # Now it reads.
    slow.transport.resume_reading()
    got: list[int] = []
    with pytest.raises(ConnectionClosed) as closed:
        async with asyncio.timeout(60):
            while True:
                got += [json.loads(line)["offset"] for line in str(await slow.recv()).split("\n")]
    if closed.value.rcvd is None:
        # The connection is cut, because its close frame was not read in time; on Daphne, Autobahn does that.
        assert site.server == "daphne" or time.monotonic() - started > ABORT_AFTER_SECONDS
    else:
        assert closed.value.rcvd.code == CloseCode.SLOW
    assert got == list(range(start.offset + 1, start.offset + 1 + len(got)))
    assert len(got) < PUBLICATIONS
    async with Follower(site, slow_session, TOPIC, since=(got[-1], start.epoch)) as returned:
        await returned.until(lambda: returned.position == (last.offset, last.epoch))
        assert returned.told_count == 0
        assert len(got) + len(returned.heard) == PUBLICATIONS
    assert site.pid(WEB)
