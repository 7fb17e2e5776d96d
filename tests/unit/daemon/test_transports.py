"""Which transport is tried, in which order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from tpd.daemon.changes import Backoff, Changes
from tpd.daemon.transports.base import Kind, Opened
from tpd.daemon.transports.chooser import Standing, TransportChooser
from tpd.daemon.transports.relay import RelayTransport
from tpd_core.errors import ClusterError, NetworkError, UserError
from tpd_core.proto import control_pb2
from tpd_core.proto.control_pb2 import TRANSPORT_API_SERVER, TRANSPORT_ENDPOINT, TRANSPORT_RELAY, RelayChunk

ALL = (TRANSPORT_ENDPOINT, TRANSPORT_API_SERVER, TRANSPORT_RELAY)


class Way:
    """A transport that works, fails, or never answers."""

    def __init__(self, kind: Kind, outcome: BaseException | None = None, *, hang: bool = False) -> None:
        self.kind = kind
        self.head_start = 0.01
        self.outcome = outcome
        self.hang = hang
        self.there = True
        self.tried = 0

    def available(self) -> bool:
        return self.there

    async def open(self) -> Opened:
        self.tried += 1
        if self.hang:
            await asyncio.Event().wait()
        if self.outcome is not None:
            raise self.outcome
        one, other = socket.socketpair()
        other.close()
        return Opened(one, self.kind)


async def opened_kind(chooser: TransportChooser) -> Kind:
    opened = await chooser.open()
    opened.sock.close()
    return opened.kind


def test_standing_prefers_and_forgives() -> None:
    standing = Standing(ALL)
    assert standing.order(0.0) == list(ALL)
    standing.failed(TRANSPORT_ENDPOINT, 0.0)
    assert standing.order(0.1) == [TRANSPORT_API_SERVER, TRANSPORT_RELAY, TRANSPORT_ENDPOINT]
    assert standing.order(60.0) == list(ALL)
    standing.failed(TRANSPORT_ENDPOINT, 0.0)
    standing.failed(TRANSPORT_API_SERVER, 0.0)
    assert standing.order(0.1) == [TRANSPORT_RELAY, TRANSPORT_API_SERVER, TRANSPORT_ENDPOINT]
    standing.worked(TRANSPORT_ENDPOINT)
    assert standing.order(0.1)[0] == TRANSPORT_ENDPOINT


async def test_the_first_that_works_is_taken_and_the_others_are_left_alone() -> None:
    endpoint, api = Way(TRANSPORT_ENDPOINT), Way(TRANSPORT_API_SERVER)
    assert await opened_kind(TransportChooser([endpoint, api])) == TRANSPORT_ENDPOINT
    assert (endpoint.tried, api.tried) == (1, 0)


async def test_a_failure_leads_to_the_next_and_is_remembered() -> None:
    endpoint, api = Way(TRANSPORT_ENDPOINT, NetworkError("no route")), Way(TRANSPORT_API_SERVER)
    chooser = TransportChooser([endpoint, api])
    assert await opened_kind(chooser) == TRANSPORT_API_SERVER
    assert await opened_kind(chooser) == TRANSPORT_API_SERVER
    assert endpoint.tried == 1


async def test_a_way_that_swallows_packets_costs_a_moment() -> None:
    endpoint, api = Way(TRANSPORT_ENDPOINT, hang=True), Way(TRANSPORT_API_SERVER)
    async with asyncio.timeout(5):
        assert await opened_kind(TransportChooser([endpoint, api])) == TRANSPORT_API_SERVER


async def test_an_endpoint_that_appears_is_used_from_then_on() -> None:
    endpoint, api = Way(TRANSPORT_ENDPOINT), Way(TRANSPORT_API_SERVER)
    endpoint.there = False
    chooser = TransportChooser([endpoint, api])
    assert await opened_kind(chooser) == TRANSPORT_API_SERVER
    endpoint.there = True
    assert await opened_kind(chooser) == TRANSPORT_ENDPOINT


async def test_when_nothing_works_all_reasons_are_told() -> None:
    endpoint = Way(TRANSPORT_ENDPOINT, NetworkError("refused"))
    api = Way(TRANSPORT_API_SERVER, ClusterError("403", hint="install the chart"))
    with pytest.raises(NetworkError) as failure:
        await TransportChooser([endpoint, api]).open()
    assert failure.value.message.endswith("endpoint: refused; API server: 403")
    assert failure.value.hint == "install the chart"
    with pytest.raises(ClusterError, match="403"):
        await TransportChooser([api]).open()
    endpoint.there = False
    with pytest.raises(NetworkError, match="neither"):
        await TransportChooser([endpoint]).open()


async def test_the_relay_is_wished_for_and_carried() -> None:
    changes = Changes()
    relay = RelayTransport(changes)
    opening = asyncio.gather(relay.open())
    assert await changes.until(lambda: bool(relay.wanted), 5)
    chunks: asyncio.Queue[RelayChunk] = asyncio.Queue()

    async def sent() -> AsyncIterator[RelayChunk]:
        while True:
            yield await chunks.get()

    chunks.put_nowait(RelayChunk(id=relay.wanted[0], data=b"down"))
    carried = relay.carry(sent())
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(5):
        first = asyncio.gather(anext(carried))
        (opened,) = await opening
        assert relay.wanted == []
        assert await loop.sock_recv(opened.sock, 100) == b"down"
        await loop.sock_sendall(opened.sock, b"up")
        assert (await first)[0].data == b"up"
        chunks.put_nowait(RelayChunk(data=b"last", eof=True))
        assert await loop.sock_recv(opened.sock, 100) == b"last"
        assert await loop.sock_recv(opened.sock, 100) == b""
        opened.sock.close()
        assert [chunk.eof async for chunk in carried] == [True]


async def test_a_relay_that_nobody_wants_is_refused() -> None:
    async def sent() -> AsyncIterator[RelayChunk]:
        yield control_pb2.RelayChunk(id="stale")

    with pytest.raises(UserError, match="stale"):
        await anext(RelayTransport(Changes()).carry(sent()))


@pytest.mark.parametrize("most", [0.4, 100.0])
def test_backoff_doubles_up_to_its_limit_and_starts_anew(most: float) -> None:
    backoff = Backoff(0.1, most)
    pauses = [backoff.next() for _ in range(4)]
    assert pauses == pytest.approx([min(pause, most) for pause in (0.1, 0.2, 0.4, 0.8)])
    backoff.reset()
    assert backoff.next() == pytest.approx(0.1)


async def test_changes_wake_whoever_waits_for_a_condition() -> None:
    changes = Changes()
    seen: list[int] = []
    condition: Callable[[], bool] = lambda: len(seen) == 2  # noqa: E731
    waiting = asyncio.gather(changes.until(condition, 5))
    for number in range(2):
        seen.append(number)
        changes.ring()
        await asyncio.sleep(0)
    assert (await waiting)[0]
    assert not await changes.until(lambda: False, 0.01)
