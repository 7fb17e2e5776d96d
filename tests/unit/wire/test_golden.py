"""The bytes on the wire, frozen: a change here breaks the conversation with every released peer.

When one of these fails on purpose: raise WIRE_VERSION, keep speaking the old one where that is possible, then write
the new files with `python -m tests.unit.wire.test_golden`.
"""

from __future__ import annotations

from pathlib import Path

from tpd_core.wire import frames
from tpd_core.wire.hello import WIRE_VERSION, Capability, Hello, HelloReader
from tpd_core.wire.messages import encode_message
from tpd_core.wire.mux import Mux

GOLDEN = Path(__file__).with_name("golden")


def taken(mux: Mux) -> bytes:
    return b"".join(mux.data_to_send())


def told(mux: Mux, raw: bytes) -> None:
    mux.receive_data(memoryview(raw))


def samples() -> dict[str, bytes]:
    """Every frame, as the multiplexer itself writes it."""
    near, far = Mux(client=True, resumable=True), Mux(client=False, resumable=True)
    result: dict[str, bytes] = {}

    def note(name: str, source: Mux, target: Mux) -> None:
        result[name] = taken(source)
        told(target, result[name])

    stream = near.open(b"tcp 10.0.0.1:80")
    note("open", near, far)
    other = far.streams[stream.id]
    far.accept(other)
    note("opened", far, near)
    near.send(stream, b"payload")
    note("data", near, far)
    near.send(stream, bytes(frames.MIN_WINDOW - 7))
    starved = taken(near)
    told(far, starved)
    result["data_starved_header"] = starved[: frames.HEAD]
    far.consumed(other, frames.MIN_WINDOW)
    note("credit", far, near)
    near.fin(stream)
    note("fin", near, far)
    far.reset(other)
    note("reset", far, near)
    refused = near.open(b"udp 10.0.0.1:53")
    told(far, taken(near))
    far.reject(far.streams[refused.id], frames.RejectCode.REFUSED, "nothing listens on 10.0.0.1:53")
    note("reject", far, near)
    near.ping(b"\0\0\0\0\0\0\0\1")
    note("ping", near, far)
    note("pong", far, near)
    accepting = far.open(b"from the accepting end")
    note("open_accepting_end", far, near)
    near.accept(near.streams[accepting.id])
    told(far, taken(near))
    while near.received < frames.ACK_EVERY:
        far.send(accepting, bytes(40_000))
        told(near, taken(far))
        near.consumed(near.streams[accepting.id], near.streams[accepting.id].unread)
        if near.received < frames.ACK_EVERY:
            told(far, taken(near))
    result["ack"] = taken(near)[-(frames.HEAD + frames.NUMBER.size) :]  # after the credit
    near.close("the session has ended")
    result["close"] = taken(near)
    result["hello"] = Hello(bytes(range(16)), Capability.RESUME, resume=True, received=123456789).encode()
    result["message"] = encode_message(b"protobuf")
    return result


def test_frames_are_what_they_were() -> None:
    written = {name: raw.hex(" ", -4) + "\n" for name, raw in samples().items()}
    golden = {path.stem: path.read_text() for path in GOLDEN.glob("*.hex")}
    assert written == golden, f"the wire format changed: bump the version (it is {WIRE_VERSION})"


def test_numbers_are_what_they_were() -> None:
    names = ["OPEN", "OPENED", "REJECT", "DATA", "CREDIT", "FIN", "RESET", "PING", "PONG", "ACK", "HELLO", "CLOSE"]
    assert [getattr(frames, name) for name in names] == list(range(1, 13))
    assert (frames.MIN_WINDOW, frames.STARVED) == (65536, 0x80), "both ends assume these: bump the version"
    assert {code.name: code.value for code in frames.RejectCode} == {
        "REFUSED": 1,
        "UNREACHABLE": 2,
        "DENIED": 3,
        "TIMEOUT": 4,
        "UNSUPPORTED": 5,
        "INTERNAL": 6,
    }


def test_golden_hello_reads_back() -> None:
    raw = bytes.fromhex((GOLDEN / "hello.hex").read_text())
    found = HelloReader().feed(raw + b"rest")
    assert found == (Hello(bytes(range(16)), Capability.RESUME, True, 123456789, 1, 1), b"rest")


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for key, raw in samples().items():
        (GOLDEN / f"{key}.hex").write_text(raw.hex(" ", -4) + "\n")
