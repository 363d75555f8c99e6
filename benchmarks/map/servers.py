"""
The map servers that are compared, each with the dialect of its viewers.

Owns the list. Does not own how a server is started (benchmarks.servers) nor what is published to it (publishers).
"""

from dataclasses import dataclass

from benchmarks.map.dialects import DIALECTS, TILE_LEVELS, Dialect
from benchmarks.servers import Server, needs_node, node, realtime_web

__all__ = ["FEEDS_LIMIT", "MAP_SERVERS", "MapServer"]

# The Node server subscribes to the channels of this many feeds; those that do not exist cost nothing.
FEEDS_LIMIT = 500
_LEVELS = ",".join(map(str, TILE_LEVELS))


@dataclass(frozen=True, slots=True, kw_only=True)
class MapServer:
    """
    One server of a map.

    Attributes:
        server: How to start it and publish to it.
        dialect: What its viewers say, and what they may be sent.
        viewers_limit: The most viewers that it can serve in time; None if it can serve all.
    """

    server: Server
    dialect: Dialect
    viewers_limit: int | None = None

    @property
    def name(self) -> str:
        """For --server, and in the results."""
        return self.server.name

    @property
    def title(self) -> str:
        """For people."""
        return self.server.title

    @property
    def is_ours(self) -> bool:
        """Whether it is the project's own."""
        return self.server.is_ours

    def missing(self) -> str | None:
        """Why it cannot be run here; None if it can."""
        return self.server.missing()


def _ours(name: str, title: str, *, gather_seconds: float) -> MapServer:
    return MapServer(
        server=Server(
            name=name,
            title=title,
            publisher="map-signalbox",
            command=realtime_web("project.asgi:application"),
            arguments=lambda topic: [
                *("--path", "/ws/", "--subprotocol", "signalbox.v1", "--ready", '"type":"subscribed"')
            ],
            environment={
                "DJANGO_SETTINGS_MODULE": "benchmarks.map.settings",
                "MAP_GATHER_SECONDS": str(gather_seconds),
            },
            is_ours=True,
        ),
        dialect=DIALECTS["signalbox"],
    )


_ALL = (
    # A vehicle is published once a second: whether it moves half a second later makes no difference to its viewers.
    _ours("signalbox-map", "Signalbox, changes gathered for 0.5 s", gather_seconds=0.5),
    _ours("signalbox-map-quick", "Signalbox, changes gathered for 0.1 s", gather_seconds=0.1),
    MapServer(
        server=Server(
            name="uwebsockets-map",
            title="uWebSockets.js, a topic a tile",
            publisher="map-tiles",
            command=node("map_uws.js", _LEVELS, str(FEEDS_LIMIT)),
            arguments=lambda topic: ["--path", "/ws", "--ready", "ready"],
            missing=needs_node("uwebsockets"),
        ),
        dialect=DIALECTS["tiles"],
    ),
    MapServer(
        server=Server(
            name="socketio-map",
            title="Socket.IO, a room a tile, Redis adapter",
            publisher="map-socketio",
            command=node("map_socketio.js", _LEVELS),
            arguments=lambda topic: [
                *("--path", "/socket.io/?EIO=4&transport=websocket", "--engine-io"),
                *("--join", "40", "--ready", '42["ready"]'),
            ],
            missing=needs_node("socket.io"),
        ),
        dialect=DIALECTS["socketio"],
        viewers_limit=100,
    ),
    MapServer(
        server=Server(
            name="futures-map",
            title="a future a pattern, filters in Python",
            publisher="map-keys",
            command=realtime_web("benchmarks.map.futures:application"),
            arguments=lambda topic: ["--path", "/ws/", "--ready", "ready"],
        ),
        dialect=DIALECTS["exact"],
        viewers_limit=40,
    ),
)
# By name, in the order of the tables.
MAP_SERVERS: dict[str, MapServer] = {each.name: each for each in _ALL}
