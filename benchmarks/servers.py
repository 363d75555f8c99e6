"""
The servers that are compared: how each is started, spoken to and published to.

Owns the list. Ours runs the real application, `project.asgi:application`, in production settings. The others check a
cookie in the cheapest way they have, and subscribe a socket to one topic only; each is set up as its
manual says is best.
"""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import machine
from benchmarks.processes import ROOT, Process
from benchmarks.stage import Stage

__all__ = ["PUSHING_SERVERS", "SERVERS", "TOPIC", "Server", "needs_node", "node", "uvicorn"]

# What everybody hears in the scenarios with one topic. A connection without it hears its user's own.
TOPIC = "news.benchmark"
PEERS = ROOT / "benchmarks" / "peers"
# Fetched by `make bench-peers`; else what the machine has.
_NGINX_ROOTS = (PEERS / "debian", Path("/"))
_UVICORN = (
    *(sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--loop", "uvloop"),
    *("--ws-per-message-deflate", "false", "--ws-max-size", "65536", "--no-access-log", "--log-level", "warning"),
    *("--timeout-graceful-shutdown", "1"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """
    One way to serve.

    Attributes:
        name: For --server, and in the results.
        title: For people.
        publisher: A kind of benchmarks.publishers.
        command: The words that start it, for a stage and a port.
        arguments: What the load client needs to be subscribed to a topic, or with None to the user's own.
        environment: Beside the stage's.
        missing: Why it cannot be run here; None if it can.
        is_ours: Has offsets, history, and notifications from end to end.
    """

    name: str
    title: str
    publisher: str
    command: Callable[[Stage, int], Sequence[str]]
    arguments: Callable[[str | None], Sequence[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    missing: Callable[[], str | None] = lambda: None
    is_ours: bool = False

    def start(self, stage: Stage, port: int) -> Process:
        """Start it on the server's core; it accepts connections when this returns."""
        log = stage.directory / f"{self.name}-{port}.log"
        process = Process(
            self.command(stage, port),
            core=machine.SERVER_CORE,
            log=log,
            environment={**stage.environment, **self.environment},
        )
        try:
            process.wait_for_port(port)
        except BaseException:
            process.__exit__(None, None, None)
            raise
        return process


def uvicorn(application: str) -> Callable[[Stage, int], Sequence[str]]:
    """The command of an application on uvicorn."""
    return lambda stage, port: [
        *(*_UVICORN, "--port", str(port), "--http", "httptools", "--ws", "websockets-sansio", application)
    ]


def realtime_web(application: str) -> Callable[[Stage, int], Sequence[str]]:
    """The command of an application on our own runner."""
    return lambda stage, port: [
        *(sys.executable, "-m", "realtime.web", "--port", str(port), "--drain-seconds", "1", application)
    ]


def _daphne(application: str) -> Callable[[Stage, int], Sequence[str]]:
    # Twisted's own backlog of 50 is nothing for a thousand clients at once.
    return lambda stage, port: [
        *(sys.executable, "-m", "daphne", "--verbosity", "0", "--no-server-name"),
        *("--endpoint", f"tcp:port={port}:interface=127.0.0.1:backlog=2048", application),
    ]


def node(script: str, *words: str) -> Callable[[Stage, int], Sequence[str]]:
    """The command of a peer on Node.js."""
    return lambda stage, port: ["node", str(PEERS / script), str(port), stage.redis_url, str(stage.cookies), *words]


def needs_node(package: str) -> Callable[[], str | None]:
    """Why a peer that needs this package cannot be run here."""

    def missing() -> str | None:
        if shutil.which("node") is None:
            return "needs Node.js"
        return None if (PEERS / "node_modules" / package).is_dir() else "run `make bench-peers` first"

    return missing


def _signalbox_arguments(topic: str | None) -> Sequence[str]:
    words = ["--path", "/ws/", "--subprotocol", "signalbox.v1"]
    if topic is None:
        return [*words, "--ready", '"type":"subscribed"']
    join = f'{{"type":"subscribe","topic":"{topic}"}}'
    return [*words, "--join", join, "--ready", f'"type":"subscribed","topic":"{topic}"']


def _query(topic: str | None) -> str:
    return "" if topic is None else f"?topic={topic}"


def _plain_arguments(path: str) -> Callable[[str | None], Sequence[str]]:
    return lambda topic: ["--path", path + _query(topic), "--ready", "ready"]


def _socketio_arguments(topic: str | None) -> Sequence[str]:
    path = "/socket.io/?EIO=4&transport=websocket" + _query(topic).replace("?", "&")
    return ["--path", path, "--engine-io", "--join", "40", "--ready", '42["ready"]']


def _nchan_arguments(topic: str | None) -> Sequence[str]:
    return ["--path", "/ws" + _query(topic)]


def _nginx_root() -> Path | None:
    """Where nginx and its module are."""
    parts = ("usr/sbin/nginx", "usr/lib/nginx/modules/ngx_nchan_module.so")
    return next((root for root in _NGINX_ROOTS if all((root / part).exists() for part in parts)), None)


def _nchan_missing() -> str | None:
    return (
        None if _nginx_root() else "run `make bench-peers` first; on other systems than Debian, install nginx with it"
    )


def _nchan_command(stage: Stage, port: int) -> Sequence[str]:
    root = _nginx_root()
    assert root is not None  # noqa: S101 - asked before
    directory = stage.directory / f"nchan-{port}"
    directory.mkdir(mode=0o755)
    # The worker runs as nobody in particular, and must reach its directory.
    stage.directory.chmod(0o755)
    lines = (line.split("\t") for line in stage.cookies.read_text().splitlines())
    (directory / "sessions.map").write_text("".join(f"{session} {user};\n" for user, session in lines))
    text = (PEERS / "nchan.conf").read_text()
    values = {
        "MODULE": root / "usr/lib/nginx/modules/ngx_nchan_module.so",
        "DIRECTORY": directory,
        "PORT": port,
        "FILES": 20_000,
    }
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    (directory / "nginx.conf").write_text(text)
    return [str(root / "usr/sbin/nginx"), "-p", str(directory), "-c", str(directory / "nginx.conf")]


def _signalbox(name: str, title: str, command: Callable[[Stage, int], Sequence[str]], **environment: str) -> Server:
    return Server(
        name=name,
        title=title,
        publisher="signalbox",
        command=command,
        arguments=_signalbox_arguments,
        environment=environment,
        is_ours=True,
    )


def _stock(layer: str, server: str, command: Callable[[Stage, int], Sequence[str]]) -> Server:
    return Server(
        name=f"channels-{layer}-{server}",
        title=f"Channels, channels_redis {layer}, {server}",
        publisher=f"stock-{layer}",
        command=command,
        arguments=_plain_arguments("/ws/"),
        environment={"DJANGO_SETTINGS_MODULE": "benchmarks.stock.settings", "BENCHMARK_LAYER": layer},
    )


def _peer(name: str, title: str, script: str, package: str) -> Server:
    return Server(
        name=name,
        title=title,
        publisher="plain",
        command=node(script),
        arguments=_plain_arguments("/ws"),
        missing=needs_node(package),
    )


_OURS, _STOCK = "project.asgi:application", "benchmarks.stock.asgi:application"
_ALL = (
    _signalbox(
        "signalbox",
        "Signalbox, realtime.web",
        realtime_web(_OURS),
    ),
    _signalbox("signalbox-asgi", "Signalbox, plain uvicorn", uvicorn(_OURS)),
    _signalbox("signalbox-daphne", "Signalbox, Daphne", _daphne(_OURS)),
    _peer("uwebsockets", "uWebSockets.js", "uws.js", "uwebsockets"),
    Server(
        name="nchan",
        title="Nchan (nginx), its own memory",
        publisher="nchan",
        command=_nchan_command,
        arguments=_nchan_arguments,
        missing=_nchan_missing,
    ),
    _peer("ws", "ws on Node", "ws.js", "ws"),
    Server(
        name="socketio",
        title="Socket.IO, Redis adapter",
        publisher="socketio",
        command=node("socketio.js"),
        arguments=_socketio_arguments,
        missing=needs_node("socket.io"),
    ),
    _stock("pubsub", "uvicorn", uvicorn(_STOCK)),
    _stock("pubsub", "daphne", _daphne(_STOCK)),
    _stock("core", "uvicorn", uvicorn(_STOCK)),
    _stock("core", "daphne", _daphne(_STOCK)),
)
# By name, in the order of the tables.
SERVERS: dict[str, Server] = {server.name: server for server in _ALL}
# The cost of pushing statistics: the same server with and without it.
PUSHING_SERVERS: dict[str, Server] = {
    server.name: server
    for server in (
        _signalbox("signalbox-pushing", "Signalbox, pushing its statistics", realtime_web(_OURS), STATISTICS="1"),
        _signalbox("signalbox-silent", "Signalbox, without statistics", realtime_web(_OURS), STATISTICS="0"),
    )
}
