"""Messages survive any cut, and a length that lies is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpd_core.wire.errors import LocalProtocolError, RemoteProtocolError
from tpd_core.wire.messages import MAX_MESSAGE, MessageDecoder, encode_message


@given(messages=st.lists(st.binary(max_size=300), max_size=8), cut=st.integers(1, 400))
def test_round_trip_in_any_pieces(messages: list[bytes], cut: int) -> None:
    raw = b"".join(map(encode_message, messages))
    decoder = MessageDecoder()
    got = [message for i in range(0, len(raw), cut) for message in decoder.feed(raw[i : i + cut])]
    assert got == messages
    assert decoder.at_boundary()


def test_incomplete_message_is_seen() -> None:
    decoder = MessageDecoder()
    assert list(decoder.feed(encode_message(b"abc")[:-1])) == []
    assert not decoder.at_boundary()


def test_limits() -> None:
    with pytest.raises(LocalProtocolError, match=str(MAX_MESSAGE + 1)):
        encode_message(bytes(MAX_MESSAGE + 1))
    with pytest.raises(RemoteProtocolError, match=str(MAX_MESSAGE + 1)):
        list(MessageDecoder().feed((MAX_MESSAGE + 1).to_bytes(4)))
    assert list(MessageDecoder().feed(encode_message(bytes(MAX_MESSAGE)))) == [bytes(MAX_MESSAGE)]
