"""Links over a socket pair, on every loop that the product runs on."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiofastnet
import pytest
import pytest_asyncio
import trustme
import uvloop

from tpd_core.aio.link import Link
from tpd_core.aio.stream import Incoming
from tpd_core.aio.tls import client_context, server_context

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
    "aiofastnet": aiofastnet.loop_factory(uvloop.new_event_loop),
}
SERVER = "manager.tpd"
MakePair = Callable[..., Awaitable[tuple[Link, Link]]]


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test of this directory runs on each of them."""
    return LOOPS


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


@pytest_asyncio.fixture
async def make_pair(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> AsyncIterator[MakePair]:
    """Makes (connecting, accepting) links; closes them in the end."""
    made: list[Link] = []

    async def make(
        on_open: Callable[[Incoming], None] = refuse, near_open: Callable[[Incoming], None] = refuse, **options: Any
    ) -> tuple[Link, Link]:
        near, far = socket_pair()
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
