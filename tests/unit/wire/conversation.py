"""Two multiplexers that talk to each other, for tests."""

from __future__ import annotations

from tpd_core.wire.frames import CHUNK, DATA, PING, PONG, encode_frame
from tpd_core.wire.mux import Mux
from tpd_core.wire.stream import MuxStream

Told = tuple[int, int, bytes]
"""Frame type, stream number (0 for the link's own), payload."""


def take(mux: Mux) -> bytes:
    """Everything that the end wants to send."""
    return b"".join(mux.data_to_send())


def tell(mux: Mux, raw: bytes, step: int = CHUNK, *, consume: bool = True) -> list[Told]:
    """Let `mux` receive `raw` in pieces; consecutive parts of a stream's DATA are joined."""
    told: list[Told] = []
    for start in range(0, len(raw), step):
        for kind, stream, payload in mux.receive_data(memoryview(raw[start : start + step])):
            number = stream.id if stream is not None else 0
            if kind == DATA and stream is not None and consume:
                mux.consumed(stream, len(payload))
            if kind == DATA and told and told[-1][:2] == (DATA, number):
                told[-1] = (DATA, number, told[-1][2] + bytes(payload))
            else:
                told.append((kind, number, bytes(payload)))
    return told


def pair(*, resumable: bool = False) -> tuple[Mux, Mux]:
    """The connecting and the accepting end."""
    return Mux(client=True, resumable=resumable), Mux(client=False, resumable=resumable)


def open_stream(near: Mux, far: Mux, request: bytes = b"x:1") -> tuple[MuxStream, MuxStream]:
    """A stream that both ends have open."""
    stream = near.open(request)
    tell(far, take(near))
    other = far.streams[stream.id]
    far.accept(other)
    tell(near, take(far))
    return stream, other


def balanced(stream: MuxStream) -> bool:
    """The credit account of the receiving side adds up."""
    return (
        stream.receivable + stream.unread + stream.owed == stream.window
        and min(stream.receivable, stream.unread, stream.owed) >= 0
    )


def ping(payload: bytes = bytes(8)) -> bytes:
    """A PING frame."""
    return encode_frame(PING, 0, payload)


def pong(payload: bytes = bytes(8)) -> bytes:
    """A PONG frame."""
    return encode_frame(PONG, 0, payload)
