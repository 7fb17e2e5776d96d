"""Transparent sockets and local routes between a caller's namespace and an app's."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator

import pytest

from tests.net.linux_namespaces import Namespace, connect
from tpd_core.linux.netns import has_address
from tpd_core.linux.nft import OwnedTable
from tpd_core.linux.routes import RouteError, ensure_local_route, remove_local_route
from tpd_core.linux.sockets import (
    connect_from,
    original_destination,
    receive_with_destination,
    transparent_tcp_listener,
    transparent_udp_socket,
    transparent_udp_source,
)

pytestmark = pytest.mark.net
HOST, CALLER = "10.99.0.1", "10.99.0.2"


@pytest.fixture
def caller() -> Iterator[Namespace]:
    """The test's thread is in the host's namespace; the caller's is returned."""
    host, caller = Namespace("host"), Namespace("caller")
    connect(host, f"{HOST}/24", caller, f"{CALLER}/24")
    caller.ip("route", "add", "default", "via", HOST)
    with host.entered():
        yield caller
    host.delete()
    caller.delete()


def tcp_socket() -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    return sock


async def test_tproxy_takes_tcp_and_tells_the_destination(caller: Namespace) -> None:
    loop = asyncio.get_running_loop()
    ensure_local_route("10.96.0.0/16", HOST)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(transparent_tcp_listener("127.0.0.1"))
        port = listener.getsockname()[1]
        body = f"""chain pre {{ type filter hook prerouting priority mangle;
            ip daddr 10.96.0.0/16 meta l4proto tcp tproxy ip to 127.0.0.1:{port} accept; }}"""
        stack.enter_context(OwnedTable("tpd_t", body))
        # From another host and from this one: both are taken.
        for where in (caller.entered(), contextlib.nullcontext()):
            with where:
                client = stack.enter_context(tcp_socket())
            async with asyncio.timeout(5):
                await loop.sock_connect(client, ("10.96.3.4", 8080))
                accepted, peer = await loop.sock_accept(listener)
            stack.enter_context(accepted)
            assert original_destination(accepted) == ("10.96.3.4", 8080)
            assert peer == client.getsockname()
        assert peer[0] == HOST


async def test_tproxy_takes_udp_and_answers_from_the_destination(caller: Namespace) -> None:
    loop = asyncio.get_running_loop()
    ensure_local_route("198.18.0.0/16")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(transparent_udp_socket("127.0.0.1"))
        port = server.getsockname()[1]
        body = f"""chain pre {{ type filter hook prerouting priority mangle;
            ip daddr 198.18.0.53 udp dport 53 tproxy ip to 127.0.0.1:{port} accept; }}"""
        stack.enter_context(OwnedTable("tpd_t", body))
        with caller.entered():
            client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.setblocking(False)
        client.connect(("198.18.0.53", 53))
        client.send(b"question")
        readable = asyncio.Event()
        loop.add_reader(server, readable.set)
        async with asyncio.timeout(5):
            await readable.wait()
        loop.remove_reader(server)
        data, source, destination = receive_with_destination(server)
        assert (data, source, destination) == (b"question", client.getsockname(), ("198.18.0.53", 53))
        with pytest.raises(BlockingIOError):
            receive_with_destination(server)
        with transparent_udp_source(destination) as answer:
            answer.sendto(b"answer", source)
        async with asyncio.timeout(5):
            assert await loop.sock_recv(client, 100) == b"answer"


@pytest.mark.usefixtures("caller")
async def test_connect_from_an_address_made_local() -> None:
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        for host in ("127.0.0.1", HOST):
            listener = stack.enter_context(tcp_socket())
            listener.bind((host, 0))
            listener.listen()
            target = listener.getsockname()
            with pytest.raises(OSError, match="assign requested address") as caught:
                await connect_from(("10.244.3.9", 0), target, timeout=5)
            assert caught.value.errno == errno.EADDRNOTAVAIL
            ensure_local_route("10.244.0.0/16", HOST)
            for port in (0, 4321, 4321):  # the second 4321 is taken and given up for another port
                sock = stack.enter_context(await connect_from(("10.244.3.9", port), target, timeout=5))
                accepted, peer = await loop.sock_accept(listener)
                stack.enter_context(accepted)
                assert peer == sock.getsockname()
                assert peer[0] == "10.244.3.9"
            with pytest.raises(ConnectionRefusedError):
                await connect_from(("10.244.3.9", 0), (host, 9), timeout=5)
            remove_local_route("10.244.0.0/16")
            remove_local_route("10.244.0.0/16")


async def test_ipv6_routes_and_sockets(caller: Namespace) -> None:
    del caller
    loop = asyncio.get_running_loop()
    ensure_local_route("fd00:10::/64")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(transparent_tcp_listener("::1"))
        client = stack.enter_context(
            await connect_from(("fd00:10::9", 0), listener.getsockname()[:2], timeout=5, transparent=True)
        )
        accepted, peer = await loop.sock_accept(listener)
        stack.enter_context(accepted)
        assert peer[:2] == client.getsockname()[:2]
        assert peer[0] == "fd00:10::9"
        assert original_destination(accepted)[0] == "::1"
    remove_local_route("fd00:10::/64")


@pytest.mark.usefixtures("caller")
def test_errors_name_the_route() -> None:
    with pytest.raises(RouteError, match=r"10\.96\.0\.0/16 \(source 10\.1\.1\.1\)"):
        ensure_local_route("10.96.0.0/16", "10.1.1.1")
    with pytest.raises(ValueError, match="host bits"):
        ensure_local_route("10.96.0.1/16")


@pytest.mark.usefixtures("caller")
def test_has_address() -> None:
    assert has_address(HOST)
    assert not has_address(CALLER)
