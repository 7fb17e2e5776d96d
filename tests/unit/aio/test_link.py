"""Links end to end over a socket pair: streams, handshake, the ends of a link; one contract, every loop."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import pytest
import trustme

from tests.unit.aio.conftest import DEADLINE, SERVER, Accepting, MakePair, pem, refuse, socket_pair, tcp_pair, until
from tpd_core.aio.errors import LinkClosed, StreamRejected, StreamReset
from tpd_core.aio.link import Link
from tpd_core.aio.loop import start_tls
from tpd_core.aio.stream import Incoming, Stream
from tpd_core.aio.tls import client_context
from tpd_core.wire.errors import LocalProtocolError
from tpd_core.wire.frames import MAX_REQUEST, MIN_WINDOW, OPEN, RejectCode, encode_frame
from tpd_core.wire.hello import Hello


async def read_all(stream: Stream) -> bytes:
    got = bytearray()
    while data := await stream.read():
        got += data
    return bytes(got)


# -- streams -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tcp", [False, True])
async def test_request_and_answer(make_pair: MakePair, tcp: bool) -> None:
    accepting = Accepting()
    near, far = await make_pair(accepting, tcp=tcp)
    assert near.id == far.id
    stream = await near.open(b"hello", head=b"first ")
    other = await accepting.streams.get()
    await stream.write(b"request")
    stream.write_eof()
    assert await read_all(other) == b"first request"
    await other.write(b"answer")
    other.write_eof()
    assert await read_all(stream) == b"answer"
    assert (stream.sent, stream.received, other.sent, other.received) == (13, 6, 6, 13)
    assert stream.over
    assert other.over
    assert not near.mux.streams
    assert not far.mux.streams
    assert near.stats.streams_opened == far.stats.streams_opened == 1
    assert near.stats.bytes_out == far.stats.bytes_in > 13


async def test_accepting_end_may_open_too(make_pair: MakePair) -> None:
    accepting = Accepting()
    _, far = await make_pair(near_open=accepting)
    stream = await far.open(b"")
    other = await accepting.streams.get()
    await other.write(b"x")
    assert await stream.read() == b"x"


async def test_rejected(make_pair: MakePair) -> None:
    near, _ = await make_pair()
    with pytest.raises(StreamRejected, match="nobody is here") as caught:
        await near.open(b"hello")
    assert caught.value.code is not None
    assert caught.value.code == RejectCode.UNSUPPORTED
    assert not near.mux.streams


async def test_request_that_is_too_long(make_pair: MakePair) -> None:
    near, _ = await make_pair()
    with pytest.raises(StreamRejected, match=str(MAX_REQUEST)):
        await near.open(bytes(MAX_REQUEST + 1))


async def test_open_times_out_and_the_peer_learns_it(make_pair: MakePair) -> None:
    waiting: list[Incoming] = []
    near, _ = await make_pair(waiting.append)
    with pytest.raises(TimeoutError):
        await near.open(b"", timeout=0.01)
    await until(lambda: bool(waiting) and waiting[0].cancelled)
    with pytest.raises(StreamReset):
        waiting[0].accept()
    waiting[0].reject(RejectCode.TIMEOUT, "too late to matter")
    assert not near.mux.streams


async def test_cancelled_open_takes_it_back(make_pair: MakePair) -> None:
    waiting: list[Incoming] = []
    near, _ = await make_pair(waiting.append)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(near.open(b""))
        await until(lambda: bool(waiting))
        task.cancel()
    await until(lambda: waiting[0].cancelled)


async def test_accepted_later_with_what_came_meanwhile(make_pair: MakePair) -> None:
    waiting: asyncio.Queue[Incoming] = asyncio.Queue()
    near, _ = await make_pair(waiting.put_nowait)
    head = os.urandom(MIN_WINDOW)
    async with asyncio.TaskGroup() as group:
        opening = group.create_task(near.open(b"", head=head))
        incoming = await waiting.get()
        stream = incoming.accept()
    opening.result().write_eof()
    assert await read_all(stream) == head


async def test_a_failing_handler_rejects(make_pair: MakePair, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_incoming: Incoming) -> None:
        raise RuntimeError("handler is broken")

    near, _ = await make_pair(fail)
    with pytest.raises(StreamRejected) as caught:
        await near.open(b"")
    assert caught.value.code == RejectCode.INTERNAL
    assert "handler is broken" in caplog.text


async def test_reset_reaches_reader_and_writer(make_pair: MakePair) -> None:
    accepting = Accepting()
    near, _ = await make_pair(accepting)
    stream = await near.open(b"")
    other = await accepting.streams.get()
    other.reset()
    with pytest.raises(StreamReset, match="by the peer"):
        await stream.read()
    with pytest.raises(StreamReset):
        await stream.write(b"x")
    with pytest.raises(StreamReset, match="by this side"):
        await other.read()
    stream.reset()
    stream.write_eof()
    assert not near.mux.streams


async def test_write_after_eof_is_a_mistake(make_pair: MakePair) -> None:
    near, _ = await make_pair(Accepting())
    stream = await near.open(b"")
    stream.write_eof()
    with pytest.raises(LocalProtocolError):
        await stream.write(b"x")


async def test_slow_reader_holds_one_window_and_its_neighbour_flows(make_pair: MakePair) -> None:
    accepting = Accepting()
    near, far = await make_pair(accepting)
    slow = await near.open(b"")
    unread = await accepting.streams.get()
    blocked = asyncio.get_running_loop().create_task(slow.write(bytes(1_000_000)))
    await until(lambda: unread.received == MIN_WINDOW)
    fast = await near.open(b"")
    other = await accepting.streams.get()
    data = os.urandom(3_000_000)
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        reading = group.create_task(read_all(other))
        await fast.write(data)
        fast.write_eof()
    assert reading.result() == data
    assert unread.received == MIN_WINDOW
    assert not blocked.done()
    unread.reset()
    with pytest.raises(StreamReset):
        await blocked
    assert len(far.mux.streams) == 1


async def test_many_short_streams(make_pair: MakePair) -> None:
    async def echo(incoming: Incoming) -> None:
        stream = incoming.accept()
        await stream.write(await read_all(stream))
        stream.write_eof()

    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as servers:
        near, far = await make_pair(lambda incoming: void(servers.create_task(echo(incoming))))

        async def ask(number: int) -> None:
            stream = await near.open(b"")
            await stream.write(b"%d" % number)
            stream.write_eof()
            assert await read_all(stream) == b"%d" % number

        async with asyncio.TaskGroup() as clients:
            for number in range(1000):
                clients.create_task(ask(number))
    assert near.stats.streams_opened == 1000
    assert not near.mux.streams
    assert not far.mux.streams


async def test_fifty_mebibytes_both_ways_arrive_unchanged(make_pair: MakePair) -> None:
    accepting = Accepting()
    near, _ = await make_pair(accepting, tcp=True)
    stream = await near.open(b"")
    other = await accepting.streams.get()
    block = os.urandom(1 << 20)

    async def send(target: Stream) -> str:
        digest = hashlib.sha256()
        for number in range(50):
            piece = number.to_bytes(4) + block
            digest.update(piece)
            await target.write(piece)
        target.write_eof()
        return digest.hexdigest()

    async def receive(source: Stream) -> str:
        digest = hashlib.sha256()
        while data := await source.read(200_000):
            digest.update(data)
        return digest.hexdigest()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        tasks = [group.create_task(coro) for coro in (send(stream), receive(other), send(other), receive(stream))]
    assert len({task.result() for task in tasks}) == 1


# -- handshake -----------------------------------------------------------------------------------------------------
async def outcome(
    connecting: Callable[[socket.socket], Any], accepting: Callable[[socket.socket], Any]
) -> list[Link | BaseException]:
    near, far = socket_pair()
    async with asyncio.timeout(DEADLINE):
        results = await asyncio.gather(connecting(near), accepting(far), return_exceptions=True)
    for link in results:
        if isinstance(link, Link):
            await link.wait_closed()
            await link.aclose()
    return list(results)


async def test_certificates(make_pair: MakePair) -> None:
    near, far = await make_pair()
    assert near.peer_certificate is not None
    assert SERVER.encode() in near.peer_certificate
    assert far.peer_certificate is not None
    assert b"session.tpd" in far.peer_certificate


async def test_client_without_certificate_is_refused(ca: trustme.CA, server_tls: ssl.SSLContext) -> None:
    anonymous = client_context(ca.cert_pem.bytes())
    results = await outcome(
        lambda sock: Link.connect(sock, tls=anonymous, server_hostname=SERVER, on_open=refuse),
        lambda sock: Link.accept(sock, tls=server_tls, on_open=refuse),
    )
    assert all(isinstance(result, LinkClosed) for result in results), results


async def test_client_of_another_ca_is_refused(ca: trustme.CA, server_tls: ssl.SSLContext) -> None:
    stranger = client_context(ca.cert_pem.bytes(), *pem(trustme.CA().issue_cert("session.tpd")))
    results = await outcome(
        lambda sock: Link.connect(sock, tls=stranger, server_hostname=SERVER, on_open=refuse),
        lambda sock: Link.accept(sock, tls=server_tls, on_open=refuse),
    )
    assert all(isinstance(result, LinkClosed) for result in results), results


@pytest.mark.parametrize("name", ["other.tpd", "127.0.0.1"])
async def test_server_of_another_name_is_refused(
    client_tls: ssl.SSLContext, server_tls: ssl.SSLContext, name: str
) -> None:
    near, far = await outcome(
        lambda sock: Link.connect(sock, tls=client_tls, server_hostname=name, on_open=refuse),
        lambda sock: Link.accept(sock, tls=server_tls, on_open=refuse),
    )
    assert isinstance(near, LinkClosed)
    assert "certificate is not valid" in near.reason
    assert isinstance(far, LinkClosed)


async def test_peer_that_says_nothing_is_dropped(client_tls: ssl.SSLContext, server_tls: ssl.SSLContext) -> None:
    for tls, options in ((client_tls, {"server_hostname": SERVER}), (server_tls, {})):
        near, far = await tcp_pair()
        make: Any = Link.connect if options else Link.accept
        with far, pytest.raises(LinkClosed, match=r"within 0.05 s"):
            await make(near, tls=tls, on_open=refuse, handshake_timeout=0.05, **options)


async def test_peer_that_hangs_up(server_tls: ssl.SSLContext) -> None:
    near, far = await tcp_pair()
    near.close()
    with pytest.raises(LinkClosed):
        await Link.accept(far, tls=server_tls, on_open=refuse)


class Raw(asyncio.Protocol):
    """A peer that speaks TLS and sends what the test says."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.got += data


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "does not speak tpd's link protocol"),
        (encode_frame(OPEN, 1, b"x:1"), "did not start with HELLO"),
        (
            Hello(bytes(16), version_min=7, version_max=9).encode(),
            "this end speaks version 1, the peer versions 7 to 9",
        ),
    ],
)
async def test_wrong_first_words(
    client_tls: ssl.SSLContext, server_tls: ssl.SSLContext, first: bytes, reason: str
) -> None:
    async def connect(sock: socket.socket) -> None:
        transport, _ = await start_tls(Raw, sock, client_tls, server_hostname=SERVER, timeout=DEADLINE)
        transport.write(first)
        await until(transport.is_closing)
        transport.abort()

    _, result = await outcome(connect, lambda sock: Link.accept(sock, tls=server_tls, on_open=refuse))
    assert isinstance(result, LinkClosed)
    assert reason in result.reason


async def raw_peer(tls: ssl.SSLContext, accept: Callable[[socket.socket], Any]) -> tuple[Raw, Link]:
    """A link whose connecting end is played by the test."""
    near, far = socket_pair()
    async with asyncio.TaskGroup() as group:
        link = group.create_task(accept(far))
        transport, raw = await start_tls(Raw, near, tls, server_hostname=SERVER, timeout=DEADLINE)
        transport.write(Hello(bytes(16)).encode())
    return raw, link.result()


async def test_protocol_error_ends_the_link_with_a_reason(
    client_tls: ssl.SSLContext, server_tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    raw, link = await raw_peer(client_tls, lambda sock: Link.accept(sock, tls=server_tls, on_open=refuse))
    raw.transport.write(encode_frame(99, 0))
    async with asyncio.timeout(DEADLINE):
        assert await link.wait_closed() == "protocol error by the peer: unknown frame type 99"
    with pytest.raises(LinkClosed, match="unknown frame type 99"):
        await link.open(b"")
    await link.aclose()
    raw.transport.abort()
    assert not caplog.records


async def test_noise_ends_the_link_or_is_borne(
    client_tls: ssl.SSLContext, server_tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(4)
    ended = 0

    def on_open(incoming: Incoming) -> None:
        if rng.random() < 0.8:
            stream = incoming.accept()
            if rng.random() < 0.3:
                stream.reset()
        else:
            incoming.reject(RejectCode.REFUSED)

    def noise() -> bytes:
        kind = rng.choice((OPEN, OPEN, 2, 3, 4, 4, 4, 5, 6, 7, 8, 9, 10, 12, 0x84))
        payload = rng.randbytes(rng.choice((0, 4, 4, 8, 8, 100)))
        return encode_frame(kind, rng.choice((0, 1, 1, 3, 5)), payload)

    for _ in range(60):
        raw, link = await raw_peer(client_tls, lambda sock: Link.accept(sock, tls=server_tls, on_open=on_open))
        Stream(link, link.mux.open(b"ours"))
        for _ in range(8):
            raw.transport.write(noise())
        heard = link.stats.bytes_in
        await until(lambda link=link, heard=heard: link.reason is not None or link.stats.bytes_in > heard)  # type: ignore[misc]
        if link.reason is not None:
            assert link.reason.startswith(("protocol error by the peer", "closed by the peer"))
            ended += 1
        await link.aclose()
        raw.transport.abort()
    assert ended > 20
    assert not caplog.records


# -- the ends of a link --------------------------------------------------------------------------------------------
async def test_silent_peer_is_dead(client_tls: ssl.SSLContext, server_tls: ssl.SSLContext) -> None:
    accepting = Accepting()
    raw, link = await raw_peer(
        client_tls,
        lambda sock: Link.accept(sock, tls=server_tls, on_open=accepting, keepalive=0.05, dead_after=0.2),
    )
    raw.transport.write(encode_frame(OPEN, 1, b"x:1"))
    stream = await accepting.streams.get()
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(LinkClosed, match=r"peer silent for 0.2 s"):
            await stream.read()
    assert 0.15 < loop.time() - started < 2
    assert link.reason == "peer silent for 0.2 s"
    assert len(raw.got) > 60, "it was asked for a sign of life"
    await link.aclose()
    raw.transport.abort()


async def test_time_in_which_the_process_stood_still_does_not_count(make_pair: MakePair) -> None:
    near, far = await make_pair(keepalive=0.05, dead_after=0.2)
    await until(lambda: near.stats.rtt is not None)
    time.sleep(0.5)  # noqa: ASYNC251 - the whole process stands still, timers and all
    pongs = near.stats.bytes_in
    await until(lambda: near.stats.bytes_in > pongs + 60 or near.reason is not None)
    assert near.reason is None
    assert far.reason is None


async def test_idle_link_lives_and_knows_its_round_trip(make_pair: MakePair) -> None:
    near, far = await make_pair(keepalive=0.02, dead_after=0.2)
    heard = near.stats.bytes_in
    await until(lambda: near.stats.bytes_in > heard + 10 * 32)
    assert near.reason is None
    assert far.reason is None
    assert near.stats.rtt is not None
    assert 0 < near.stats.rtt < 1


async def test_closing_ends_everything_at_both_ends(make_pair: MakePair) -> None:
    accepting = Accepting()
    near, far = await make_pair(accepting)
    stream = await near.open(b"")
    other = await accepting.streams.get()
    await other.write(b"last words")
    far.close("the agent goes away")
    assert await far.wait_closed() == "the agent goes away"
    with pytest.raises(LinkClosed, match="the agent goes away"):
        await other.read()
    async with asyncio.timeout(DEADLINE):
        assert await near.wait_closed() == "closed by the peer: the agent goes away"
    with pytest.raises(LinkClosed):
        await stream.write(b"x")
    await far.aclose()


async def test_small_frames_are_not_held_back(make_pair: MakePair) -> None:
    for link in await make_pair(tcp=True):
        assert link._transport is not None
        sock = link._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_cut_connection_ends_the_link(make_pair: MakePair) -> None:
    near, far = await make_pair(Accepting(), tcp=True)
    stream = await near.open(b"")
    assert far._transport is not None
    far._transport.abort()
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(LinkClosed):
            await stream.read()
        await far.wait_closed()


async def test_a_link_closes_itself_as_a_context(make_pair: MakePair) -> None:
    near, far = await make_pair()
    async with near:
        pass
    assert near.reason == "closed by this side"
    async with asyncio.timeout(DEADLINE):
        await far.wait_closed()


async def test_closing_to_a_peer_that_reads_nothing_ends(
    client_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    accepting = Accepting()
    raw, link = await raw_peer(client_tls, lambda sock: Link.accept(sock, tls=server_tls, on_open=accepting))
    raw.transport.pause_reading()
    grant = (8 << 20).to_bytes(4)
    raw.transport.write(encode_frame(OPEN, 1, b"x:1") + encode_frame(5, 1, grant))
    stream = await accepting.streams.get()
    writing = asyncio.get_running_loop().create_task(stream.write(bytes(8 << 20)))
    await until(lambda: link.blocked)
    sent = stream.sent
    assert sent < 4 << 20, "what waits in this process is bounded"
    await link.aclose()
    with pytest.raises(LinkClosed):
        await writing
    raw.transport.abort()


def void(_value: object) -> None:
    """For handlers that must return nothing."""
