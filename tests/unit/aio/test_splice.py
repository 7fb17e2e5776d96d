"""The fast path between a stream and a real socket: bytes, half-closes and resets in both directions."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.unit.aio.conftest import DEADLINE, Accepting, MakePair, connected, serving, tcp_pair, until
from tpd_core.aio.errors import StreamReset
from tpd_core.aio.link import Link
from tpd_core.aio.splice import SpliceResult
from tpd_core.aio.stream import Incoming, Stream
from tpd_core.wire.frames import MAX_WINDOW, MIN_WINDOW

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


class Chain:
    """A socket of a caller, spliced to a stream, whose far end is spliced to a connection to a real server."""

    def __init__(self, caller: socket.socket, near: Stream, far: Stream) -> None:
        self.caller, self.near, self.far = caller, near, far
        self.results: list[asyncio.Task[SpliceResult]] = []


@asynccontextmanager
async def chain(make_pair: MakePair, handler: Handler, *, head: bytes = b"") -> AsyncIterator[Chain]:
    accepting = Accepting()
    near, _ = await make_pair(accepting)
    async with serving(handler) as port, asyncio.TaskGroup() as group:
        caller, accepted = await tcp_pair()
        stream = await near.open(b"")
        other = await accepting.streams.get()
        made = Chain(caller, stream, other)
        made.results.append(group.create_task(stream.splice(accepted, head=head)))
        made.results.append(group.create_task(other.splice(await connected(port))))
        with caller:
            async with asyncio.timeout(DEADLINE):
                yield made
                await asyncio.wait(made.results)


async def receive_all(sock: socket.socket) -> bytes:
    got = bytearray()
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(sock, 65536):
        got += data
    return bytes(got)


def cut(sock: socket.socket) -> None:
    """Close with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def test_echo_with_half_close(make_pair: MakePair) -> None:
    loop = asyncio.get_running_loop()
    async with chain(make_pair, echo, head=b"read already, ") as made:
        await loop.sock_sendall(made.caller, b"then this")
        made.caller.shutdown(socket.SHUT_WR)
        assert await receive_all(made.caller) == b"read already, then this"
    near, far = (task.result() for task in made.results)
    assert near == SpliceResult(23, 23, reset=False)
    assert far == SpliceResult(23, 23, reset=False)
    assert made.near.over
    assert not made.near.link.mux.streams
    assert not made.far.link.mux.streams


async def test_server_that_speaks_and_closes_first(make_pair: MakePair) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b"bye"
        writer.close()

    loop = asyncio.get_running_loop()
    async with chain(make_pair, greet) as made:
        assert await receive_all(made.caller) == b"hello"
        await loop.sock_sendall(made.caller, b"bye")
        made.caller.shutdown(socket.SHUT_WR)
    assert [task.result().reset for task in made.results] == [False, False]


async def test_thirty_mebibytes_there_and_back(make_pair: MakePair) -> None:
    loop = asyncio.get_running_loop()
    data = os.urandom(30 << 20)
    async with chain(make_pair, echo, head=data[:100_000]) as made, asyncio.TaskGroup() as group:
        received = group.create_task(receive_all(made.caller))
        await loop.sock_sendall(made.caller, data[100_000:])
        made.caller.shutdown(socket.SHUT_WR)
    assert hashlib.sha256(received.result()).digest() == hashlib.sha256(data).digest()
    assert made.results[0].result() == SpliceResult(len(data), len(data), reset=False)


async def test_caller_that_cuts_the_connection(make_pair: MakePair) -> None:
    broken = asyncio.get_running_loop().create_future()

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        except ConnectionResetError:
            broken.set_result(True)
        finally:
            writer.transport.abort()

    async with chain(make_pair, watch) as made:
        await asyncio.get_running_loop().sock_sendall(made.caller, b"x")
        await until(lambda: made.far.received == 1)
        cut(made.caller)
        assert await broken
    assert [task.result().reset for task in made.results] == [True, True]


async def test_server_that_cuts_the_connection(make_pair: MakePair) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    loop = asyncio.get_running_loop()
    async with chain(make_pair, hang_up) as made:
        await loop.sock_sendall(made.caller, b"x")
        with pytest.raises(ConnectionResetError):
            await loop.sock_recv(made.caller, 10)
    assert [task.result().reset for task in made.results] == [True, True]


async def test_early_answer_of_a_server_that_stops_reading_arrives(make_pair: MakePair) -> None:
    async def too_large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"413")
        await writer.drain()
        writer.close()  # with unread bytes: the kernel sends RST

    loop = asyncio.get_running_loop()
    async with chain(make_pair, too_large) as made:
        sending = loop.create_task(loop.sock_sendall(made.caller, bytes(20 << 20)))
        assert await loop.sock_recv(made.caller, 3) == b"413"
        await asyncio.wait([sending])
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            sending.result()


async def test_peer_resets_the_stream(make_pair: MakePair) -> None:
    accepting = Accepting()
    near, _ = await make_pair(accepting)
    caller, accepted = await tcp_pair()
    with caller:
        stream = await near.open(b"")
        other = await accepting.streams.get()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(stream.splice(accepted))
            other.reset()
        assert task.result().reset
        with pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().sock_recv(caller, 10)


async def test_cancelling_cuts_both_sides(make_pair: MakePair) -> None:
    accepting = Accepting()
    near, _ = await make_pair(accepting)
    caller, accepted = await tcp_pair()
    with caller:
        stream = await near.open(b"")
        other = await accepting.streams.get()
        task = asyncio.get_running_loop().create_task(stream.splice(accepted))
        await asyncio.get_running_loop().sock_sendall(caller, b"x")
        assert await other.read() == b"x"
        task.cancel()
        with pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().sock_recv(caller, 10)
        with pytest.raises(StreamReset):
            await other.read()
        assert task.cancelled()


async def test_lost_link_cuts_the_socket(make_pair: MakePair) -> None:
    accepting = Accepting()
    near, far = await make_pair(accepting)
    caller, accepted = await tcp_pair()
    with caller:
        stream = await near.open(b"")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(stream.splice(accepted))
            far.close()
        assert task.result().reset
        with pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().sock_recv(caller, 10)


async def test_bytes_that_came_before_the_splice(make_pair: MakePair) -> None:
    accepting = Accepting()
    near, _ = await make_pair(accepting)
    caller, accepted = await tcp_pair()
    with caller:
        stream = await near.open(b"", head=b"early ")
        other = await accepting.streams.get()
        await stream.write(b"bird")
        stream.write_eof()
        await until(lambda: other.received == 10)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(other.splice(accepted))
            assert await receive_all(caller) == b"early bird"
            caller.close()
        assert task.result() == SpliceResult(0, 10, reset=False)
        assert await stream.read() == b""


async def test_slow_reader_next_to_a_fast_one(make_pair: MakePair) -> None:
    accepting = Accepting()
    near, far = await make_pair(accepting)
    loop = asyncio.get_running_loop()

    async def spliced(group: asyncio.TaskGroup) -> tuple[Stream, socket.socket]:
        caller, accepted = await tcp_pair()
        stream = await near.open(b"")
        group.create_task((await accepting.streams.get()).splice(accepted))
        return stream, caller

    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        stalled, never_reads = await spliced(group)
        fast, reads = await spliced(group)
        blocked = loop.create_task(stalled.write(bytes(64 << 20)))
        await until(lambda: sum(other.unread for other in far.mux.streams.values()) >= MIN_WINDOW)
        data = os.urandom(5 << 20)
        received = group.create_task(receive_all(reads))
        await fast.write(data)
        fast.write_eof()
        await asyncio.wait([received])
        assert received.result() == data
        assert MIN_WINDOW <= sum(other.unread for other in far.mux.streams.values()) <= MAX_WINDOW
        assert not blocked.done()
        never_reads.close()
        reads.close()
        await asyncio.wait([blocked])
        assert isinstance(blocked.exception(), StreamReset)


async def test_many_connections(make_pair: MakePair) -> None:
    loop = asyncio.get_running_loop()
    async with serving(echo) as port, asyncio.timeout(60), asyncio.TaskGroup() as group:

        async def deliver(incoming: Incoming) -> None:
            sock = await connected(port)
            await incoming.accept().splice(sock)

        near, far = await make_pair(lambda incoming: void(group.create_task(deliver(incoming))))

        async def call(link: Link, number: int) -> None:
            caller, accepted = await tcp_pair()
            with caller:
                splice = group.create_task((await link.open(b"")).splice(accepted))
                await loop.sock_sendall(caller, b"%d" % number)
                caller.shutdown(socket.SHUT_WR)
                assert await receive_all(caller) == b"%d" % number
            assert not (await splice).reset

        for start in range(0, 300, 50):
            async with asyncio.TaskGroup() as callers:
                for number in range(start, start + 50):
                    callers.create_task(call(near, number))
        await until(lambda: not near.mux.streams and not far.mux.streams)


# -- detaching -----------------------------------------------------------------------------------------------------
async def test_idle_connection_is_ended_in_an_orderly_manner(make_pair: MakePair) -> None:
    loop = asyncio.get_running_loop()
    async with chain(make_pair, echo) as made:
        await loop.sock_sendall(made.caller, b"keep-alive")
        assert await loop.sock_recv(made.caller, 100) == b"keep-alive"
        assert await made.near.finish_when_idle(0.05, 10)
        assert await receive_all(made.caller) == b"", "FIN, not RST"
    assert [task.result().reset for task in made.results] == [False, False]
    await until(lambda: not made.near.link.mux.streams and not made.far.link.mux.streams)


async def test_busy_connection_goes_on_past_the_deadline(make_pair: MakePair) -> None:
    loop = asyncio.get_running_loop()
    async with chain(make_pair, echo) as made:
        ending = loop.create_task(made.near.finish_when_idle(0.1, 0.4))
        while not ending.done():
            await loop.sock_sendall(made.caller, b"x")
            assert await loop.sock_recv(made.caller, 100) == b"x"
            await asyncio.sleep(0.01)
        assert not ending.result()
        assert not made.near.over
        made.caller.shutdown(socket.SHUT_WR)
        assert await receive_all(made.caller) == b""
    assert [task.result().reset for task in made.results] == [False, False]


async def test_a_stuck_connection_is_not_idle(make_pair: MakePair) -> None:
    """What the other side has not taken yet must not be lost by an orderly end."""
    accepting = Accepting()
    near, far = await make_pair(accepting)
    caller, accepted = await tcp_pair()
    with caller:
        stream = await near.open(b"")
        other = await accepting.streams.get()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(other.splice(accepted))
            data = os.urandom(8 << 20)
            sending = group.create_task(stream.write(data))
            await until(lambda: sum(raw.unread for raw in far.mux.streams.values()) >= MIN_WINDOW)
            assert not await other.finish_when_idle(0.05, 0.3)
            received = group.create_task(receive_all(caller))
            await sending
            assert await other.finish_when_idle(0.05, 10)
            assert await received == data
        assert not task.result().reset
        assert await stream.read() == b""
        stream.write_eof()


async def test_a_finished_stream_resets_a_peer_that_goes_on(make_pair: MakePair) -> None:
    accepting = Accepting()
    near, _ = await make_pair(accepting)
    caller, accepted = await tcp_pair()
    with caller:
        stream = await near.open(b"")
        other = await accepting.streams.get()
        async with asyncio.TaskGroup() as group:
            group.create_task(stream.splice(accepted))
            await asyncio.sleep(0)
            assert await stream.finish_when_idle(0, 1)
        assert await other.read() == b""
        await other.write(b"x")
        await until(lambda: other.over)
        with pytest.raises(StreamReset):
            await other.write(b"x")


def void(_value: object) -> None:
    """For handlers that must return nothing."""
