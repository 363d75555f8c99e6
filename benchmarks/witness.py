"""
`python -m benchmarks.witness`: what others feel of an attack, on each server.

A witness, signed in, asks for a pong sixteen times a second: first alone, then beside each attack. Attackers run in
processes of their own, send at a rate and come back at once when they are cut. The figure is how long the witness
waits.
"""

import argparse
import asyncio
import multiprocessing
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from websockets.frames import Frame, Opcode

from realtime.protocol.messages import SUBPROTOCOL
from tests.acceptance.deployed_site import SERVERS, DeployedSite
from tests.acceptance.listeners import Listener

__all__ = ["main"]

ASK_SECONDS = 0.06
CHUNK = Frame(Opcode.TEXT, b"").serialize(mask=True) * 5_000
GARBAGE = Frame(Opcode.TEXT, b"garbage\n" * 20).serialize(mask=True)


def main() -> int:
    """Measure, and print a line for each server and attack."""
    parser = argparse.ArgumentParser(description="Measure what others feel of an attack.")
    parser.add_argument("--server", choices=list(SERVERS), action="append", help="default: all")
    parser.add_argument("--seconds", type=float, default=15.0, help="for each line (default: %(default)s)")
    parser.add_argument("--attackers", type=int, default=1, help="at the same time (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=3.0, help="MB/s of each attacker (default: %(default)s)")
    options = parser.parse_args()
    sys.stdout.write("server     attack         p50 ms   p95 ms   max ms   came back\n")
    for server in options.server or list(SERVERS):
        with DeployedSite(server) as site:
            sessions = list(site.sessions(2).values())
            handshake = _handshake(site)
            attacks = {
                "nobody": None,
                "a stranger": (handshake, b""),
                "a talker": (
                    handshake.replace(b"\r\n\r\n", f"\r\nCookie: sessionid={sessions[0]}\r\n\r\n".encode()),
                    GARBAGE,
                ),
            }
            for name, steps in attacks.items():
                waits, count = _measure(site, sessions[1], steps, options)
                p95 = statistics.quantiles(waits, n=20)[-1]
                figures = [1000 * each for each in (statistics.median(waits), p95, max(waits))]
                sys.stdout.write(f"{server:<11}{name:<13}" + "".join(f"{each:9.1f}" for each in figures))
                sys.stdout.write(f"{count:12}\n")
                sys.stdout.flush()
    return 0


def _measure(
    site: DeployedSite, session: str, steps: tuple[bytes, bytes] | None, options: argparse.Namespace
) -> tuple[Sequence[float], int]:
    count = multiprocessing.Value("i", 0)
    attackers = [
        multiprocessing.Process(target=_attack, args=(site.port, *steps, options.rate * 1e6, count), daemon=True)
        for _ in range(options.attackers if steps else 0)
    ]
    for attacker in attackers:
        attacker.start()
    try:
        return asyncio.run(_witness(site, session, options.seconds)), count.value
    finally:
        for attacker in attackers:
            attacker.kill()
            attacker.join()


async def _witness(site: DeployedSite, session: str, seconds: float) -> list[float]:
    waits: list[float] = []
    async with Listener(site, session) as listener:
        ends_at = time.monotonic() + seconds
        while (asked_at := time.monotonic()) < ends_at:
            await listener.answer(type="ping")
            waits.append(time.monotonic() - asked_at)
            await asyncio.sleep(ASK_SECONDS)
    return waits


def _attack(
    port: int,
    handshake: bytes,
    said: bytes,
    bytes_per_second: float,
    count: "multiprocessing.sharedctypes.Synchronized[int]",
) -> None:
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(handshake)
            client.recv(65_536)
            client.sendall(said)
            while True:
                sent_bytes = client.send(CHUNK)
                time.sleep(sent_bytes / bytes_per_second)
        with count.get_lock():
            count.value += 1


def _handshake(site: DeployedSite) -> bytes:
    return (
        f"GET /ws/ HTTP/1.1\r\nHost: {site.address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    ).encode()


if __name__ == "__main__":
    sys.exit(main())
