"""A local address that leads to the control socket inside the daemon's container.

gRPC wants an address to dial, and nothing may be published on the host: so a listener in a private directory starts
one `docker exec -i` per connection and copies bytes. The container is looked up anew each time, since the engine may
have recreated it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tpd.engine.docker import docker_program
from tpd.run.programs import end_process

_COMMAND = ("python3", "-I", "-S", "-m", "tpd.daemon", "bridge")
_CHUNK = 256 * 1024


class Bridge:
    """An async context manager around the listener.

    Args:
        container: Called for each connection: the daemon container's id, or None while there is none.
    """

    def __init__(self, container: Callable[[], Awaitable[str | None]]) -> None:
        self._container = container
        self._server: asyncio.Server | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.address = ""
        self.complaint = ""

    async def __aenter__(self) -> Self:
        if sys.platform == "win32":
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        else:
            self._directory = tempfile.TemporaryDirectory(prefix="tpd-")  # mode 0700
            path = Path(self._directory.name) / "control"
            self._server = await asyncio.start_unix_server(self._serve, path)
            self.address = f"unix:{path}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        if self._directory is not None:
            self._directory.cleanup()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._carry(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        container = await self._container()
        if container is None:
            self.complaint = "the daemon's container is not there"
            return
        process = await asyncio.create_subprocess_exec(
            docker_program(),
            "exec",
            "-i",
            container,
            *_COMMAND,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=sys.platform != "win32",  # the terminal's Ctrl-C is not for it
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, process.stdin))
                group.create_task(self._listen(process.stderr))
                await _copy(process.stdout, writer)
                raise _DoneError
        except* _DoneError:
            pass
        finally:
            end_process(process)
            await process.wait()

    async def _listen(self, stderr: asyncio.StreamReader) -> None:
        async for line in stderr:
            self.complaint = line.decode(errors="replace").strip() or self.complaint


class _DoneError(Exception):
    pass


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(_CHUNK):
            sink.write(data)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()
