"""Carried by the CLI, for engines whose containers cannot reach the API server.

The daemon cannot call the CLI: it puts a wish into its state, which the CLI watches, and the CLI answers with a Relay
call that names the wish.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator

from tpd.daemon.changes import Changes
from tpd.daemon.transports.base import Opened
from tpd_core.aio.tasks import cancel_and_wait, spawn
from tpd_core.errors import NetworkError, UserError, from_category
from tpd_core.proto import control_pb2

_TIMEOUT = 4.0  # seconds until the CLI must have come
_CHUNK = 64 * 1024


class RelayTransport:
    """Wishes and their fulfilment.

    Args:
        changes: Rung when the wishes change.
    """

    kind = control_pb2.TRANSPORT_RELAY
    head_start = _TIMEOUT

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._wishes: dict[str, asyncio.Future[socket.socket]] = {}

    @property
    def wanted(self) -> list[str]:
        """Ids for the CLI."""
        return list(self._wishes)

    def available(self) -> bool:
        """See Transport."""
        return True

    async def open(self) -> Opened:
        """See Transport."""
        wish = secrets.token_hex(8)
        future: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        self._wishes[wish] = future
        self._changes.ring()
        try:
            async with asyncio.timeout(_TIMEOUT):
                return Opened(await future, self.kind)
        except TimeoutError:
            raise NetworkError(
                "no tpd command is there to relay the connection",
                hint="keep `tpd run` running, or its watcher: the container itself cannot reach the cluster",
            ) from None
        finally:
            self._wishes.pop(wish, None)
            self._changes.ring()

    async def carry(self, chunks: AsyncIterator[control_pb2.RelayChunk]) -> AsyncIterator[control_pb2.RelayChunk]:
        """Serve one Relay call.

        Args:
            chunks: What the CLI sends; the first one names the wish.

        Raises:
            UserError: No such wish, any more.
        """
        loop = asyncio.get_running_loop()
        first = await anext(chunks, None)
        future = self._wishes.get(first.id) if first is not None else None
        if first is None or future is None or future.done():
            raise UserError(f"no relay {first.id if first else ''!r} is wanted")
        if first.HasField("problem"):
            problem = first.problem
            future.set_exception(from_category(problem.category, problem.message, problem.hint))
            return
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        future.set_result(near)
        upward = spawn(_pour(first, chunks, far), name="relay-up")
        try:
            while data := await _receive(loop, far):
                yield control_pb2.RelayChunk(data=data)
            yield control_pb2.RelayChunk(eof=True)
        finally:
            await cancel_and_wait(upward)
            far.close()


async def _receive(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bytes:
    try:
        return await loop.sock_recv(sock, _CHUNK)
    except OSError:
        return b""


async def _pour(
    first: control_pb2.RelayChunk, chunks: AsyncIterator[control_pb2.RelayChunk], sock: socket.socket
) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        await loop.sock_sendall(sock, first.data)
        async for chunk in chunks:
            await loop.sock_sendall(sock, chunk.data)
            if chunk.eof:
                break
        sock.shutdown(socket.SHUT_RDWR)
