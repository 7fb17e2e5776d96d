"""The gate: holds the app back until its traffic, its names and its files are there.

A one-shot container of the compose project connects to an abstract socket of the shared network namespace, waits for
one line and exits; compose starts the app when it has exited with 0.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from tpd.daemon.changes import Changes

ADDRESS = "\0tpd-gate"


class Gatekeeper:
    """Listens; an async context manager.

    Args:
        changes: Rings when the verdict may have changed.
        verdict: None while it is open, "" when the app may start, else why it must not.
    """

    def __init__(self, changes: Changes, verdict: Callable[[], str | None]) -> None:
        self._changes = changes
        self._verdict = verdict
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Gatekeeper:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(ADDRESS)
        self._server = await asyncio.start_unix_server(self._serve, sock=sock)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._changes.until(lambda: self._verdict() is not None, None)
            verdict = self._verdict()
            writer.write(f"failed: {verdict}\n".encode() if verdict else b"ready\n")
            await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
