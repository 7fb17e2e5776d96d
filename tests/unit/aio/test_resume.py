"""Links that outlive their connection: streams stall and go on, whatever was lost on the way."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import trustme

from tests.unit.aio.conftest import DEADLINE, SERVER, Accepting, pem, refuse, socket_pair, tcp_pair, until
from tpd_core.aio.errors import LinkClosed
from tpd_core.aio.handshake import greet, turn_away
from tpd_core.aio.link import Link
from tpd_core.aio.resume import LinkKeeper
from tpd_core.aio.stream import Stream
from tpd_core.aio.tasks import spawn
from tpd_core.aio.tls import client_context
from tpd_core.wire.hello import Capability, Hello


class Site:
    """An accepting end that listens, in effect: `dial` makes a connection to it, unless it is down."""

    def __init__(self, tls: ssl.SSLContext, grace: float) -> None:
        self.keeper = LinkKeeper(grace)
        self.accepting = Accepting()
        self.dialled = 0
        self.down = False
        self.refused: list[str] = []
        self.made: list[Link] = []
        self._tls = tls

    async def dial(self) -> socket.socket:
        self.dialled += 1
        if self.down:
            raise ConnectionRefusedError("the site is down")
        near, far = socket_pair()
        spawn(self.accept(far), name="accept")
        return near

    async def accept(self, sock: socket.socket) -> None:
        try:
            link = await Link.accept_or_resume(
                sock, self.keeper, tls=self._tls, on_open=self.accepting, keepalive=0.2, dead_after=0.5
            )
        except LinkClosed as error:
            self.refused.append(error.reason)
        else:
            if link is not None:
                self.made.append(link)

    async def aclose(self) -> None:
        for link in self.made:
            await link.aclose()


@pytest_asyncio.fixture
async def site(server_tls: ssl.SSLContext) -> AsyncIterator[Site]:
    made = Site(server_tls, grace=5)
    yield made
    await made.aclose()


@pytest_asyncio.fixture
async def link(site: Site, client_tls: ssl.SSLContext) -> AsyncIterator[Link]:
    made = await Link.connect(
        await site.dial(),
        tls=client_tls,
        server_hostname=SERVER,
        on_open=refuse,
        redial=site.dial,
        grace=2,
        keepalive=0.2,
        dead_after=0.5,
    )
    await until(lambda: bool(site.made))
    yield made
    await made.aclose()


def cut(link: Link) -> None:
    """The connection dies under it, with whatever it carried."""
    assert link._transport is not None
    link._transport.abort()


async def conversation(link: Link, site: Site) -> tuple[Stream, Stream]:
    stream = await link.open(b"")
    return stream, await site.accepting.streams.get()


async def test_streams_go_on_after_a_cut(site: Site, link: Link) -> None:
    stream, other = await conversation(link, site)
    await stream.write(b"before ")
    for end in (link, site.made[0], link):
        cut(end)
        await stream.write(b"and after")
        await until(lambda: not link.suspended and not site.made[0].suspended)
    stream.write_eof()
    got = b""
    async with asyncio.timeout(DEADLINE):
        while data := await other.read():
            got += data
    assert got == b"before " + 3 * b"and after"
    assert site.made == [site.made[0]], "it is the same link all along"
    assert link.reason is None


async def test_bulk_both_ways_survives_cuts_at_any_byte(site: Site, link: Link) -> None:
    rng = random.Random(1)
    stream, other = await conversation(link, site)
    block = os.urandom(1 << 20)

    async def send(target: Stream) -> str:
        digest = hashlib.sha256()
        for number in range(24):
            piece = number.to_bytes(4) + block
            digest.update(piece)
            await target.write(piece)
        target.write_eof()
        return digest.hexdigest()

    async def receive(source: Stream) -> str:
        digest = hashlib.sha256()
        while data := await source.read(300_000):
            digest.update(data)
        return digest.hexdigest()

    cuts = 0
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        tasks = [group.create_task(coro) for coro in (send(stream), receive(other), send(other), receive(stream))]
        while not all(task.done() for task in tasks) and cuts < 12:
            mark = stream.received + rng.randrange(1, 2_000_000)
            await until(lambda mark=mark: stream.received >= mark or tasks[3].done())  # type: ignore[misc]
            if not link.suspended:
                cut(rng.choice((link, site.made[0])) if not site.made[0].suspended else link)
                cuts += 1
                await until(lambda: not link.suspended)
    assert len({task.result() for task in tasks}) == 1
    assert cuts >= 6
    assert link.reason is None


async def test_splice_survives_a_cut(site: Site, link: Link) -> None:
    loop = asyncio.get_running_loop()
    caller, accepted = await tcp_pair()
    with caller:
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            stream, other = await conversation(link, site)
            task = group.create_task(stream.splice(accepted))
            await loop.sock_sendall(caller, b"one")
            assert await other.read() == b"one"
            site.down = True
            cut(link)
            await until(lambda: link.suspended)
            await loop.sock_sendall(caller, b"two")
            site.down = False
            assert await other.read() == b"two"
            await other.write(b"three")
            other.write_eof()
            assert await loop.sock_recv(caller, 10) == b"three"
            caller.shutdown(socket.SHUT_WR)
        assert not task.result().reset


async def test_a_new_stream_waits_for_the_new_connection(site: Site, link: Link) -> None:
    site.down = True
    cut(link)
    await until(lambda: link.suspended)
    with pytest.raises(TimeoutError):
        await link.open(b"impatient", timeout=0.05)
    site.down = False
    async with asyncio.timeout(DEADLINE):
        stream, other = await conversation(link, site)
        if other.over:  # the impatient one came first
            other = await site.accepting.streams.get()
        await stream.write(b"x")
        assert await other.read() == b"x"
    assert site.dialled > 2


async def test_frozen_connection_is_replaced(site: Site, link: Link) -> None:
    """Nothing is reset: the bytes just stop coming, on both ends, as when a laptop changes its network."""
    stream, other = await conversation(link, site)
    for end in (link, site.made[0]):
        assert end._transport is not None
        end._transport.pause_reading()
    await stream.write(b"x")
    async with asyncio.timeout(DEADLINE):
        assert await other.read() == b"x"
    assert site.dialled == 2


async def test_connecting_end_gives_up_after_its_grace(site: Site, client_tls: ssl.SSLContext) -> None:
    link = await Link.connect(
        await site.dial(), tls=client_tls, server_hostname=SERVER, on_open=refuse, redial=site.dial, grace=0.2
    )
    stream = await link.open(b"")
    site.down = True
    cut(link)
    with pytest.raises(LinkClosed, match=r"no new connection within 0.2 s"):
        await stream.read()
    await link.aclose()


async def test_accepting_end_gives_up_after_its_grace(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    site = Site(server_tls, grace=0.2)
    link = await Link.connect(
        await site.dial(), tls=client_tls, server_hostname=SERVER, on_open=refuse, redial=site.dial, grace=5
    )
    _, other = await conversation(link, site)
    site.down = True
    cut(link)
    with pytest.raises(LinkClosed, match=r"did not come back within 0.2 s"):
        await other.read()
    assert not site.keeper.links
    site.down = False
    async with asyncio.timeout(DEADLINE):
        assert await link.wait_closed() == "the peer no longer has this link"
    await until(lambda: bool(site.refused))
    assert "is gone" in site.refused[0]
    await site.aclose()


async def test_a_deliberate_end_is_not_resumed(site: Site, link: Link) -> None:
    link.close("the session has ended")
    async with asyncio.timeout(DEADLINE):
        assert await site.made[0].wait_closed() == "closed by the peer: the session has ended"
    assert site.dialled == 1
    assert not site.keeper.links


async def test_closing_while_suspended(site: Site, link: Link) -> None:
    site.down = True
    cut(link)
    await until(lambda: link.suspended)
    await link.aclose()
    await site.made[0].aclose()
    assert not site.keeper.links


async def test_a_peer_without_resumption_is_unaffected(
    site: Site, client_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    plain = await Link.connect(await site.dial(), tls=client_tls, server_hostname=SERVER, on_open=refuse)
    stream = await plain.open(b"")
    await until(lambda: len(site.made) == 1)
    assert not plain.mux.resumable
    assert not site.made[0].mux.resumable
    cut(plain)
    with pytest.raises(LinkClosed):
        await stream.read()
    async with asyncio.timeout(DEADLINE):
        await site.made[0].wait_closed()
    await plain.aclose()


async def test_only_the_same_certificate_may_continue(site: Site, link: Link, ca: trustme.CA) -> None:
    stream, other = await conversation(link, site)
    thief = client_context(ca.cert_pem.bytes(), *pem(ca.issue_cert("other-session.tpd")))

    def claim(_peer: Hello | None, _certificate: bytes | None) -> Hello:
        return Hello(link.id, Capability.RESUME, resume=True)

    greeted = await greet(await site.dial(), thief, server_hostname=SERVER, answer=claim, timeout=DEADLINE)
    assert not greeted.peer.resume
    await turn_away(greeted)
    await until(lambda: bool(site.refused))
    await stream.write(b"still here")
    assert await other.read() == b"still here"
    assert site.dialled == 2


async def test_a_count_that_cannot_be_ends_the_link(site: Site, link: Link, client_tls: ssl.SSLContext) -> None:
    def lie(_peer: Hello | None, _certificate: bytes | None) -> Hello:
        return Hello(link.id, Capability.RESUME, resume=True, received=1 << 40)

    greeted = await greet(await site.dial(), client_tls, server_hostname=SERVER, answer=lie, timeout=DEADLINE)
    await turn_away(greeted)
    async with asyncio.timeout(DEADLINE):
        assert "wants to resume at byte" in await site.made[0].wait_closed()
        assert await link.wait_closed() == "the peer no longer has this link"
