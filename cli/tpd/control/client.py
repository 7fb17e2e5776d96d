"""The daemon's control service as typed calls, with the daemon's problems raised as `TpdError`."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from tpd.control.bridge import Bridge
from tpd_core.errors import EngineError, NetworkError, TpdError, from_category
from tpd_core.proto import control_pb2, control_pb2_grpc

_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", 16 * 2**20),
    ("grpc.enable_http_proxy", 0),
]


class DaemonGoneError(EngineError):
    """The daemon does not answer (its container is gone, or restarting)."""


class DaemonClient:
    """One daemon's control service; an async context manager.

    Args:
        container: Called for each connection: the daemon container's id, or None while there is none.
    """

    def __init__(self, container: Callable[[], Awaitable[str | None]]) -> None:
        self._bridge = Bridge(container)
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None

    async def __aenter__(self) -> Self:
        await self._bridge.__aenter__()
        self._channel = grpc.aio.insecure_channel(self._bridge.address, options=_OPTIONS)
        self._stub = control_pb2_grpc.DaemonStub(self._channel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._channel is not None:
            await self._channel.close(grace=None)
        await self._bridge.__aexit__(kind, error, trace)

    async def hello(self, version: str, timeout: float) -> control_pb2.HelloReply:
        """Greet; waits for a daemon that is still starting.

        Raises:
            DaemonGoneError: No answer within `timeout` seconds.
        """
        with self._errors():
            request = control_pb2.HelloRequest(version=version)
            reply: control_pb2.HelloReply = await self._stub.Hello(request, timeout=timeout, wait_for_ready=True)
            return reply

    async def connect(self, request: control_pb2.ConnectRequest, timeout: float) -> control_pb2.ConnectReply:
        """Start the session; returns when the link to the manager is up."""
        with self._errors():
            reply: control_pb2.ConnectReply = await self._stub.Connect(request, timeout=timeout)
            return reply

    async def set_token(self, token: str, expires: int) -> None:
        """Hand over a newer token."""
        with self._errors():
            await self._stub.SetToken(control_pb2.Token(token=token, expires=expires), timeout=10)

    async def attach(self, uid: str, *, mount: bool, timeout: float) -> control_pb2.AttachReply:
        """Wait until an attachment is engaged and its volumes are mounted."""
        with self._errors():
            request = control_pb2.AttachRequest(uid=uid, mount=mount, timeout=timeout)
            reply: control_pb2.AttachReply = await self._stub.Attach(request, timeout=timeout + 5)
            return reply

    async def detach(self, uid: str, drain: float) -> None:
        """Give the traffic back, drain, unmount."""
        with self._errors():
            await self._stub.Detach(control_pb2.DetachRequest(uid=uid, drain=drain), timeout=drain + 5)

    async def disconnect(self) -> None:
        """Give up everything, keep the container."""
        with self._errors():
            await self._stub.Disconnect(control_pb2.Empty(), timeout=15)

    async def watch(self) -> AsyncIterator[control_pb2.State]:
        """The daemon's state, at once and on every change, until it goes away.

        Raises:
            DaemonGoneError: The daemon went away.
        """
        with self._errors():
            async for state in self._stub.Watch(control_pb2.Empty()):
                yield state

    def relay(self) -> Any:
        """A bidirectional Relay call."""
        return self._stub.Relay()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise self._translate(error) from error

    def _translate(self, error: grpc.aio.AioRpcError) -> TpdError:
        problem = problem_of(error)
        if problem is not None:
            return problem
        details = error.details() or error.code().name
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            words = self._bridge.complaint or details
            return DaemonGoneError(f"tpd's daemon container does not answer: {words}")
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            words = f" ({self._bridge.complaint})" if self._bridge.complaint else ""
            return NetworkError(f"tpd's daemon did not finish in time{words}")
        return from_category("bug", f"tpd's daemon failed: {details}")


def problem_of(error: grpc.aio.AioRpcError) -> TpdError | None:
    """The daemon's own account of what went wrong: JSON in the status details."""
    try:
        content = json.loads(error.details() or "")
        return from_category(content["category"], content["message"], content.get("hint", ""))
    except (ValueError, KeyError, TypeError):
        return None


async def wait_state(
    client: DaemonClient, done: Callable[[control_pb2.State], bool], timeout: float
) -> control_pb2.State:
    """The first state that `done` accepts.

    Raises:
        TimeoutError: None came in time.
        DaemonGoneError: The daemon went away.
    """
    async with asyncio.timeout(timeout):
        async for state in client.watch():
            if done(state):
                return state
    raise DaemonGoneError("tpd's daemon ended its state stream")
