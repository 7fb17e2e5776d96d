"""Links end to end over a socket pair: one contract, every loop."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.aio.conftest import MakePair
from tpd_core.aio.errors import StreamRejected
from tpd_core.aio.stream import Incoming, Stream


async def test_open_accept_read_write(make_pair: MakePair) -> None:
    accepted: asyncio.Queue[Stream] = asyncio.Queue()

    def on_open(incoming: Incoming) -> None:
        assert incoming.request == b"hello"
        accepted.put_nowait(incoming.accept())

    near, far = await make_pair(on_open)
    assert near.id == far.id
    assert near.peer_certificate
    assert far.peer_certificate
    stream = await near.open(b"hello", head=b"first ")
    other = await accepted.get()
    await stream.write(b"request")
    stream.write_eof()
    got = b""
    while data := await other.read():
        got += data
    assert got == b"first request"
    await other.write(b"answer")
    other.write_eof()
    assert await stream.read() == b"answer"
    assert await stream.read() == b""
    assert not near.mux.streams
    assert not far.mux.streams


async def test_rejected(make_pair: MakePair) -> None:
    near, _ = await make_pair()
    with pytest.raises(StreamRejected, match="nobody is here") as caught:
        await near.open(b"hello")
    assert caught.value.code == 5
