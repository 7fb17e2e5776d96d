"""Carrying a daemon's transports where only this computer reaches the API server.

The daemon names a transport that it wants (`State.relays_wanted`); the CLI opens a port-forward to the manager with
the session's token and copies bytes between it and a Relay call.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence

import grpc.aio

from tpd.control.client import DaemonClient
from tpd.kube.config import Login
from tpd.kube.portforward import ApiAccess, PodPort, PortForward
from tpd_core.errors import TpdError
from tpd_core.proto import control_pb2

_CHUNK = 64 * 1024
_TURN = itertools.count()


class RelayCarrier:
    """Carries the relays of one daemon; its tasks live in the caller's TaskGroup.

    Args:
        namespace: The manager's.
    """

    def __init__(
        self,
        group: asyncio.TaskGroup,
        client: DaemonClient,
        login: Login,
        namespace: str,
    ) -> None:
        self._group = group
        self._client = client
        self._login = login
        self._namespace = namespace
        self._carried: set[str] = set()

    def want(self, ids: Sequence[str], pods: Sequence[str], port: int) -> None:
        """Start carrying those that are not carried yet."""
        self._carried &= set(ids)
        for wanted in ids:
            if wanted not in self._carried and pods:
                self._carried.add(wanted)
                # Replicas take turns, so that a dead one is not asked twice in a row.
                pod = pods[next(_TURN) % len(pods)]
                self._group.create_task(self._carry(wanted, PodPort(self._namespace, pod, port)))

    async def _carry(self, wanted: str, target: PodPort) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, OSError):
            call = self._client.relay()
            try:
                await call.write(control_pb2.RelayChunk(id=wanted))
                await self._copy(call, target)
            finally:
                call.cancel()

    async def _copy(self, call: grpc.aio.StreamStreamCall, target: PodPort) -> None:  # type: ignore[type-arg]
        access = ApiAccess(
            self._login.server,
            self._login.ssl,
            await self._login.headers(),
            self._login.tls_server_name or "",
            self._login.proxy or "",
        )
        try:
            forward = await PortForward.open(access, target)
        except TpdError:
            await call.write(control_pb2.RelayChunk(eof=True))
            await call.done_writing()
            return
        loop = asyncio.get_running_loop()

        async def downward() -> None:
            while data := await loop.sock_recv(forward.socket, _CHUNK):
                await call.write(control_pb2.RelayChunk(data=data))
            await call.write(control_pb2.RelayChunk(eof=True))
            await call.done_writing()

        async def upward() -> None:
            async for chunk in call:
                if chunk.data:
                    await loop.sock_sendall(forward.socket, chunk.data)
                if chunk.eof:
                    break
            forward.socket.shutdown(1)

        try:
            down, up = asyncio.ensure_future(downward()), asyncio.ensure_future(upward())  # noqa: TID251
            await asyncio.gather(down, up)
        finally:
            await forward.aclose()
            forward.socket.close()
