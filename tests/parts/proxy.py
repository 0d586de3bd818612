"""A TCP proxy that delays, cuts or stalls what passes through it."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

_PIECE = 16 * 1024


@dataclass(frozen=True, slots=True)
class Fault:
    """What befalls the traffic once `after_bytes` more have passed, both directions counted together.

    `delay` holds every piece back for `seconds`, `cut` breaks the connections that are open (and, with
    `for_good`, every later one), `stall` lets nothing more through and keeps all connections open.
    """

    kind: Literal["delay", "cut", "stall"]
    after_bytes: int = 0
    seconds: float = 0.0
    for_good: bool = False


class Proxy:
    """A running proxy; `fault` may be set at any time, from any thread."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self._open: set[asyncio.StreamWriter] = set()
        self._passed = 0
        self._fault: Fault | None = None
        self._broken = False
        self.endpoint = ""

    @property
    def fault(self) -> Fault | None:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        self._passed = 0
        self._broken = False
        self._fault = fault

    async def listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        self.endpoint = f"http://{host}:{port}"
        return server

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._broken:
            writer.transport.abort()
            return
        try:
            other_reader, other_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.transport.abort()
            return
        mine = {writer, other_writer}
        self._open |= mine
        try:
            # A half-closed connection is of no use to HTTP: the first end closes both.
            await asyncio.wait(
                [
                    asyncio.ensure_future(self._pump(reader, other_writer)),
                    asyncio.ensure_future(self._pump(other_reader, writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            self._open -= mine
            for each in mine:
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(_PIECE):
                self._passed += len(piece)
                await self._suffer()
                writer.write(piece)
                await writer.drain()

    async def _suffer(self) -> None:
        fault = self._fault
        if fault is None or self._passed <= fault.after_bytes:
            return
        if fault.kind == "delay":
            await asyncio.sleep(fault.seconds)
        elif fault.kind == "stall":
            # Looked at rather than waited for: the fault is set from another thread.
            while self._fault is fault:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        else:
            self._fault = None
            self._broken = fault.for_good
            for each in self._open:
                each.transport.abort()


@contextlib.contextmanager
def proxy_before(upstream: str) -> Iterator[Proxy]:
    """Run a proxy on a free loopback port before the server at `upstream`, until the block ends."""
    proxy = Proxy(upstream)
    started, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with await proxy.listen():
            started.set()
            await stop.wait()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()], daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
