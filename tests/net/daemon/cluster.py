"""A cluster as the daemon sees it: router, manager, agents; made of the real Link, run in the test's process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import dns.message
import dns.rcode
import dns.rrset

from tests.net.agent_pki import POD_UID, Credentials, Pki
from tpd_core.aio.link import Link
from tpd_core.aio.messages import MessageStream
from tpd_core.aio.resume import LinkKeeper
from tpd_core.aio.stream import Incoming, Stream
from tpd_core.aio.tasks import spawn
from tpd_core.aio.tls import server_context
from tpd_core.errors import NetworkError
from tpd_core.proto.link_pb2 import (
    AgentToDaemon,
    AgentWelcome,
    AttachmentState,
    ClusterInfo,
    DaemonToAgent,
    DaemonToManager,
    Disengaged,
    Engaged,
    Inbound,
    ManagerToDaemon,
    OpenRequest,
    PodGrant,
    Port,
    Problem,
    Refused,
    SignedGrant,
)
from tpd_core.wire.frames import RejectCode
from tpd_core.wire.sni import SniReader

DNS_ADDRESS = "10.96.0.10"
ATTACHMENT = "att-1"


def cluster_info(**changes: Any) -> ClusterInfo:
    fields = {
        "manager_version": "0.1.0",
        "service_cidrs": ["10.96.0.0/16"],
        "pod_cidrs": ["10.244.0.0/16"],
        "cluster_domain": "cluster.local",
        "dns_address": DNS_ADDRESS,
    }
    return ClusterInfo(**(fields | changes))


def attachment_state(*, local_port: int = 8080, **changes: Any) -> AttachmentState:
    fields: dict[str, Any] = {
        "uid": ATTACHMENT,
        "namespace": "shop",
        "name": "ann-orders",
        "workload_kind": "Deployment",
        "workload_name": "orders",
        "container": "app",
        "ports": [Port(protocol="TCP", container_port=8080, local_port=local_port)],
        "phase": AttachmentState.READY,
        "pods": [PodGrant(pod="orders-0", pod_uid=POD_UID, pod_ip="10.244.0.7", grant=SignedGrant(grant=b"first"))],
    }
    return AttachmentState(**(fields | changes))


@dataclass
class Names:
    """The cluster's resolver: A records by full name; counts the questions."""

    records: dict[str, list[str]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def serve(self, stream: Stream) -> None:
        buffer = b""
        with contextlib.suppress(NetworkError):
            while data := await stream.read():
                buffer += data
                while len(buffer) >= 2 and len(buffer) >= (end := 2 + int.from_bytes(buffer[:2], "big")):
                    wire = self.answer(dns.message.from_wire(buffer[2:end])).to_wire(max_size=65535)
                    await stream.write(len(wire).to_bytes(2, "big") + wire)
                    buffer = buffer[end:]

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        self.asked.append((name, question.rdtype.name))
        reply = dns.message.make_response(query)
        addresses = self.records.get(name)
        if addresses is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        elif question.rdtype.name == "A":
            reply.answer = [dns.rrset.from_text_list(question.name, 30, "IN", "A", addresses)]
        return reply


class Agent:
    """One agent's end of one link."""

    def __init__(self, link: Link, talk: MessageStream) -> None:
        self.link, self.talk = link, talk
        self.grants: list[bytes] = []
        self.engaged = asyncio.Event()
        self.disengaged: float | None = None

    async def call(self, *, port: int = 8080, source: tuple[str, int] = ("10.244.3.9", 40000)) -> Stream:
        """A caller's connection, as an agent offers it."""
        inbound = Inbound(
            attachment=ATTACHMENT,
            destination_host="10.244.0.7",
            destination_port=port,
            source_host=source[0],
            source_port=source[1],
        )
        return await self.link.open(OpenRequest(inbound=inbound).SerializeToString(), timeout=5)


class Cluster:
    """Listens like the router; everything behind it is answered here.

    Attributes:
        names: The resolver.
        services: What answers at an address; others are refused.
        agents: Their links, in order of arrival.
        info: The first message to each daemon.
        refuse: What an agent answers to a grant instead of a welcome.
        serve_files: Answers Files streams.
    """

    def __init__(self, pki: Pki) -> None:
        self.pki = pki
        self.names = Names()
        self.services: dict[tuple[str, int], Callable[[Stream], Any]] = {(DNS_ADDRESS, 53): self.names.serve}
        self.links: asyncio.Queue[tuple[str, Link]] = asyncio.Queue()
        self.agents: asyncio.Queue[Agent] = asyncio.Queue()
        self.managers: asyncio.Queue[MessageStream] = asyncio.Queue()
        self.info = cluster_info()
        self.refuse: Problem | None = None
        self.dialled: list[tuple[str, str, int]] = []
        self.serve_files: Callable[[Incoming, str], Any] | None = None
        self._credentials: dict[str, Credentials] = {}
        self._all: list[Link] = []
        self._keeper = LinkKeeper()
        self._accepting: asyncio.Task[None] | None = None
        self.address = ("", 0)

    def listen(self, host: str) -> None:
        listener = socket.create_server((host, 0))
        listener.setblocking(False)
        self.address = listener.getsockname()
        self._accepting = spawn(self._accept(listener), name="router")

    async def close(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
        await asyncio.gather(*(link.aclose() for link in self._all))

    def cut(self) -> None:
        """Drop all links."""
        links, self._all = self._all, []
        for link in links:
            link.close("the test cut it")

    def lose(self) -> None:
        """Lose all connections; the links may be continued."""
        for link in self._all:
            link.suspend("the test lost it")

    async def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                sock, _ = await asyncio.get_running_loop().sock_accept(listener)
                spawn(self._link(sock), name="link")

    async def _link(self, sock: socket.socket) -> None:
        name = await _server_name(sock)
        if name not in self._credentials:
            self._credentials[name] = self.pki._credentials(name, [name], server=True, client=False)
        credentials = self._credentials[name]
        tls = server_context(credentials.certificate, credentials.key, self.pki.pem)
        link = await Link.accept_or_resume(
            sock, self._keeper, tls=tls, on_open=lambda incoming: self._on_open(name, incoming)
        )
        if link is None:
            return
        self._all.append(link)
        self.links.put_nowait((name, link))

    def _on_open(self, name: str, incoming: Incoming) -> None:
        request = OpenRequest.FromString(incoming.request)
        match request.WhichOneof("kind"):
            case "control" if name == "manager.tpd":
                spawn(self._manage(incoming), name="manager")
            case "control":
                spawn(self._serve_agent(incoming), name="agent")
            case "dial":
                target = (request.dial.host, request.dial.port)
                self.dialled.append((name, *target))
                if target in self.services:
                    spawn(self.services[target](incoming.accept()), name="service")
                else:
                    incoming.reject(RejectCode.REFUSED, "nothing listens there")
            case "files" if self.serve_files is not None:
                spawn(self.serve_files(incoming, request.files.volume), name="files")
            case kind:
                incoming.reject(RejectCode.UNSUPPORTED, f"{kind}")

    async def _manage(self, incoming: Incoming) -> None:
        talk = MessageStream(incoming.accept())
        assert await talk.receive(DaemonToManager) is not None
        await talk.send(ManagerToDaemon(cluster=self.info))
        self.managers.put_nowait(talk)

    async def _serve_agent(self, incoming: Incoming) -> None:
        talk = MessageStream(incoming.accept())
        agent = Agent(incoming.link, talk)
        with contextlib.suppress(NetworkError):
            while (message := await talk.receive(DaemonToAgent)) is not None:
                await self._answer(agent, message)

    async def _answer(self, agent: Agent, message: DaemonToAgent) -> None:
        match message.WhichOneof("message"):
            case "grant":
                agent.grants.append(message.grant.grant)
                if self.refuse is not None:
                    refused = Refused(attachment=ATTACHMENT, problem=self.refuse)
                    await agent.talk.send(AgentToDaemon(refused=refused))
                elif len(agent.grants) == 1:
                    welcome = AgentWelcome(
                        attachment=ATTACHMENT,
                        environment={"DB": "postgres"},
                        environment_source=AgentWelcome.PROCESS,
                    )
                    await agent.talk.send(AgentToDaemon(welcome=welcome))
            case "engage":
                await agent.talk.send(AgentToDaemon(engaged=Engaged(attachment=ATTACHMENT, existing=2)))
                agent.engaged.set()
                self.agents.put_nowait(agent)
            case "disengage":
                agent.disengaged = message.disengage.drain
                await agent.talk.send(AgentToDaemon(disengaged=Disengaged(attachment=ATTACHMENT)))


async def _server_name(sock: socket.socket) -> str:
    loop = asyncio.get_running_loop()
    while True:
        ready = asyncio.Event()
        loop.add_reader(sock, ready.set)
        await ready.wait()
        loop.remove_reader(sock)
        name = SniReader().feed(sock.recv(16384, socket.MSG_PEEK))
        if name is not None:
            return name
