"""Filtered subscriptions on real web servers: a client that pauses gets what is there in the end, and nothing else."""

import asyncio
import json
import socket
from collections.abc import Sequence

import pytest
from websockets.asyncio.client import ClientConnection

from project.demo.topics import Vehicles
from realtime.broker.history import HistoryPolicy
from realtime.broker.publish import Keyed, PublishRequest
from realtime.broker.relevance import Relevance
from realtime.layer import RedisChannelLayer
from realtime.live.places import point
from tests.acceptance.deployed_site import DeployedSite
from tests.acceptance.listeners import opening
from tests.support.view_clients import Viewer

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent]

TOPIC = "vehicles.transport"
BERN = [7.3, 46.8, 7.6, 47.1]
# About two megabytes: more than the server may have unsent, so that the snapshot is written in parts.
VEHICLE_COUNT = 1_500
DATA = json.dumps("x" * 1_400).encode()


class Fleet:
    """The vehicles, as published; `offsets` is what a client of all of them has."""

    def __init__(self, site: DeployedSite) -> None:
        self._layer = RedisChannelLayer(hosts=[site.redis_url])
        self.offsets: dict[tuple[str, str], int] = {}

    def publish(self, numbers: Sequence[int], longitude: float, *, is_removed: bool = False) -> None:
        requests = []
        for number in numbers:
            place = None if is_removed else point(longitude, 46.95)
            relevance = Relevance(str(number), place, is_removed=is_removed)
            assert Vehicles.snapshot is not None
            keyed = Keyed(relevance, Vehicles.snapshot, Vehicles.family_name)
            requests.append(PublishRequest(TOPIC, b"null" if is_removed else DATA, HistoryPolicy(size=0), keyed=keyed))
        for number, published in zip(numbers, self._layer.publish_many_now(requests), strict=True):
            self.offsets.pop((TOPIC, str(number)), None)
            if not is_removed:
                self.offsets[TOPIC, str(number)] = published.position.offset


async def _read(connection: ClientConnection, viewer: Viewer) -> None:
    lines = [json.loads(line) for line in str(await connection.recv()).split("\n")]
    assert lines[0]["type"] != "error", lines
    if lines[0].get("view"):
        viewer.take(lines)


async def test_a_view_of_a_client_that_pauses(site: DeployedSite, sessions: dict[int, str]) -> None:
    """What changes meanwhile is sent once, in its newest state; then the view can be panned away and back."""
    fleet = Fleet(site)
    fleet.publish(range(VEHICLE_COUNT), 7.4)
    viewer = Viewer()
    host, port = site.address.split(":")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    session = next(iter(sessions.values()))
    async with asyncio.timeout(60), opening(site, session, sock=sock) as connection:
        subscribe = {"type": "subscribe", "topic": "vehicles.*", "view": "v1", "number": 1, "filter": {"bbox": BERN}}
        await connection.send(json.dumps(subscribe))
        while not viewer.items:
            await _read(connection, viewer)
        connection.transport.pause_reading()
        for turn in range(3):
            fleet.publish(range(turn * 100, 600), 7.5)
        fleet.publish(range(500, 700), 0, is_removed=True)
        connection.transport.resume_reading()
        while viewer.items != fleet.offsets or not viewer.is_complete:
            await _read(connection, viewer)
        for number, bbox in ((2, [139.0, 35.0, 140.0, 36.0]), (3, BERN)):
            await connection.send(
                json.dumps({"type": "filter", "view": "v1", "number": number, "filter": {"bbox": bbox}})
            )
            while viewer.numbers[-1] != number or not viewer.is_complete:
                await _read(connection, viewer)
            assert viewer.items == (fleet.offsets if bbox == BERN else {})
