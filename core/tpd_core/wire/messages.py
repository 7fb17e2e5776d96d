"""Messages on a stream: a 4-byte big-endian length, then the message; what is in it is the caller's business."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

from tpd_core.wire.errors import LocalProtocolError, RemoteProtocolError

MAX_MESSAGE: Final = 1 << 20
"""Longest message in bytes."""

_LENGTH: Final = Struct("!I")


def encode_message(payload: bytes) -> bytes:
    """Length and payload.

    Raises:
        LocalProtocolError: The payload is longer than MAX_MESSAGE.
    """
    if len(payload) > MAX_MESSAGE:
        raise LocalProtocolError(f"message of {len(payload)} bytes, the limit is {MAX_MESSAGE}")
    return _LENGTH.pack(len(payload)) + payload


class MessageDecoder:
    """Cuts messages out of bytes that arrive in any pieces; holds at most one incomplete message."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """The messages completed by `data`; take all of them before feeding again.

        Raises:
            RemoteProtocolError: A message is longer than MAX_MESSAGE.
        """
        self._buffer += data
        while (message := self._take()) is not None:
            yield message

    def at_boundary(self) -> bool:
        """No incomplete message waits for the rest: the stream may end here."""
        return not self._buffer

    def _take(self) -> bytes | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        (size,) = _LENGTH.unpack_from(self._buffer)
        if size > MAX_MESSAGE:
            raise RemoteProtocolError(f"message of {size} bytes, the limit is {MAX_MESSAGE}")
        end = _LENGTH.size + size
        if len(self._buffer) < end:
            return None
        message = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return message
