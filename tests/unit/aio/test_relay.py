"""The bare relay between two sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

import pytest

from tests.unit.aio.conftest import DEADLINE, socket_pair, tcp_pair
from tpd_core.aio.relay import RelayResult, relay


async def receive_all(sock: socket.socket) -> bytes:
    got = bytearray()
    while data := await asyncio.get_running_loop().sock_recv(sock, 65536):
        got += data
    return bytes(got)


@pytest.mark.parametrize("unix", [False, True])
async def test_both_directions_with_half_close(unix: bool) -> None:
    loop = asyncio.get_running_loop()
    caller, a = await tcp_pair()
    b, server = socket_pair() if unix else await tcp_pair()
    there, back = os.urandom(3_000_000), os.urandom(2_000_000)
    with caller, server:
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            task = group.create_task(relay(a, b, head=there[:70_000]))
            at_server = group.create_task(receive_all(server))
            await loop.sock_sendall(caller, there[70_000:])
            caller.shutdown(socket.SHUT_WR)
            await asyncio.wait([at_server])
            at_caller = group.create_task(receive_all(caller))
            await loop.sock_sendall(server, back)
            server.shutdown(socket.SHUT_WR)
    assert at_server.result() == there
    assert at_caller.result() == back
    assert task.result() == RelayResult(len(there), len(back), reset=False)
    assert a.fileno() == b.fileno() == -1


async def test_a_reset_is_passed_on() -> None:
    loop = asyncio.get_running_loop()
    caller, a = await tcp_pair()
    b, server = await tcp_pair()
    with server:
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            task = group.create_task(relay(a, b))
            await loop.sock_sendall(caller, b"x")
            assert await loop.sock_recv(server, 10) == b"x"
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            caller.close()
            with pytest.raises(ConnectionResetError):
                await loop.sock_recv(server, 10)
    assert task.result() == RelayResult(1, 0, reset=True)


async def test_cancelling_closes_both() -> None:
    loop = asyncio.get_running_loop()
    caller, a = await tcp_pair()
    b, server = await tcp_pair()
    with caller, server:
        task = loop.create_task(relay(a, b))
        await loop.sock_sendall(caller, b"x")
        assert await loop.sock_recv(server, 10) == b"x"
        task.cancel()
        for sock in (caller, server):
            with pytest.raises(ConnectionResetError):
                await loop.sock_recv(sock, 10)
        assert task.cancelled()


async def test_a_stalled_reader_stops_the_sender() -> None:
    loop = asyncio.get_running_loop()
    caller, a = await tcp_pair()
    b, server = await tcp_pair()
    data = bytes(32 << 20)
    with caller, server:
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            task = group.create_task(relay(a, b))
            sending = group.create_task(loop.sock_sendall(caller, data))
            done, _ = await asyncio.wait([sending], timeout=0.2)
            assert not done, "32 MiB do not fit into the kernel's buffers: something here piles them up"
            receiving = group.create_task(receive_all(server))
            await sending
            caller.shutdown(socket.SHUT_WR)
            server.shutdown(socket.SHUT_WR)
        assert len(receiving.result()) == task.result().forward == len(data)
