"""A container's network namespace with a real daemon process in it, and the app's side of things."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import grpc.aio

from tests.net.agent_pki import Pki
from tests.net.daemon.cluster import ATTACHMENT, Cluster
from tests.net.linux_namespaces import Namespace, connect
from tpd_core.proto import control_pb2, control_pb2_grpc
from tpd_core.proto.link_pb2 import AttachmentState, Endpoint, ManagerToDaemon

HOST, CONTAINER = "172.30.0.1", "172.30.0.2"
RESOLVER = "198.18.0.53"
DEADLINE = 15.0


def deadline(seconds: float = DEADLINE) -> asyncio.Timeout:
    return asyncio.timeout(seconds)


class Laptop:
    """Namespaces, daemon process, control client; use `running`."""

    def __init__(self, directory: Path) -> None:
        self.pki = Pki()
        self.cluster = Cluster(self.pki)
        self.host, self.space = Namespace("host"), Namespace("app")
        connect(self.host, f"{HOST}/24", self.space, f"{CONTAINER}/24")
        self.space.ip("route", "add", "default", "via", HOST)
        self.control = str(directory / "control.sock")
        self.process: subprocess.Popen[bytes] | None = None
        self.stub: Any = None
        self._channel: grpc.aio.Channel | None = None
        self._environment = {**os.environ, "TPD_CONTROL": self.control, "TPD_LOG": "debug"}

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, directory: Path, **environment: str) -> AsyncIterator[Self]:
        laptop = cls(directory)
        laptop._environment |= environment
        try:
            with laptop.host.entered():
                laptop.cluster.listen(HOST)
            await laptop.start()
            yield laptop
        finally:
            await laptop.close()

    async def start(self) -> None:
        with self.space.entered():
            self.process = subprocess.Popen(  # noqa: ASYNC220 - within the namespace, at once
                [sys.executable, "-m", "tpd.daemon"], env=self._environment
            )
        self._channel = grpc.aio.insecure_channel(f"unix:{self.control}")
        self.stub = control_pb2_grpc.DaemonStub(self._channel)
        await self.stub.Hello(control_pb2.HelloRequest(), wait_for_ready=True, timeout=DEADLINE)

    async def stop(self, *, kill: bool = False) -> int:
        assert self.process is not None
        assert self._channel is not None
        await self._channel.close()
        (self.process.kill if kill else self.process.terminate)()
        return await asyncio.to_thread(self.process.wait, DEADLINE)

    async def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            await self.stop()
        await self.cluster.close()
        self.space.delete()
        self.host.delete()

    # -- control -------------------------------------------------------------------------------------------------
    async def connect(self, **changes: Any) -> control_pb2.ConnectReply:
        hello = await self.stub.Hello(control_pb2.HelloRequest())
        certificate = self.pki.certify(hello.certificate_request, "ann-1")
        fields: dict[str, Any] = {
            "session": "ann-1",
            "certificate": certificate,
            "ca": self.pki.pem,
            "endpoints": [Endpoint(host=HOST, port=self.cluster.address[1])],
            "transports": [control_pb2.TRANSPORT_ENDPOINT],
            "namespace": "shop",
            "dns_upstreams": [HOST],
        }
        request = control_pb2.ConnectRequest(**(fields | changes))
        reply: control_pb2.ConnectReply = await self.stub.Connect(request, timeout=DEADLINE)
        return reply

    async def attach(self, state: AttachmentState, *, mount: bool = False) -> control_pb2.AttachReply:
        async with deadline():
            manager = await self.cluster.managers.get()
            await manager.send(ManagerToDaemon(attachment=state))
            self.cluster.managers.put_nowait(manager)
        request = control_pb2.AttachRequest(uid=ATTACHMENT, mount=mount, timeout=10)
        reply: control_pb2.AttachReply = await self.stub.Attach(request, timeout=DEADLINE)
        return reply

    async def state(self, accept: Callable[[control_pb2.State], bool]) -> control_pb2.State:
        """The first state that fits."""
        async with deadline():
            state: control_pb2.State
            async for state in self.stub.Watch(control_pb2.Empty()):
                if accept(state):
                    return state
        raise AssertionError("the daemon ended its state")

    # -- the app -------------------------------------------------------------------------------------------------
    def app_socket(self, kind: int = socket.SOCK_STREAM) -> socket.socket:
        with self.space.entered():
            sock = socket.socket(socket.AF_INET, kind)
        sock.setblocking(False)
        return sock

    async def dial(self, host: str, port: int) -> socket.socket:
        sock = self.app_socket()
        async with deadline():
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
        return sock

    def listen(self, host: str = "127.0.0.1", port: int = 8080) -> socket.socket:
        sock = self.app_socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen()
        return sock

    async def ask_udp(self, query: bytes, *, timeout: float = 5.0) -> bytes:
        """A DNS question to the captured resolver."""
        loop = asyncio.get_running_loop()
        with self.app_socket(socket.SOCK_DGRAM) as sock:
            sock.connect((RESOLVER, 53))
            async with deadline(timeout):
                await loop.sock_sendall(sock, query)
                return await loop.sock_recv(sock, 65535)


async def receive_all(sock: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    result = b""
    async with deadline():
        while data := await loop.sock_recv(sock, 65536):
            result += data
    return result
