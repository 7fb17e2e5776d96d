"""A pod of two network namespaces with a real agent process, and the peers that it talks to.

The test's thread is in the node's namespace, which is the pod's gateway: callers, the manager and the laptop's end of
links are there. The app is a server in the pod's namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

from tests.net.agent_pki import POD_UID, Credentials, Pki
from tests.net.linux_namespaces import Namespace, connect
from tpd_core.aio.link import Link
from tpd_core.aio.messages import MessageStream
from tpd_core.aio.stream import Incoming, Stream
from tpd_core.aio.tasks import spawn
from tpd_core.aio.tls import client_context, server_context
from tpd_core.linux.sockets import family_of
from tpd_core.proto.link_pb2 import (
    AgentToDaemon,
    AgentWelcome,
    Control,
    DaemonToAgent,
    Disengage,
    Engage,
    EnrollReply,
    EnrollRequest,
    Inbound,
    OpenRequest,
    Problem,
    SignedGrant,
)

NODE, POD = "10.99.0.1", "10.99.0.2"
DEADLINE = 10.0
NODE6, POD6 = "fd00:99::1", "fd00:99::2"
PEEK_TOKEN = "peek-token"


def deadline(seconds: float = DEADLINE) -> asyncio.Timeout:
    return asyncio.timeout(seconds)


class Client:
    """A caller of the pod: sends lines, reads lines."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int = 8080, *, ttl: int | None = None, host: str = POD) -> Client:
        sock = socket.socket(family_of(host))
        sock.setblocking(False)
        if ttl is not None:
            sock.setsockopt(socket.SOL_IP, socket.IP_TTL, ttl)
        async with deadline():
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
            return cls(*await asyncio.open_connection(sock=sock))

    async def ask(self, line: str = "hello") -> str:
        self.writer.write(line.encode() + b"\n")
        return await self.read()

    async def read(self) -> str:
        async with deadline():
            return (await self.reader.readline()).decode().rstrip("\n")

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def ask_once(line: str = "hello", port: int = 8080, *, ttl: int | None = None, host: str = POD) -> str:
    client = await Client.connect(port, ttl=ttl, host=host)
    try:
        return await client.ask(line)
    finally:
        await client.close()


async def answer_lines(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each line with one's name, the peer's host and the line."""
    with contextlib.suppress(OSError):
        while line := await reader.readline():
            peer = writer.get_extra_info("peername")[0]
            writer.write(f"{name} {peer} ".encode() + line)
        writer.close()


class Laptop:
    """The daemon's end of a link: answers each line of an inbound stream with `laptop` and the line.

    Attributes:
        inbound: What the agent said about the connections, in order.
        may_dial: Cleared, a lost connection is not made again.
        decide: Called with each request: None accepts, a number rejects with that code, ... leaves it unanswered.
    """

    def __init__(self) -> None:
        self.link: Link
        self.talk: MessageStream
        self.inbound: list[Inbound] = []
        self.decide: Callable[[Inbound], Any] = lambda _inbound: None
        self.greeting = b""
        self.may_dial = asyncio.Event()
        self.may_dial.set()

    @classmethod
    async def connect(cls, pod: Pod, credentials: Credentials, *, control: bool = True, resume: bool = False) -> Laptop:
        laptop = cls()

        async def dial() -> socket.socket:
            await laptop.may_dial.wait()
            sock = socket.socket()
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, (POD, pod.agent_port))
            return sock

        async with deadline():
            laptop.link = await Link.connect(
                await dial(),
                tls=client_context(pod.pki.pem, credentials.certificate, credentials.key),
                server_hostname=f"{POD_UID}.agent.tpd",
                on_open=laptop.on_open,
                redial=dial if resume else None,
            )
            if control:
                laptop.talk = MessageStream(await laptop.open(OpenRequest(control=Control())))
        return laptop

    def cut(self) -> None:
        """Lose the connection without a farewell."""
        assert self.link._transport is not None
        self.link._transport.abort()

    async def open(self, request: OpenRequest) -> Stream:
        async with deadline():
            return await self.link.open(request.SerializeToString())

    def on_open(self, incoming: Incoming) -> None:
        inbound = OpenRequest.FromString(incoming.request).inbound
        self.inbound.append(inbound)
        answer = self.decide(inbound)
        if answer is None:
            spawn(self._answer(incoming.accept()), name="laptop")
        elif isinstance(answer, int):
            incoming.reject(answer, "as the test says")

    async def _answer(self, stream: Stream) -> None:
        buffer = b""
        if self.greeting:
            await stream.write(self.greeting)
        with contextlib.suppress(Exception):
            while data := await stream.read():
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    await stream.write(b"laptop " + line + b"\n")
            stream.write_eof()

    async def send(self, **message: Any) -> None:
        async with deadline():
            await self.talk.send(DaemonToAgent(**message))

    async def receive(self, kind: str, timeout: float = DEADLINE) -> Any:
        """The next message of this kind; counters that come before it are passed over."""
        async with deadline(timeout):
            while True:
                message = await self.talk.receive(AgentToDaemon)
                assert message is not None, "the agent ended the conversation"
                found = message.WhichOneof("message")
                if found == kind:
                    return getattr(message, kind)
                assert found == "counters", f"{found} instead of {kind}: {message}"

    async def grant(self, signed: SignedGrant) -> AgentWelcome:
        await self.send(grant=signed)
        welcome: AgentWelcome = await self.receive("welcome")
        return welcome

    async def engage(self, signed: SignedGrant, attachment: str = "att-1") -> Any:
        await self.grant(signed)
        await self.send(engage=Engage(attachment=attachment))
        return await self.receive("engaged")

    async def disengage(self, drain: float = 0.0, attachment: str = "att-1") -> None:
        await self.send(disengage=Disengage(attachment=attachment, drain=drain))
        await self.receive("disengaged")

    async def counters(self, **wanted: int) -> None:
        """Wait until the agent has reported these numbers."""
        async with deadline():
            while True:
                counters = await self.receive("counters")
                if all(getattr(counters, name) == value for name, value in wanted.items()):
                    return


class Pod:
    """Namespaces, manager and agent process; use `running_pod`."""

    def __init__(self) -> None:
        self.pki = Pki()
        self.node, self.space = Namespace("node"), Namespace("pod")
        connect(self.node, f"{NODE}/24", self.space, f"{POD}/24")
        self.space.ip("route", "add", "default", "via", NODE)
        for space, address in ((self.node, NODE6), (self.space, POD6)):
            space.ip("addr", "add", f"{address}/64", "dev", "eth0", "nodad")
        self.process: asyncio.subprocess.Process | None = None
        self.agent_port = 0
        self.enrolled = asyncio.Event()
        self.refuse: Problem | None = None
        self._servers: list[asyncio.Server] = []
        self._manager = self.pki.manager()
        self._enroll_port = 0

    async def serve_app(self, port: int = 8080, host: str = "0.0.0.0") -> asyncio.Server:
        """The original container."""
        with self.space.entered():
            sock = socket.socket(family_of(host))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
        server = await asyncio.start_server(lambda r, w: answer_lines("app", r, w), sock=sock)
        self._servers.append(server)
        return server

    async def start_manager(self) -> None:
        """Takes enrolments like the manager does: connects back and looks at the key before it signs."""
        listener = await asyncio.start_server(lambda *_: None, NODE, 0)
        self._enroll_port = listener.sockets[0].getsockname()[1]
        raw = listener.sockets[0].dup()
        listener.close()
        raw.setblocking(False)
        self._accepting = spawn(self._accept(raw), name="manager")

    async def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                sock, _ = await asyncio.get_running_loop().sock_accept(listener)
                tls = server_context(self._manager.certificate, self._manager.key, None)
                await Link.accept(sock, tls=tls, on_open=self._on_enroll)

    def _on_enroll(self, incoming: Incoming) -> None:
        assert OpenRequest.FromString(incoming.request).WhichOneof("kind") == "enroll"
        spawn(self._enroll(MessageStream(incoming.accept())), name="enroll")

    async def _enroll(self, talk: MessageStream) -> None:
        request = await talk.receive(EnrollRequest)
        assert request is not None
        assert (request.ticket, request.pod_uid) == ("ticket", POD_UID)
        if self.refuse is not None:
            await talk.send(EnrollReply(problem=self.refuse))
            return
        certificate = self.pki.agent(request.certificate_request, POD_UID)
        await talk.send(EnrollReply(certificate=certificate, ca=self.pki.pem))
        assert await talk.receive(EnrollRequest) is None
        talk.stream.write_eof()
        self.agent_port = request.port
        self.enrolled.set()

    async def start_agent(self, **environment: str) -> None:
        """Run the agent inside the pod and wait until it is enrolled."""
        await self.run_agent(**environment)
        async with deadline(20):
            await self.enrolled.wait()

    async def run_agent(self, **environment: str) -> asyncio.subprocess.Process:
        settings = {
            "TPD_POD_UID": POD_UID,
            "TPD_POD_NAME": "orders-0",
            "TPD_POD_NAMESPACE": "shop",
            "TPD_CONTAINER": "tpd-agent-00000",
            "TPD_ENROLL": f"{NODE}:{self._enroll_port}",
            "TPD_TICKET": "ticket",
            "TPD_CA": self.pki.pem.decode(),
            "TPD_NODE_IP": NODE,
            "TPD_LOG": "debug",
        }
        with self.space.entered():
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tpd_cluster.agent"), env={**os.environ, **settings, **environment}
            )
        return self.process

    async def end_agent(self, number: int = signal.SIGTERM) -> int:
        """Signal the agent and return its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return await self.agent_exit()

    async def agent_exit(self) -> int:
        assert self.process is not None
        async with deadline(15):
            return await self.process.wait()

    def tables(self) -> str:
        """The pod's nft tables."""
        return self.space.run("nft", "list", "tables")

    async def session(self, name: str = "ann-1") -> tuple[Laptop, Credentials]:
        credentials = self.pki.session(name)
        return await Laptop.connect(self, credentials), credentials

    async def engaged(self, *, ports: tuple[int, ...] = (8080,)) -> tuple[Laptop, Credentials]:
        """A laptop that has engaged the usual attachment."""
        laptop, credentials = await self.session()
        await laptop.engage(self.pki.grant(credentials, ports=ports))
        return laptop, credentials

    async def peek(self, container: str = "app", token: str = PEEK_TOKEN, **content: Any) -> str:
        """Deliver what a peek container would; the agent's answer."""
        message = {"token": token, "container": container, "names": [], "prefixes": [], "resolved": {}}
        message |= {"process": None, "uid": None, "gid": None, "groups": [], "note": ""} | content
        with self.space.entered():
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, f"\0tpd-peek-{POD_UID}")
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        writer.write(json.dumps(message).encode())
        writer.write_eof()
        async with deadline():
            answer = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
        return answer

    async def close(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        for server in self._servers:
            server.close()
        self._accepting.cancel()


@contextlib.asynccontextmanager
async def running_pod(*, agent: bool = True, **environment: str) -> AsyncIterator[Pod]:
    """A pod whose app listens on 8080, and whose agent is enrolled."""
    pod = Pod()
    try:
        with pod.node.entered():
            await pod.start_manager()
            await pod.serve_app()
            if agent:
                await pod.start_agent(**environment)
            try:
                yield pod
            finally:
                await pod.close()
    finally:
        pod.node.delete()
        pod.space.delete()
