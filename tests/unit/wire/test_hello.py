"""HELLO: any pieces, any bytes, and the choice of a version."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpd_core.wire.errors import RemoteProtocolError
from tpd_core.wire.frames import HELLO, encode_frame
from tpd_core.wire.hello import Capability, Hello, HelloReader, choose_version

hellos = st.builds(
    Hello,
    link_id=st.binary(min_size=16, max_size=16),
    capabilities=st.integers(0, 2**32 - 1).map(Capability),
    resume=st.booleans(),
    received=st.integers(0, 2**64 - 1),
    version_min=st.integers(0, 9),
    version_max=st.integers(9, 65535),
)


def read(pieces: list[bytes]) -> tuple[Hello, bytes] | str | None:
    reader = HelloReader()
    try:
        for i, piece in enumerate(pieces):
            if (found := reader.feed(piece)) is not None:
                return found[0], found[1] + b"".join(pieces[i + 1 :])
    except RemoteProtocolError:
        return "error"
    return None


@given(hello=hellos, rest=st.binary(max_size=30), cut=st.integers(1, 90))
def test_round_trip_in_any_pieces(hello: Hello, rest: bytes, cut: int) -> None:
    raw = hello.encode() + rest
    assert read([raw[i : i + cut] for i in range(0, len(raw), cut)]) == (hello, rest)


@given(noise=st.binary(max_size=100), keep=st.integers(0, 52), cut=st.integers(1, 20))
def test_any_bytes_parse_or_are_refused(noise: bytes, keep: int, cut: int) -> None:
    raw = Hello(bytes(16)).encode()[:keep] + noise
    assert read([raw]) == read([raw[i : i + cut] for i in range(0, len(raw), cut)])


def test_a_longer_hello_of_a_later_version_is_understood() -> None:
    raw = Hello(bytes(16)).encode()[8:] + b"later fields"
    assert read([encode_frame(HELLO, 0, raw)]) == (Hello(bytes(16)), b"")


@pytest.mark.parametrize(
    "raw", [b"GET / HTTP/1.1\r\n\r\n", encode_frame(1, 1, b"x:1"), encode_frame(HELLO, 0, bytes(44))]
)
def test_anything_else_first_is_refused(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="does not speak tpd's link protocol"):
        HelloReader().feed(raw)


@pytest.mark.parametrize(("own", "peer", "version"), [((1, 1), (1, 1), 1), ((1, 3), (2, 5), 3), ((2, 4), (1, 2), 2)])
def test_newest_common_version(own: tuple[int, int], peer: tuple[int, int], version: int) -> None:
    a = Hello(bytes(16), version_min=own[0], version_max=own[1])
    b = Hello(bytes(16), version_min=peer[0], version_max=peer[1])
    assert choose_version(a, b) == choose_version(b, a) == version


def test_no_common_version_names_both() -> None:
    own, peer = Hello(bytes(16)), Hello(bytes(16), version_min=2, version_max=4)
    with pytest.raises(RemoteProtocolError, match=r"this end speaks version 1, the peer versions 2 to 4"):
        choose_version(own, peer)
