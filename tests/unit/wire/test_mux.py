"""The multiplexer as a conversation: life of a stream, credit, bounds against a peer that misbehaves."""

from __future__ import annotations

import pytest

from tests.unit.wire.conversation import balanced, open_stream, pair, ping, pong, take, tell
from tpd_core.wire import frames
from tpd_core.wire.errors import LocalProtocolError, RemoteProtocolError
from tpd_core.wire.frames import (
    ACK,
    CLOSE,
    CREDIT,
    DATA,
    FIN,
    HELLO,
    LINK_BUDGET,
    MAX_REQUEST,
    MAX_STREAMS,
    MAX_WINDOW,
    MIN_WINDOW,
    OPEN,
    OPENED,
    PING,
    PONG,
    REJECT,
    RESET,
    STARVED,
    decode_reject,
    encode_frame,
    encode_reject,
)
from tpd_core.wire.mux import Mux


# -- life of a stream --------------------------------------------------------------------------------------------
def test_request_and_answer() -> None:
    near, far = pair()
    stream = near.open(b"10.0.0.1:80")
    assert near.send(stream, b"optimistic") == 10
    assert tell(far, take(near)) == [(OPEN, 1, b"10.0.0.1:80"), (DATA, 1, b"optimistic")]
    other = far.streams[1]
    far.accept(other)
    far.send(other, b"answer")
    far.fin(other)
    assert tell(near, take(far)) == [(OPENED, 1, b""), (DATA, 1, b"answer"), (FIN, 1, b"")]
    assert near.streams, "half closed: the opener may go on"
    near.send(stream, b"more")
    near.fin(stream)
    assert tell(far, take(near)) == [(DATA, 1, b"more"), (FIN, 1, b"")]
    assert stream.done
    assert other.done
    assert not near.streams
    assert not far.streams


def test_rejected() -> None:
    near, far = pair()
    stream = near.open(b"10.0.0.1:80")
    near.send(stream, b"optimistic")
    tell(far, take(near))
    far.reject(far.streams[1], frames.RejectCode.REFUSED, "nothing listens")
    near.send(stream, b"crossing")
    crossing = take(near)
    [(kind, number, payload)] = tell(near, take(far))
    assert (kind, number, decode_reject(payload)) == (REJECT, 1, (1, "nothing listens"))
    assert tell(far, crossing) == [], "on its way when the stream ended"
    assert stream.done


def test_both_ends_open_and_numbers_do_not_collide() -> None:
    near, far = pair()
    assert [near.open(b"").id, near.open(b"").id] == [1, 3]
    assert [far.open(b"").id, far.open(b"").id] == [2, 4]
    assert [number for _, number, _ in tell(far, take(near))] == [1, 3]
    assert [number for _, number, _ in tell(near, take(far))] == [2, 4]


def test_data_for_a_stream_that_was_reset_is_ignored() -> None:
    near, far = pair()
    stream, other = open_stream(near, far)
    near.send(stream, bytes(1000))
    on_its_way = take(near)
    far.reset(other)
    far.reset(other)
    assert tell(far, on_its_way, 7) == []
    near.send(stream, b"crossing")
    crossing = take(near)
    assert tell(near, take(far)) == [(RESET, 1, b"")]
    assert tell(far, crossing) == []


def test_reset_in_the_middle_of_a_frame() -> None:
    near, far = pair()
    stream, other = open_stream(near, far)
    near.send(stream, bytes(1000))
    raw = take(near)
    assert tell(far, raw[:500]) == [(DATA, 1, bytes(492))]
    far.reset(other)
    second = near.open(b"next")
    assert tell(far, raw[500:] + take(near)) == [(OPEN, second.id, b"next")]


def test_local_mistakes_are_named() -> None:
    near, far = pair()
    stream, other = open_stream(near, far)
    for call in (
        lambda: near.open(bytes(MAX_REQUEST + 1)),
        lambda: near.accept(stream),
        lambda: far.accept(other),
        lambda: far.reject(other, 1),
    ):
        with pytest.raises(LocalProtocolError):
            call()
    near.fin(stream)
    with pytest.raises(LocalProtocolError, match="cannot send"):
        near.send(stream, b"x")
    with pytest.raises(LocalProtocolError, match="cannot send"):
        near.fin(stream)
    waiting = far.open(b"")
    tell(near, take(far))
    with pytest.raises(LocalProtocolError, match="cannot send"):
        near.send(near.streams[waiting.id], b"before OPENED")


def test_streams_are_limited_per_opener() -> None:
    near, far = pair()
    for _ in range(MAX_STREAMS):
        near.open(b"")
        far.open(b"")
    with pytest.raises(LocalProtocolError, match=str(MAX_STREAMS)):
        near.open(b"")
    tell(far, take(near))
    tell(near, take(far))
    with pytest.raises(RemoteProtocolError, match=str(MAX_STREAMS)):
        tell(far, encode_frame(OPEN, 2 * MAX_STREAMS + 1))
    near.reset(near.streams[1])
    near.open(b"")


def test_ping_is_answered_by_pong() -> None:
    near, far = pair()
    near.ping(b"12345678")
    assert tell(far, take(near)) == []
    assert tell(near, take(far)) == [(PONG, 0, b"12345678")]


def test_close_says_why() -> None:
    near, far = pair()
    near.close("the session has ended")
    assert tell(far, take(near)) == [(CLOSE, 0, b"the session has ended")]


# -- credit ------------------------------------------------------------------------------------------------------
def test_windows_grow_while_the_reader_keeps_up_and_stay_bounded() -> None:
    near, far = pair()
    stream, other = open_stream(near, far)
    windows = []
    for _ in range(12):
        while stream.sendable:
            near.send(stream, bytes(stream.sendable))
            tell(far, take(near), 70_001, consume=False)
        assert near.reserve(stream) is None
        windows.append(other.unread)
        far.consumed(other, other.unread)
        assert tell(near, take(far), 3)[-1][0] == CREDIT
        assert balanced(other)
    assert windows[0] == MIN_WINDOW
    assert windows[-1] == MAX_WINDOW
    assert windows == sorted(windows)


def test_a_reader_that_is_behind_gets_no_larger_window() -> None:
    near, far = pair()
    stream, other = open_stream(near, far)
    near.send(stream, bytes(MIN_WINDOW))
    tell(far, take(near), consume=False)
    far.consumed(other, MIN_WINDOW // 2)
    assert tell(near, take(far)) == [(CREDIT, 1, (MIN_WINDOW // 2).to_bytes(4))]
    assert other.window == MIN_WINDOW


def test_growth_is_bounded_per_link_and_comes_back() -> None:
    near, far = pair()
    opened = [open_stream(near, far) for _ in range(8)]
    for stream, _ in opened:
        for _ in range(12):
            while near.send(stream, bytes(stream.sendable)):
                tell(far, take(near))
            tell(near, take(far))
    assert sum(other.window - MIN_WINDOW for _, other in opened) == LINK_BUDGET
    for _, other in opened:
        far.reset(other)
    assert far._budget == LINK_BUDGET


def test_a_reader_that_finishes_after_the_end_takes_nothing_from_the_budget() -> None:
    near, far = pair()
    stream, other = open_stream(near, far)
    near.send(stream, bytes(MIN_WINDOW))
    tell(far, take(near), consume=False)
    far.reset(other)
    far.consumed(other, MIN_WINDOW)
    assert other.window == MIN_WINDOW
    assert far._budget == LINK_BUDGET


def test_a_stalled_reader_holds_one_window_and_its_neighbour_none() -> None:
    near, far = pair()
    stalled, _ = open_stream(near, far)
    busy, _ = open_stream(near, far)
    held = carried = 0
    for _ in range(100):
        near.send(stalled, bytes(100_000))
        near.send(busy, bytes(50_000))
        for kind, number, payload in tell(far, take(near), consume=False):
            assert kind == DATA
            if number == stalled.id:
                held += len(payload)
            else:
                carried += len(payload)
                far.consumed(far.streams[number], len(payload))
        tell(near, take(far))
    assert held == MIN_WINDOW
    assert carried > 4_000_000


# -- a peer that misbehaves ----------------------------------------------------------------------------------------
def open_frame(number: int) -> bytes:
    return encode_frame(OPEN, number, b"x:1")


BROKEN = {
    "unknown type": encode_frame(0, 0),
    "type from the future": encode_frame(13, 1),
    "flag on a control frame": encode_frame(FIN | STARVED, 1),
    "second HELLO": encode_frame(HELLO, 0, bytes(44)),
    "OPEN with our parity": open_frame(2),
    "OPEN of stream 0": open_frame(0),
    "OPEN twice": open_frame(1) + open_frame(1),
    "number reused": open_frame(3) + encode_frame(RESET, 3) + open_frame(3),
    "number going back": open_frame(3) + open_frame(1),
    "request too long": encode_frame(OPEN, 1, bytes(MAX_REQUEST + 1)),
    "CLOSE on a stream": encode_frame(CLOSE, 1),
    "reason too long": encode_frame(CLOSE, 0, bytes(MAX_REQUEST + 1)),
    "DATA for a stream never opened": encode_frame(DATA, 5, b"x"),
    "DATA for one of ours never opened": encode_frame(DATA, 2, b"x"),
    "DATA on stream 0": encode_frame(DATA, 0, b"x"),
    "DATA without credit": open_frame(1) + encode_frame(DATA, 1, bytes(MIN_WINDOW + 1)),
    "empty DATA": open_frame(1) + encode_frame(DATA, 1),
    "DATA after FIN": open_frame(1) + encode_frame(FIN, 1) + encode_frame(DATA, 1, b"x"),
    "FIN twice": open_frame(1) + encode_frame(FIN, 1) * 2,
    "FIN for a stream never opened": encode_frame(FIN, 5),
    "OPENED by the opener": open_frame(1) + encode_frame(OPENED, 1),
    "REJECT by the opener": open_frame(1) + encode_frame(REJECT, 1, encode_reject(1, "")),
    "REJECT without a code": open_frame(1) + encode_frame(REJECT, 1, b"x"),
    "CREDIT of nothing": open_frame(1) + encode_frame(CREDIT, 1, bytes(4)),
    "CREDIT beyond the largest window": open_frame(1) + encode_frame(CREDIT, 1, MAX_WINDOW.to_bytes(4)),
    "CREDIT of a wrong size": open_frame(1) + encode_frame(CREDIT, 1, bytes(3)),
    "PING on a stream": open_frame(1) + encode_frame(PING, 1, bytes(8)),
    "PING of a wrong size": encode_frame(PING, 0, bytes(7)),
    "ACK without resumption": encode_frame(ACK, 0, bytes(8)),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_broken_rules_end_the_link(name: str, step: int) -> None:
    _, far = pair()
    with pytest.raises(RemoteProtocolError):
        tell(far, BROKEN[name], step)
    with pytest.raises(RemoteProtocolError):
        tell(far, ping()), "and it stays ended"


@pytest.mark.parametrize("early", [encode_frame(DATA, 1, b"x"), encode_frame(FIN, 1)])
def test_the_accepting_end_says_opened_first(early: bytes) -> None:
    near, _ = pair()
    near.open(b"")
    with pytest.raises(RemoteProtocolError):
        tell(near, early)


def test_opened_twice_and_reject_after_opened() -> None:
    for second in (encode_frame(OPENED, 1), encode_frame(REJECT, 1, encode_reject(1, ""))):
        near, far = pair()
        open_stream(near, far)
        with pytest.raises(RemoteProtocolError):
            tell(near, second)


def queued(mux: Mux) -> int:
    return mux._queued + mux._pos


def test_a_peer_that_never_reads_makes_nothing_pile_up() -> None:
    _, far = pair()
    tell(far, ping() * 100_000 + pong() * 100_000)
    assert queued(far) == 0
    assert len(take(far)) == 16, "one PONG, for the latest PING"

    tell(far, open_frame(1))
    far.accept(far.streams[1])
    for _ in range(1000):
        stream = far.streams[1]
        if not stream.receivable:
            break
        tell(far, encode_frame(DATA, 1, bytes(min(1000, stream.receivable))))
    assert stream.receivable == 0, "without reading CREDIT it has no more credit"
    assert queued(far) < 100


def test_a_peer_that_makes_us_answer_but_never_reads_is_cut_off() -> None:
    _, far = pair()

    def open_and_reject() -> None:
        for number in range(1, 200_000, 2):
            tell(far, open_frame(number))
            far.reject(far.streams[number], 1, "x" * 1000)

    with pytest.raises(RemoteProtocolError, match="does not read"):
        open_and_reject()
    assert queued(far) < frames.MAX_QUEUED + 2 * frames.CHUNK
