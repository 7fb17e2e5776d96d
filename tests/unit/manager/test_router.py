"""The router over real sockets: it looks, and leaves everything for whoever is meant."""

from __future__ import annotations

import asyncio
import datetime
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.unit.kube.fakeapi import FakeApi
from tests.unit.manager import samples
from tpd_cluster.manager import pki
from tpd_cluster.manager.model import AgentRecord
from tpd_cluster.manager.router import Router, peek_server_name
from tpd_core.aio.tasks import cancel_and_wait, spawn
from tpd_core.aio.tls import client_context, server_context
from tpd_core.wire.errors import RemoteProtocolError

NOW = datetime.datetime.now(datetime.UTC)
CA = pki.Authority.create(NOW)
POD = "/api/v1/namespaces/shop/pods/orders-1-a"
DEADLINE = 10


def hello(name: str) -> bytes:
    """A ClientHello as OpenSSL writes it."""
    out = ssl.MemoryBIO()
    client = client_context(CA.pem).wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    right.setblocking(False)
    left.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return left, right


async def test_a_hello_in_pieces_is_read_and_left_where_it_was() -> None:
    data = hello("abc.agent.tpd")
    left, right = pair()
    with left, right:
        task = spawn(peek_server_name(right), name="peek")
        for index in range(0, len(data), 100):
            left.sendall(data[index : index + 100])
            await asyncio.sleep(0)
        assert await asyncio.wait_for(task, DEADLINE) == "abc.agent.tpd"
        assert right.recv(65536) == data


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", hello("x.tpd")[:50], b""], ids=["http", "half", "nothing"])
async def test_what_is_no_hello_ends(data: bytes) -> None:
    left, right = pair()
    with right:
        left.sendall(data)
        left.close()
        with pytest.raises((RemoteProtocolError, OSError)):
            await asyncio.wait_for(peek_server_name(right), DEADLINE)


class Agent:
    """A TLS server under an agent's name that echoes one line."""

    def __init__(self, uid: str) -> None:
        key = pki.new_key()
        certificate = CA.issue_agent(key.public_key(), uid, NOW).pem
        self.tls = server_context(certificate, pki.key_to_pem(key), None)
        self.port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"agent " + await reader.readline())
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=self.tls)
        async with server:
            self.port = server.sockets[0].getsockname()[1]
            yield


@asynccontextmanager
async def routing(agents: dict[str, AgentRecord], pod: dict[str, object]) -> AsyncIterator[tuple[int, list[str]]]:
    """A router, its port, and the names that reached the manager itself."""
    served: list[str] = []

    async def own(sock: socket.socket) -> None:
        served.append("manager.tpd")
        sock.close()

    async with FakeApi() as fake, fake.client() as client:
        fake.put(POD, pod, uid="pod-1")
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        router = Router({"manager.tpd": own}, lambda: agents, client)
        task = spawn(router.run(listener), name="router")
        try:
            yield listener.getsockname()[1], served
        finally:
            await cancel_and_wait(task)
            await router.drain(0.1)


async def ask(port: int, name: str) -> bytes:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=client_context(CA.pem), server_hostname=name, ssl_handshake_timeout=DEADLINE
    )
    writer.write(b"hello\n")
    answer = await asyncio.wait_for(reader.read(), DEADLINE)
    writer.close()
    await writer.wait_closed()
    return answer


async def test_an_agents_name_leads_to_the_agent_unopened() -> None:
    agent = Agent("pod-1")
    async with agent.running():
        known = {"pod-1": samples.record(ip="127.0.0.1", port=agent.port)}
        async with routing(known, samples.pod(podIP="127.0.0.1")) as (port, _):
            assert await ask(port, "pod-1.agent.tpd") == b"agent hello\n"
            assert await ask(port, "POD-1.agent.tpd") == b"agent hello\n"


@pytest.mark.parametrize("why", ["unknown", "address used by another pod", "nobody listens", "strange name"])
async def test_connections_that_lead_nowhere_are_closed(why: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    agent = Agent("pod-1")
    async with agent.running():
        number = 1 if why == "nobody listens" else agent.port
        known = {} if why == "unknown" else {"pod-1": samples.record(ip="127.0.0.1", port=number)}
        address = "127.0.0.2" if why == "address used by another pod" else "127.0.0.1"
        name = "example.com" if why == "strange name" else "pod-1.agent.tpd"
        async with routing(known, samples.pod(podIP=address)) as (port, _):
            with pytest.raises((OSError, ssl.SSLError)):
                await ask(port, name)
    assert not [entry for entry in caplog.records if entry.levelno >= logging.ERROR]


async def test_the_managers_own_name_ends_here() -> None:
    async with routing({}, samples.pod()) as (port, served):
        with pytest.raises((OSError, ssl.SSLError)):
            await ask(port, "manager.tpd")
        assert served == ["manager.tpd"]
