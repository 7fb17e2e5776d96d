"""What holds for any bytes and any conversation: parsing, conservation, bounds, resumption after any cut."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.wire.conversation import Told, balanced, open_stream, pair, take, tell
from tpd_core.wire.errors import RemoteProtocolError
from tpd_core.wire.frames import (
    CHUNK,
    DATA,
    HEADER,
    LINK_BUDGET,
    MAX_REPLAY,
    MAX_WINDOW,
    MIN_WINDOW,
    encode_frame,
)
from tpd_core.wire.mux import Mux
from tpd_core.wire.stream import MuxStream

# -- any bytes ---------------------------------------------------------------------------------------------------
numbers = st.sampled_from((0, 1, 1, 1, 2, 3, 5, 0xFFFFFFFF))
headers = st.builds(
    lambda number, kind, size: HEADER.pack(number, kind << 24 | size),
    numbers,
    st.integers(0, 13) | st.sampled_from((0x84, 0xFF)),
    st.sampled_from((0, 2, 4, 8, 100, 0xFFFFFF)),
)
whole = st.builds(
    encode_frame,
    st.sampled_from((1, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 10, 12, 0x84)),
    numbers,
    st.sampled_from((b"", b"\0\1", b"\0\0\0\1", bytes(8), bytes(100), bytes(2000))),
)
pieces = st.lists(whole | headers | st.binary(max_size=12), max_size=12)


def listen(raw: bytes, step: int, *, resumable: bool) -> tuple[list[Told], bytes, bool]:
    """Events before the first mistake, the answers, and whether there was a mistake."""
    mux = Mux(client=False, resumable=resumable)
    mux.open(b"ours")
    take(mux)
    told: list[Told] = []
    try:
        for start in range(0, len(raw), step):
            told += tell(mux, raw[start : start + step], consume=False)
    except RemoteProtocolError:
        return told, b"", True
    return told, take(mux), False


def spelled(told: list[Told]) -> list[Told]:
    """DATA byte by byte, so that its pieces do not matter."""
    return [
        (kind, number, part)
        for kind, number, payload in told
        for part in ([bytes((byte,)) for byte in payload] if kind == DATA else [payload])
    ]


@settings(max_examples=400)
@given(parts=pieces, step=st.integers(1, 40), resumable=st.booleans())
def test_any_bytes_parse_or_are_refused_and_pieces_do_not_matter(
    parts: list[bytes], step: int, resumable: bool
) -> None:
    raw = encode_frame(1, 1, b"x:1") + b"".join(parts)
    whole_events, whole_answer, whole_failed = listen(raw, len(raw), resumable=resumable)
    events, answer, failed = listen(raw, step, resumable=resumable)
    single, single_answer, single_failed = listen(raw, 1, resumable=resumable)
    assert failed == whole_failed == single_failed
    assert answer == whole_answer == single_answer
    spelled_out = spelled(single)
    for told in (spelled(events), spelled(whole_events)):
        assert told == (spelled_out[: len(told)] if failed else spelled_out)


# -- any conversation ----------------------------------------------------------------------------------------------
class Conversation(RuleBasedStateMachine):
    """Both ends open streams and send; readers are slow or fast; transports die at any byte."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = random.Random(0)
        self.resumable = False

    @initialize(resumable=st.booleans(), seed=st.integers(0, 2**32))
    def start(self, resumable: bool, seed: int) -> None:
        self.rng.seed(seed)
        self.resumable = resumable
        self.ends = pair(resumable=resumable)
        self.wires = [bytearray(), bytearray()]  # from each end
        self.sent: dict[tuple[int, int], bytearray] = {}  # by receiving end and stream
        self.got: dict[tuple[int, int], bytearray] = {}
        self.waiting: list[tuple[int, MuxStream, int]] = []  # received, not consumed

    @rule(end=st.integers(0, 1))
    def open(self, end: int) -> None:
        if len(self.ends[end].streams) < 6:
            self.ends[end].open(b"request")

    @rule(end=st.integers(0, 1), size=st.integers(1, 200_000), data=st.data())
    def send(self, end: int, size: int, data: st.DataObject) -> None:
        ready = [s for s in self.ends[end].streams.values() if not s.fin_sent and (s.initiated or s.opened)]
        if ready:
            stream = data.draw(st.sampled_from(ready))
            payload = self.rng.randbytes(size)
            done = self.ends[end].send(stream, payload)
            self.sent.setdefault((1 - end, stream.id), bytearray()).extend(payload[:done])

    @rule(end=st.integers(0, 1), data=st.data())
    def finish(self, end: int, data: st.DataObject) -> None:
        ready = [s for s in self.ends[end].streams.values() if not s.fin_sent and (s.initiated or s.opened)]
        if ready:
            self.ends[end].fin(data.draw(st.sampled_from(ready)))

    @rule(end=st.integers(0, 1), data=st.data())
    def reset(self, end: int, data: st.DataObject) -> None:
        if self.ends[end].streams:
            stream = data.draw(st.sampled_from(list(self.ends[end].streams.values())))
            self.ends[end].reset(stream)

    @rule(end=st.integers(0, 1), part=st.floats(0, 1), step=st.integers(1, 200_000))
    def deliver(self, end: int, part: float, step: int) -> None:
        self.wires[end] += take(self.ends[end])
        wire = self.wires[end]
        count = len(wire) if part > 0.7 else int(len(wire) * part)
        self.receive(1 - end, bytes(wire[:count]), step)
        del wire[:count]

    def receive(self, end: int, raw: bytes, step: int) -> None:
        mux = self.ends[end]
        for start in range(0, len(raw), step):
            for kind, stream, payload in mux.receive_data(memoryview(raw[start : start + step])):
                if kind == DATA and stream is not None:
                    self.got.setdefault((end, stream.id), bytearray()).extend(payload)
                    if self.rng.random() < 0.5:
                        mux.consumed(stream, len(payload))
                    else:
                        self.waiting.append((end, stream, len(payload)))
            for stream in list(mux.streams.values()):
                if not stream.initiated and not stream.opened and self.rng.random() < 0.8:
                    mux.accept(stream)

    @rule()
    def consume(self) -> None:
        for end, stream, size in self.waiting:
            self.ends[end].consumed(stream, size)
        self.waiting.clear()

    @precondition(lambda self: self.resumable)
    @rule(part=st.floats(0, 1), other=st.floats(0, 1))
    def cut(self, part: float, other: float) -> None:
        """The transport dies; each end got a part of what was on its way."""
        for end, share in ((0, part), (1, other)):
            self.wires[end] += take(self.ends[end])
            self.receive(1 - end, bytes(self.wires[end][: int(len(self.wires[end]) * share)]), 10_000)
            self.wires[end].clear()
        counts = [mux.received for mux in self.ends]
        self.ends[0].resume(counts[1])
        self.ends[1].resume(counts[0])

    @invariant()
    def nothing_is_lost_or_out_of_order(self) -> None:
        for key, got in getattr(self, "got", {}).items():
            assert self.sent[key].startswith(got)

    @invariant()
    def windows_are_bounded(self) -> None:
        for mux in getattr(self, "ends", ()):
            streams = mux.streams.values()
            assert all(balanced(stream) and stream.window <= MAX_WINDOW for stream in streams)
            assert sum(stream.window - MIN_WINDOW for stream in streams) == LINK_BUDGET - mux._budget
            assert len(mux._pool) <= 8

    def teardown(self) -> None:
        if not hasattr(self, "ends"):
            return
        for _ in range(6):  # everything on its way arrives
            self.consume()
            for end in (0, 1):
                self.deliver(end, 1.0, 100_000)
        for end in (0, 1):
            for number, stream in self.ends[end].streams.items():
                if (peer := self.ends[1 - end].streams.get(number)) is not None and stream.opened and peer.opened:
                    assert self.got.get((end, number), b"") == self.sent.get((end, number), b"")
                    assert peer.sendable == stream.receivable or stream.fin_received


Conversation.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestConversation = Conversation.TestCase


# -- resumption ----------------------------------------------------------------------------------------------------
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32))
def test_resume_after_any_cut(seed: int) -> None:
    rng = random.Random(seed)
    near, far = pair(resumable=True)
    stream, _ = open_stream(near, far)
    data, done, got = rng.randbytes(1_500_000), 0, bytearray()
    while len(got) < len(data):
        done += near.send(stream, data[done : done + rng.randrange(1, 200_000)])
        wire = take(near)
        cut = rng.random() < 0.4
        arrived = wire[: rng.randrange(len(wire) + 1)] if cut else wire
        got += b"".join(payload for kind, _, payload in tell(far, arrived, rng.randrange(1, 30_000)) if kind == DATA)
        back = take(far)
        tell(near, back[: rng.randrange(len(back) + 1)] if cut else back, rng.randrange(1, 20))
        if cut:
            near.resume(far.received)
            far.resume(near.received)
            assert (near.sent, far.sent) == (far.received, near.received)
    assert got == data
    assert len(near._replay) <= 2


def test_resume_outside_what_is_kept_is_refused() -> None:
    near, far = pair(resumable=True)
    stream, _ = open_stream(near, far)
    near.send(stream, bytes(1000))
    with pytest.raises(RemoteProtocolError, match="resume"):
        near.resume(near.sent + 1)
    take(near)
    near.resume(near.sent)
    with pytest.raises(RemoteProtocolError, match="resume"):
        near.resume(0)


def test_ack_of_bytes_that_were_never_sent_is_refused() -> None:
    near, _ = pair(resumable=True)
    with pytest.raises(RemoteProtocolError, match="ACK"):
        tell(near, encode_frame(10, 0, (1).to_bytes(8)))


def test_replay_is_bounded_when_the_peer_never_acknowledges() -> None:
    near, far = pair(resumable=True)
    streams = [open_stream(near, far) for _ in range(3)]
    for _ in range(2000):
        for stream, other in streams:
            near.send(stream, bytes(100_000))
            raw = take(near)
            for _, _, payload in tell(far, raw, consume=False):
                far.consumed(other, len(payload))
            far._ack_sent = far.received  # it keeps its ACKs to itself
            tell(near, take(far))
    assert MAX_REPLAY - CHUNK <= sum(size for _, _, size in near._replay) <= MAX_REPLAY + CHUNK
