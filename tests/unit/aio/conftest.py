"""Links over a socket pair, on every loop that the product runs on."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiofastnet
import pytest
import pytest_asyncio
import trustme
import uvloop

from tpd_core.aio.link import Link
from tpd_core.aio.loop import is_hangup
from tpd_core.aio.stream import Incoming, Stream
from tpd_core.aio.tls import client_context, server_context

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
    "aiofastnet": aiofastnet.loop_factory(uvloop.new_event_loop),
}
SERVER = "manager.tpd"
DEADLINE = 20.0
MakePair = Callable[..., Awaitable[tuple[Link, Link]]]


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test of this directory runs on each of them."""
    return LOOPS


@pytest_asyncio.fixture(autouse=True)
async def nothing_left_over() -> AsyncIterator[None]:
    """Nothing here may log an exception of the loop, or leave a task behind."""
    loop = asyncio.get_running_loop()
    problems: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: None if is_hangup(context) else problems.append(context))
    yield
    assert not problems
    await until(lambda: asyncio.all_tasks() <= {asyncio.current_task()})


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


def pem(cert: trustme.LeafCert) -> tuple[bytes, bytes]:
    chain = b"".join(blob.bytes() for blob in cert.cert_chain_pems)
    return chain, cert.private_key_pem.bytes()


@pytest.fixture(scope="session")
def server_tls(ca: trustme.CA) -> ssl.SSLContext:
    return server_context(*pem(ca.issue_cert(SERVER, key_type=trustme.KeyType.ECDSA)), ca.cert_pem.bytes())


@pytest.fixture(scope="session")
def client_tls(ca: trustme.CA) -> ssl.SSLContext:
    cert = ca.issue_cert("session.tpd", key_type=trustme.KeyType.ECDSA)
    return client_context(ca.cert_pem.bytes(), *pem(cert))


def refuse(incoming: Incoming) -> None:
    incoming.reject(5, "nobody is here")


def socket_pair() -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


async def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection on loopback."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        near = socket.socket()
        near.setblocking(False)
        await loop.sock_connect(near, listener.getsockname())
        far, _ = await loop.sock_accept(listener)
    far.setblocking(False)
    return near, far


@pytest_asyncio.fixture
async def make_pair(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> AsyncIterator[MakePair]:
    """Makes (connecting, accepting) links; closes them in the end."""
    made: list[Link] = []

    async def make(
        on_open: Callable[[Incoming], None] = refuse,
        near_open: Callable[[Incoming], None] = refuse,
        *,
        tcp: bool = False,
        **options: Any,
    ) -> tuple[Link, Link]:
        near, far = await tcp_pair() if tcp else socket_pair()
        async with asyncio.TaskGroup() as group:
            a = group.create_task(
                Link.connect(near, tls=client_tls, server_hostname=SERVER, on_open=near_open, **options)
            )
            b = group.create_task(Link.accept(far, tls=server_tls, on_open=on_open, **options))
        made.extend((a.result(), b.result()))
        return a.result(), b.result()

    yield make
    for link in made:
        await link.aclose()


class Accepting:
    """An `on_open` that accepts everything and queues the streams."""

    def __init__(self) -> None:
        self.streams: asyncio.Queue[Stream] = asyncio.Queue()

    def __call__(self, incoming: Incoming) -> None:
        self.streams.put_nowait(incoming.accept())


@asynccontextmanager
async def serving(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A TCP server on loopback; its port."""
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def connected(port: int) -> socket.socket:
    """A non-blocking socket that is connected to a local port."""
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return sock


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that other callbacks of this loop bring about."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - it is a condition, not an event
            await asyncio.sleep(0.001)
