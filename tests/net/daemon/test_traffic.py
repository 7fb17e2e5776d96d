"""What the app sends to the cluster, and who calls it from there."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.net.daemon.cluster import attachment_state
from tests.net.daemon.laptop import CONTAINER, Laptop, deadline, receive_all
from tpd_core.aio.errors import StreamRejected
from tpd_core.aio.stream import Stream
from tpd_core.wire.frames import RejectCode

pytestmark = pytest.mark.net


@pytest.fixture
async def laptop(tmp_path: Path) -> AsyncIterator[Laptop]:
    async with Laptop.running(tmp_path) as running:
        yield running


async def echo(stream: Stream) -> None:
    while data := await stream.read():
        await stream.write(data)
    stream.write_eof()


async def test_a_connection_to_a_service_is_carried_both_ways(laptop: Laptop) -> None:
    laptop.cluster.services[("10.96.7.7", 80)] = echo
    await laptop.connect()
    loop = asyncio.get_running_loop()
    with await laptop.dial("10.96.7.7", 80) as sock:
        assert sock.getsockname()[0] == CONTAINER
        payload = bytes(range(256)) * 4096
        sending = asyncio.gather(loop.sock_sendall(sock, payload), return_exceptions=True)
        received = b""
        async with deadline():
            while len(received) < len(payload):
                received += await loop.sock_recv(sock, 1 << 16)
        await sending
        assert received == payload
        sock.shutdown(socket.SHUT_WR)
        assert await receive_all(sock) == b""


async def test_what_is_refused_in_the_cluster_is_reset_here(laptop: Laptop) -> None:
    await laptop.connect()
    with await laptop.dial("10.96.7.7", 81) as sock, pytest.raises(ConnectionResetError):
        await receive_all(sock)


async def test_udp_is_refused_and_a_ping_gets_no_answer(laptop: Laptop) -> None:
    await laptop.connect()
    with laptop.app_socket(socket.SOCK_DGRAM) as sock:
        sock.connect(("10.96.7.7", 123))
        sock.send(b"what time is it")
        async with deadline():
            with pytest.raises(ConnectionRefusedError):
                await asyncio.get_running_loop().sock_recv(sock, 10)
    argv = ["ip", "netns", "exec", laptop.space.name, "ping", "-c1", "-W1", "10.96.7.7"]
    ping = await asyncio.to_thread(subprocess.run, argv, capture_output=True, check=False)
    assert b" 0 received" in ping.stdout


async def test_the_app_sees_the_caller_of_the_pod(laptop: Laptop) -> None:
    await laptop.connect()
    reply = await laptop.attach(attachment_state())
    assert dict(reply.environment) == {"DB": "postgres"}
    assert reply.attachment.engaged
    assert reply.attachment.pods[0].existing == 2
    agent = await laptop.cluster.agents.get()
    loop = asyncio.get_running_loop()
    for host in ("127.0.0.1", "0.0.0.0", CONTAINER):
        with laptop.listen(host) as listener:
            async with deadline():
                calling = asyncio.gather(agent.call(source=("10.244.3.9", 40001)))
                sock, peer = await loop.sock_accept(listener)
                (stream,) = await calling
            assert peer[0] == "10.244.3.9"
            await stream.write(b"GET / HTTP/1.1\r\n\r\n")
            assert await loop.sock_recv(sock, 100) == b"GET / HTTP/1.1\r\n\r\n"
            await loop.sock_sendall(sock, b"hello")
            sock.close()
            assert await stream.read() == b"hello"
            assert await stream.read() == b""


async def test_a_caller_whose_address_is_not_the_clusters_is_served_too(laptop: Laptop) -> None:
    await laptop.connect()
    await laptop.attach(attachment_state())
    agent = await laptop.cluster.agents.get()
    with laptop.listen() as listener:
        async with deadline():
            calling = asyncio.gather(agent.call(source=("203.0.113.7", 40001)))
            sock, peer = await asyncio.get_running_loop().sock_accept(listener)
            await calling
        assert peer[0] == CONTAINER, "a stranger must not look like a program beside the app"
        sock.close()


async def test_a_caller_is_refused_while_nothing_listens(laptop: Laptop) -> None:
    await laptop.connect()
    await laptop.attach(attachment_state(local_port=9999))
    agent = await laptop.cluster.agents.get()
    with pytest.raises(StreamRejected) as refused:
        await agent.call()
    assert refused.value.code == RejectCode.REFUSED
    with pytest.raises(StreamRejected) as denied:
        await agent.call(port=22)
    assert denied.value.code == RejectCode.DENIED


async def test_dialling_prefers_the_attached_pod(laptop: Laptop) -> None:
    laptop.cluster.services[("10.96.7.7", 80)] = echo
    await laptop.connect()
    (await laptop.dial("10.96.7.7", 80)).close()
    await laptop.attach(attachment_state())
    (await laptop.dial("10.96.7.7", 80)).close()
    await laptop.state(lambda _: len(laptop.cluster.dialled) == 2)
    assert [name.split(".")[1] for name, _, _ in laptop.cluster.dialled] == ["tpd", "agent"]


async def test_links_come_back_and_engage_again(laptop: Laptop) -> None:
    laptop.cluster.services[("10.96.7.7", 80)] = echo
    await laptop.connect()
    await laptop.attach(attachment_state())
    async with deadline():
        await laptop.cluster.agents.get()
        laptop.cluster.cut()
        await laptop.state(lambda state: not state.connected)
        again = await laptop.cluster.agents.get()
        assert again.grants == [b"first"]
    await laptop.state(lambda state: state.connected and state.attachments[0].engaged)
    loop = asyncio.get_running_loop()
    with await laptop.dial("10.96.7.7", 80) as sock:
        await loop.sock_sendall(sock, b"still there")
        assert await loop.sock_recv(sock, 100) == b"still there"


async def test_connections_outlive_a_lost_transport(laptop: Laptop) -> None:
    laptop.cluster.services[("10.96.7.7", 80)] = echo
    await laptop.connect()
    await laptop.attach(attachment_state())
    agent = await laptop.cluster.agents.get()
    loop = asyncio.get_running_loop()
    with laptop.listen() as listener, await laptop.dial("10.96.7.7", 80) as dialled:
        async with deadline():
            calling = asyncio.gather(agent.call())
            taken, _ = await loop.sock_accept(listener)
            (stream,) = await calling
            laptop.cluster.lose()
            await loop.sock_sendall(dialled, b"out")
            await loop.sock_sendall(taken, b"in")
            assert await loop.sock_recv(dialled, 100) == b"out"
            assert await stream.read() == b"in"
        taken.close()
    assert laptop.cluster.agents.empty()
