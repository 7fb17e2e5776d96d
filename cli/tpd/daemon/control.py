"""The control service: what the CLI may ask of the daemon."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

import grpc
import grpc.aio

import tpd_core
from tpd_core.errors import TpdError
from tpd_core.proto import control_pb2, control_pb2_grpc

if TYPE_CHECKING:
    from tpd.daemon.daemon import Daemon

_log = logging.getLogger(__name__)

_CONNECT_TIMEOUT: Final = 30.0  # seconds, where the caller sets no deadline of its own
_ATTACH_TIMEOUT: Final = 60.0
_MARGIN: Final = 0.5  # seconds before the caller's deadline, so that the reason still reaches it

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class ControlService(control_pb2_grpc.DaemonServicer):
    """Translates calls; errors travel as JSON in the status details: category, message, hint."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def Hello(  # noqa: N802 - named by the service
        self, request: control_pb2.HelloRequest, context: Context
    ) -> control_pb2.HelloReply:
        """See control.proto; so for all."""
        return control_pb2.HelloReply(
            version=tpd_core.__version__,
            instance=self._daemon.instance,
            certificate_request=self._daemon.keyring.offered.request,
            connected=self._daemon.connected,
        )

    async def Connect(  # noqa: N802
        self, request: control_pb2.ConnectRequest, context: Context
    ) -> control_pb2.ConnectReply:
        try:
            session = await self._daemon.connect(request)
            cluster = await session.wait_connected(_time_left(context, _CONNECT_TIMEOUT))
        except TpdError as error:
            await _abort(context, error)
        return control_pb2.ConnectReply(cluster=cluster, transport=session.transport)

    async def SetToken(self, request: control_pb2.Token, context: Context) -> control_pb2.Empty:  # noqa: N802
        try:
            self._daemon.current().api_server.token = request.token
        except TpdError as error:
            await _abort(context, error)
        return control_pb2.Empty()

    async def Attach(  # noqa: N802
        self, request: control_pb2.AttachRequest, context: Context
    ) -> control_pb2.AttachReply:
        timeout = min(request.timeout or _ATTACH_TIMEOUT, _time_left(context, _ATTACH_TIMEOUT))
        try:
            with self._daemon.expecting(request.uid):
                attachment = await self._daemon.current().attach(request.uid, mount=request.mount, timeout=timeout)
        except TpdError as error:
            await _abort(context, error)
        reply = control_pb2.AttachReply(attachment=attachment.status())
        if (welcome := attachment.welcome) is not None:
            reply.environment.update(welcome.environment)
            reply.environment_note = welcome.note
        return reply

    async def Detach(self, request: control_pb2.DetachRequest, context: Context) -> control_pb2.Empty:  # noqa: N802
        await self._daemon.detach(request.uid, request.drain)
        return control_pb2.Empty()

    async def Watch(  # noqa: N802
        self, request: control_pb2.Empty, context: Context
    ) -> AsyncIterator[control_pb2.State]:
        while True:
            bell = self._daemon.changes.bell  # before the state, so that no change in between is missed
            yield self._daemon.state()
            await bell.wait()

    async def Relay(  # noqa: N802
        self, request_iterator: AsyncIterator[control_pb2.RelayChunk], context: Context
    ) -> AsyncIterator[control_pb2.RelayChunk]:
        try:
            async for chunk in self._daemon.current().relay.carry(request_iterator):
                yield chunk
        except TpdError as error:
            await _abort(context, error)

    async def Disconnect(self, request: control_pb2.Empty, context: Context) -> control_pb2.Empty:  # noqa: N802
        await self._daemon.disconnect(drain=0.0)
        return control_pb2.Empty()


def _time_left(context: Context, default: float) -> float:
    left = context.time_remaining()
    return default if left is None else max(0.0, left - _MARGIN)


async def _abort(context: Context, error: TpdError) -> NoReturn:
    details = {"category": str(error.category), "message": error.message, "hint": error.hint}
    _log.warning("call refused", extra={"category": details["category"], "reason": error.message})
    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, json.dumps(details))
    raise AssertionError("abort raises")
