"""DNS at the captured address, asked from the app's namespace."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import dns.message
import dns.rcode
import dns.rrset
import pytest

from tests.net.daemon.laptop import HOST, RESOLVER, Laptop, deadline
from tpd_core.proto.control_pb2 import Empty

pytestmark = pytest.mark.net

ORDERS = "orders.shop.svc.cluster.local"


class World(asyncio.DatagramProtocol):
    """The upstream resolver: knows example.org."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        self.asked.append(name)
        reply = dns.message.make_response(query)
        if name == "example.org":
            reply.answer = [dns.rrset.from_text(question.name, 60, "IN", "A", "192.0.2.80")]
        else:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        cast("asyncio.DatagramTransport", self.transport).sendto(reply.to_wire(), addr)


@pytest.fixture
async def laptop(tmp_path: Path) -> AsyncIterator[Laptop]:
    async with Laptop.running(tmp_path) as running:
        running.cluster.names.records[ORDERS] = ["10.96.4.4"]
        running.cluster.names.records["db-0.db.shop.svc.cluster.local"] = ["10.244.0.5"]
        running.cluster.names.records["7.0.244.10.in-addr.arpa"] = []
        yield running


@pytest.fixture
async def world(laptop: Laptop) -> AsyncIterator[World]:
    with laptop.host.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((HOST, 53))
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(World, sock=sock)
    yield protocol
    transport.close()


async def ask(laptop: Laptop, name: str, kind: str = "A") -> tuple[str, list[str]]:
    """The code and what the answer says, name first."""
    reply = dns.message.from_wire(await laptop.ask_udp(dns.message.make_query(name, kind).to_wire()))
    return dns.rcode.to_text(reply.rcode()), [
        f"{rrset.name.to_text(omit_final_dot=True).lower()} {record.to_text()}"
        for rrset in reply.answer
        for record in rrset
    ]


async def test_before_a_session_every_answer_is_a_failure_at_once(laptop: Laptop) -> None:
    async with deadline(1):
        assert await ask(laptop, "orders") == ("SERVFAIL", [])
        assert await ask(laptop, "example.org") == ("SERVFAIL", [])


@pytest.mark.parametrize("name", ["orders", "orders.shop", "orders.shop.svc", ORDERS, "Orders.Shop"])
async def test_short_names_are_the_clusters_under_the_name_asked(laptop: Laptop, world: World, name: str) -> None:
    await laptop.connect()
    assert await ask(laptop, name) == ("NOERROR", [f"{name.lower()} 10.96.4.4"])
    assert await ask(laptop, name, "AAAA") == ("NOERROR", [])
    assert world.asked == []


async def test_pods_and_addresses_have_names(laptop: Laptop) -> None:
    await laptop.connect()
    assert await ask(laptop, "db-0.db") == ("NOERROR", ["db-0.db 10.244.0.5"])
    assert await ask(laptop, "7.0.244.10.in-addr.arpa", "PTR") == ("NOERROR", [])
    assert laptop.cluster.names.asked[-1] == ("7.0.244.10.in-addr.arpa", "PTR")


async def test_the_rest_is_the_worlds(laptop: Laptop, world: World) -> None:
    await laptop.connect()
    assert await ask(laptop, "example.org") == ("NOERROR", ["example.org 192.0.2.80"])
    assert await ask(laptop, "nowhere.example.org") == ("NXDOMAIN", [])
    assert (await ask(laptop, "nothing"))[0] == "NXDOMAIN"
    assert world.asked == ["example.org", "nowhere.example.org", "nothing"]


async def test_an_answer_is_asked_for_once(laptop: Laptop) -> None:
    await laptop.connect()
    await asyncio.gather(*(ask(laptop, "orders") for _ in range(50)))
    await ask(laptop, "orders", "AAAA")
    assert laptop.cluster.names.asked == [(ORDERS, "A")]


async def test_compose_names_never_reach_the_cluster_and_remote_names_always_do(laptop: Laptop, world: World) -> None:
    laptop.cluster.names.records["orders.local.shop.svc.cluster.local"] = ["10.96.4.5"]
    await laptop.connect(local_names=["Orders"], remote_names=["orders.local"])
    assert await ask(laptop, "orders") == ("NXDOMAIN", [])
    assert world.asked == ["orders"]
    assert await ask(laptop, "orders.local") == ("NOERROR", ["orders.local 10.96.4.5"])


async def test_the_app_may_own_port_53(laptop: Laptop) -> None:
    with laptop.app_socket(socket.SOCK_DGRAM) as datagrams, laptop.listen("0.0.0.0", 53):
        datagrams.bind(("0.0.0.0", 53))
        await laptop.connect()
        assert await ask(laptop, "orders") == ("NOERROR", ["orders 10.96.4.4"])
        with await laptop.dial(RESOLVER, 53) as sock:
            wire = dns.message.make_query("orders", "A").to_wire()
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, len(wire).to_bytes(2, "big") + wire)
            async with deadline():
                reply = dns.message.from_wire((await loop.sock_recv(sock, 65535))[2:])
        assert reply.answer[0][0].to_text() == "10.96.4.4"


async def test_a_large_answer_is_cut_for_udp_and_whole_for_tcp(laptop: Laptop) -> None:
    addresses = [f"10.244.1.{number}" for number in range(1, 101)]
    laptop.cluster.names.records["all.shop.svc.cluster.local"] = addresses
    await laptop.connect()
    query = dns.message.make_query("all", "A")
    short = dns.message.from_wire(await laptop.ask_udp(query.to_wire()))
    assert short.flags & dns.flags.TC
    with await laptop.dial(RESOLVER, 53) as sock:
        wire = query.to_wire()
        reader, writer = await asyncio.open_connection(sock=sock)
        writer.write(len(wire).to_bytes(2, "big") + wire)
        async with deadline():
            size = int.from_bytes(await reader.readexactly(2), "big")
            reply = dns.message.from_wire(await reader.readexactly(size))
        writer.close()
    assert len(reply.answer[0]) == len(addresses)


async def test_without_a_link_a_cluster_name_fails_and_the_world_still_answers(laptop: Laptop, world: World) -> None:
    await laptop.connect()
    await ask(laptop, "orders.shop")
    await laptop.cluster.close()
    await laptop.state(lambda state: not state.connected)
    assert await ask(laptop, "inventory") == ("SERVFAIL", [])
    assert await ask(laptop, "inventory.shop.svc") == ("SERVFAIL", [])
    assert await ask(laptop, "example.org") == ("NOERROR", ["example.org 192.0.2.80"])
    assert "inventory" not in world.asked
    await laptop.stub.Disconnect(Empty())
    assert await ask(laptop, "orders") == ("SERVFAIL", [])
