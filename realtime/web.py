"""
`python -m realtime.web mysite.asgi:application`: an ASGI application on uvicorn, with our limits.

Owns the options of the web server, for development and production. Does not own the application: any other ASGI server
takes it too, without the fast way to the sockets (server).
"""

import argparse
import contextlib
import gc
import sys

from realtime.extras import ExtraMissing, extra
from realtime.protocol.messages import FRAME_LIMIT_BYTES, PING_SECONDS

__all__ = ["DRAIN_SECONDS", "PONG_TIMEOUT_SECONDS", "main"]

PONG_TIMEOUT_SECONDS = 10.0
# Without a limit a restart waits for ever on open WebSockets (uvicorn#1344).
DRAIN_SECONDS = 25
# As `python -m uvicorn` ends.
_STARTUP_FAILED = 3


def main() -> None:
    """
    Serve until SIGTERM or Ctrl-C; then accept nobody, close WebSockets one after the other and let open requests
    finish, for at most the drain time.
    """
    parser = argparse.ArgumentParser(
        prog="python -m realtime.web",
        description="Serves a site with uvicorn, pages and WebSockets, with the limits that it is meant to run with.",
        epilog="Example: python -m realtime.web mysite.asgi:application --host 0.0.0.0 --port 8000",
    )
    parser.add_argument("application", help="the ASGI application, as module:name")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    parser.add_argument("--root-path", default="", help="the path that the proxy removes, such as /shop")
    parser.add_argument(
        "--drain-seconds",
        type=int,
        default=DRAIN_SECONDS,
        help="how long open requests and WebSockets may take to end after SIGTERM; default: %(default)s",
    )
    options = parser.parse_args()
    try:
        with extra("server"):
            import uvicorn
    except ExtraMissing as error:
        sys.exit(f"realtime.web: {error}")
    config = uvicorn.Config(
        options.application,
        host=options.host,
        port=options.port,
        root_path=options.root_path,
        timeout_graceful_shutdown=options.drain_seconds,
        http="realtime.server:HttpProtocol",
        ws="realtime.server:FrameProtocol",
        # What a browser sends are a few short frames; what it gets may be larger.
        ws_max_size=FRAME_LIMIT_BYTES,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PONG_TIMEOUT_SECONDS,
        # Costs each socket some 300 KB and each message a compression, and saves little on messages this short.
        ws_per_message_deflate=False,
        # A deploy brings all clients back at once; they are accepted in the order in which they came.
        backlog=4096,
        lifespan="auto",
        access_log=False,
        log_level="warning",
        server_header=False,
    )
    config.load()
    _ignore_what_was_imported()
    server = uvicorn.Server(config)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(_STARTUP_FAILED)


def _ignore_what_was_imported() -> None:
    """Exclude what was imported from garbage collection, because it lives as long as the process."""
    # The collector runs as often as by default. Less often costs memory: connections that are accepted leave garbage.
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    main()
