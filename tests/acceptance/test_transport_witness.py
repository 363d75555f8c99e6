"""An attack does not affect other clients: during each attack, a witness sends pings and gets its pongs in time."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from websockets.frames import Frame, Opcode

from realtime.protocol.close_codes import CloseCode
from realtime.protocol.messages import SUBPROTOCOL
from tests.acceptance.deployed_site import DeployedSite
from tests.acceptance.listeners import Listener

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent]

# Generous, because this machine may be busy. `python -m benchmarks.witness` measures the real delay.
WAIT_LIMIT_SECONDS = 3.0
CUT_LIMIT_SECONDS = 60.0
# More than the buffers of both ends hold, and much less than a client that reads could receive.
UNREAD_LIMIT_BYTES = 32_000_000
EMPTY_FRAMES = Frame(Opcode.TEXT, b"").serialize(mask=True) * 10_000


@asynccontextmanager
async def witness(site: DeployedSite, session: str) -> AsyncIterator[list[float]]:
    """How long another client waits for each pong meanwhile, in seconds."""
    waits: list[float] = []
    async with Listener(site, session) as listener:

        async def ask() -> None:
            while True:
                asked_at = time.monotonic()
                assert await listener.answer(type="ping") == {"type": "pong"}
                waits.append(time.monotonic() - asked_at)
                # A client may send twenty messages a second.
                await asyncio.sleep(0.06)

        asking = asyncio.create_task(ask())
        try:
            yield waits
        finally:
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking


def request(site: DeployedSite, *headers: str, path: str = "/ws/") -> bytes:
    """The handshake of a client that knows the protocol."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {site.address}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def flood(site: DeployedSite, *steps: tuple[bytes, bytes]) -> tuple[int, float]:
    """
    Send each text and wait for its answer, step by step; then send until the connection is cut.

    Returns:
        How many bytes went out after the answer, and for how many seconds.
    """
    host, port = site.address.split(":")
    sent_bytes = 0
    with socket.create_connection((host, int(port)), timeout=CUT_LIMIT_SECONDS) as client:
        for said, expected in steps:
            client.sendall(said)
            answer = b""
            while expected not in answer:
                part = client.recv(65_536)
                assert part, f"closed after {answer!r}"
                answer += part
        started_at = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() - started_at < CUT_LIMIT_SECONDS:
                # Not sendall: what a full buffer does not take is not counted.
                sent_bytes += client.send(EMPTY_FRAMES)
    return sent_bytes, time.monotonic() - started_at


@pytest.mark.parametrize("who", ["a stranger", "a user who talked garbage"])
async def test_who_was_closed_and_goes_on_sending_is_felt_by_nobody(
    site: DeployedSite, sessions: dict[int, str], who: str
) -> None:
    """A client that ignores its close and keeps sending: nothing of that is read, and the connection is aborted."""
    session, other = list(sessions.values())[:2]
    steps = [(request(site), CloseCode.UNAUTHORISED.to_bytes(2))]
    if who != "a stranger":
        garbage = Frame(Opcode.TEXT, b"garbage\n" * 20).serialize(mask=True)
        steps = [
            (request(site, f"Cookie: sessionid={session}"), b'"subscribed"'),
            (garbage, CloseCode.PROTOCOL_ERROR.to_bytes(2)),
        ]
    async with witness(site, other) as waits:
        for _ in range(4):
            sent_bytes, seconds = await asyncio.to_thread(flood, site, *steps)
            assert sent_bytes < UNREAD_LIMIT_BYTES
            assert seconds < CUT_LIMIT_SECONDS
    # One may be late because the machine stood still; an attack that is felt makes one late in each of its four turns.
    assert sum(wait > WAIT_LIMIT_SECONDS for wait in waits) <= 1, sorted(waits)[-4:]
