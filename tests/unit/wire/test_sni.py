"""The ClientHello reader against hellos that OpenSSL writes, cut up in every way, and against noise."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tpd_core.wire.errors import RemoteProtocolError
from tpd_core.wire.sni import MAX_HELLO, SniReader


def client_hello(name: str | None) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def records(hello: bytes, size: int) -> bytes:
    """The same handshake message in records of `size` bytes."""
    message = hello[5:]
    parts = [message[i : i + size] for i in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2) + part for part in parts)


HELLO = client_hello("Pod-UID.Agent.tpd")


def outcome(pieces: list[bytes]) -> tuple[str, str]:
    reader = SniReader()
    try:
        for piece in pieces:
            name = reader.feed(piece)
            if name is not None:
                return "name", name
    except RemoteProtocolError:
        return "error", ""
    return "more", ""


@given(cut=st.integers(1, len(HELLO)), record=st.integers(1, len(HELLO)), after=st.binary(max_size=20))
def test_name_whatever_the_pieces(cut: int, record: int, after: bytes) -> None:
    raw = records(HELLO, record) + after
    reader = SniReader()
    name = None
    for start in range(0, len(raw), cut):
        if (name := reader.feed(raw[start : start + cut])) is not None:
            break
    assert name == "pod-uid.agent.tpd"
    assert raw.startswith(bytes(reader.received))


@given(cut=st.integers(0, len(HELLO) - 1))
def test_incomplete_waits(cut: int) -> None:
    assert outcome([HELLO[:cut]]) == ("more", "")


def test_no_name_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="no SNI"):
        SniReader().feed(client_hello(None))


@pytest.mark.parametrize(
    "raw", [b"GET / HTTP/1.1\r\n", b"SSH-2.0-x\r\n", b"\x16\x02\x01\0\5hello", b"\x15\x03\x01\0\2\1\0"]
)
def test_other_protocols_are_refused_at_once(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="not TLS"):
        SniReader().feed(raw)


def test_long_hello_is_refused() -> None:
    announced = b"\x16\x03\x01\x40\x00\x01" + MAX_HELLO.to_bytes(3)
    with pytest.raises(RemoteProtocolError, match="limit"):
        SniReader().feed(announced + bytes(16384 - 4))
    endless = b"\x16\x03\x01\x00\x01\x01" + b"\x16\x03\x01\x00\x01\x00" * (MAX_HELLO // 6)
    assert outcome([endless])[0] == "error"


@given(raw=st.binary(max_size=200), seed=st.integers(0, len(HELLO) - 1), cut=st.integers(1, 50))
@example(raw=b"", seed=0, cut=1)
def test_any_bytes_whole_or_in_pieces_come_to_the_same(raw: bytes, seed: int, cut: int) -> None:
    for noise in (raw, HELLO[:seed] + raw, HELLO[:seed] + raw + HELLO[seed + len(raw) :]):
        pieces = [noise[i : i + cut] for i in range(0, len(noise), cut)]
        assert outcome([noise]) == outcome(pieces)


@given(size=st.integers(1, 7))
def test_limit_does_not_depend_on_the_pieces(size: int) -> None:
    message = b"\x01" + (12_000).to_bytes(3) + bytes(12_000)
    raw = records(bytes(5) + message, size)
    assert outcome([raw])[0] == outcome([raw[i : i + 997] for i in range(0, len(raw), 997)])[0] == "error"
