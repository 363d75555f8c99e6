"""A unix-socket proxy before a test's Redis, to make the network fail in ways that a server cannot."""

import asyncio
import contextlib
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Proxy"]


class Proxy:
    """Hands bytes on between clients and the server at `url` (unix://…) until told otherwise."""

    def __init__(self, url: str) -> None:
        self._target = url.removeprefix("unix://")
        self._directory = tempfile.TemporaryDirectory(prefix="sbp-")
        self._path = str(Path(self._directory.name) / "p.sock")
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        # While cleared, what the server says is swallowed; connections stay open.
        self._hears = asyncio.Event()
        self._hears.set()
        # While true, whoever connects is hung up on.
        self._is_away = False
        # How many connections were ever accepted.
        self.accepted_count = 0
        self.url = f"unix://{self._path}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._accept, self._path)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        if self._pumps:
            await asyncio.wait(self._pumps)
        await self._server.wait_closed()
        self._directory.cleanup()

    def lead_to(self, url: str) -> None:
        """Connect new clients to another server; present connections stay, as after a change in the DNS."""
        self._target = url.removeprefix("unix://")

    def go_deaf(self) -> None:
        """Present connections hear nothing from the server any more, and are not told; new ones are fine."""
        self._hears.clear()
        self._hears = asyncio.Event()
        self._hears.set()

    def cut(self) -> None:
        """Close every connection at once."""
        for writer in self._writers:
            writer.close()

    def go_away(self) -> None:
        """Close every connection, and each that comes until `come_back()`."""
        self._is_away = True
        self.cut()

    def come_back(self) -> None:
        """Let them connect again."""
        self._is_away = False

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_away:
            writer.close()
            return
        self.accepted_count += 1
        server_reader, server_writer = await asyncio.open_unix_connection(self._target)
        always = asyncio.Event()
        always.set()
        hears = self._hears
        for source, sink, gate in ((reader, server_writer, always), (server_reader, writer, hears)):
            self._writers.add(sink)
            task = asyncio.create_task(self._pump(source, sink, gate))
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                if gate.is_set():
                    sink.write(data)
                    await sink.drain()
        sink.close()
        with contextlib.suppress(OSError):
            await sink.wait_closed()
        self._writers.discard(sink)
