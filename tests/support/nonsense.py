"""A server before a test's Redis that can answer nonsense to everything, on old and new connections."""

import contextlib
import socket
import socketserver
import threading
from types import TracebackType
from typing import Self

import hiredis

__all__ = ["NonsenseServer"]


class NonsenseServer:
    """
    Hands commands on to the Redis at `url` (unix://…) until `answer` is set; then each command gets that, at once.

    Args:
        answer: RESP, such as b"$-1\\r\\n"; None for the answers of Redis.
        is_ping_answered: Whether a PING gets its PONG all the same.
    """

    def __init__(self, url: str, *, answer: bytes | None, is_ping_answered: bool) -> None:
        self.answer = answer
        self._is_ping_answered = is_ping_answered
        self._target = url.removeprefix("unix://")
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"redis://127.0.0.1:{self._server.server_address[1]}/0"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[socketserver.BaseRequestHandler]:
        owner = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    owner._serve(self.request)

        return Handler

    def _serve(self, client: socket.socket) -> None:
        commands, redis = hiredis.Reader(), None
        try:
            while data := client.recv(65_536):
                commands.feed(data)
                for command in iter(commands.gets, False):
                    if self.answer is None:
                        redis = redis or self._connect(client)
                        redis.sendall(hiredis.pack_command(tuple(command)))
                    elif command[0].upper() == b"PING" and self._is_ping_answered:
                        client.sendall(b"+PONG\r\n")
                    else:
                        client.sendall(self.answer)
        finally:
            if redis is not None:
                with contextlib.suppress(OSError):
                    redis.shutdown(socket.SHUT_RDWR)

    def _connect(self, client: socket.socket) -> socket.socket:
        redis = socket.socket(socket.AF_UNIX)
        redis.connect(self._target)
        threading.Thread(target=self._hand_on, args=(redis, client), daemon=True).start()
        return redis

    def _hand_on(self, redis: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError), redis:
            while data := redis.recv(65_536):
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)
