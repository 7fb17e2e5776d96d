"""Carrying a daemon's transports where only this computer reaches the API server.

The daemon names a transport that it wants (`State.relays_wanted`); the CLI opens a port-forward to the manager with
the session's token and copies bytes between it and a Relay call.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Sequence

import grpc.aio

from tpd.control.client import DaemonClient
from tpd.kube.config import Login
from tpd.kube.portforward import ApiAccess, PodPort, PortForward
from tpd_core.aio.tasks import cancel_and_wait, spawn
from tpd_core.errors import TpdError
from tpd_core.kube.client import api_tls
from tpd_core.proto import control_pb2, link_pb2

_CHUNK = 64 * 1024
_TURN = itertools.count()


class RelayCarrier:
    """Carries the relays of one daemon; its tasks live in the caller's TaskGroup.

    Args:
        token: Gives the session's token, the same that the daemon uses: the user's own login may not be allowed to
            open a port-forward to the manager.
        namespace: The manager's.
    """

    def __init__(
        self,
        group: asyncio.TaskGroup,
        client: DaemonClient,
        login: Login,
        token: Callable[[], str],
        namespace: str,
    ) -> None:
        self._group = group
        self._client = client
        self._login = login
        self._token = token
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
                try:
                    forward = await PortForward.open(self._access(), target)
                except TpdError as error:
                    problem = link_pb2.Problem(category=error.category.value, message=error.message, hint=error.hint)
                    await call.write(control_pb2.RelayChunk(id=wanted, problem=problem))
                    await call.done_writing()
                else:
                    await call.write(control_pb2.RelayChunk(id=wanted))
                    await self._copy(call, forward)
            finally:
                call.cancel()

    def _access(self) -> ApiAccess:
        login = self._login
        return ApiAccess(
            login.server,
            # Without the user's certificate, which would count before the token.
            None if login.ssl is None else api_tls(login.ca or None, insecure=not login.verify),
            {"Authorization": f"Bearer {self._token()}"},
            login.tls_server_name or "",
            login.proxy or "",
        )

    async def _copy(self, call: grpc.aio.StreamStreamCall, forward: PortForward) -> None:  # type: ignore[type-arg]
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

        # What ends one direction by a failure is raised here and ends the other.
        down = spawn(downward(), name="relay-down", on_error=lambda _: None)
        up = spawn(upward(), name="relay-up", on_error=lambda _: None)
        try:
            await asyncio.gather(down, up)
        finally:
            await cancel_and_wait(down, up)
            await forward.aclose()
            forward.socket.close()
