"""
`python -m project.web`: the site on uvicorn, with the limits that it is meant to run with.

Owns the web server's options, once for `make run`, the Procfile and the container. Any other ASGI server that is given
`project.asgi:application` works too (`manage.py runserver` is Daphne), without the fast way to the sockets.
"""

import argparse

import uvicorn

from realtime.protocol.messages import FRAME_LIMIT_BYTES, PING_SECONDS

__all__ = ["main"]

PONG_TIMEOUT_SECONDS = 10.0
# Without a limit a restart waits for ever on open WebSockets (uvicorn#1344).
DRAIN_SECONDS = 25


def main() -> None:
    """
    Serve until SIGTERM or Ctrl-C; then accept nobody, close WebSockets one after the other and let open requests
    finish, for at most the drain time.
    """
    parser = argparse.ArgumentParser(description="Serve the site with uvicorn.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--root-path", default="", help="the path that the proxy removes, such as /shop")
    parser.add_argument("--drain-seconds", type=int, default=DRAIN_SECONDS, help="default: %(default)s")
    options = parser.parse_args()
    uvicorn.run(
        "project.asgi:application",
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
        lifespan="on",
        access_log=False,
        log_level="warning",
        server_header=False,
    )


if __name__ == "__main__":
    main()
