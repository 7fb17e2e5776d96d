"""HELLO: the first frame in each direction of every transport, and the choice of version and capabilities.

The connecting end speaks first; the accepting end answers when it has read that. HELLO does not count among the bytes
that resumption numbers. Its payload may grow: a reader ignores what follows the fields that it knows.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from struct import Struct
from typing import Final

from tpd_core.wire.errors import RemoteProtocolError
from tpd_core.wire.frames import HEAD, HEADER, HELLO, LENGTH_MASK, MAX_REQUEST, encode_frame

WIRE_VERSION: Final = 1
"""Version of the frames that this code writes; a change to any golden file raises it."""

OLDEST_VERSION: Final = 1
"""Oldest version that this code still speaks."""

MAGIC: Final = b"tpd-link"
LINK_ID_SIZE: Final = 16
_FIELDS: Final = Struct(f"!{len(MAGIC)}sHHII{LINK_ID_SIZE}sQ")
_RESUME: Final = 1


class Capability(enum.IntFlag, boundary=enum.KEEP):
    """What an end can do beyond the basic protocol; unknown bits are kept and ignored."""

    RESUME = 1  # keeps sent bytes until they are acknowledged, and acknowledges received ones


NO_CAPABILITY: Final = Capability(0)


@dataclass(frozen=True, slots=True)
class Hello:
    """What one end says first.

    Attributes:
        link_id: 16 random bytes chosen by the connecting end; the accepting end repeats them.
        capabilities: What the end can do.
        resume: Connecting end: continue the link of this id. Accepting end: it continues.
        received: Bytes of the link received so far, over all its transports.
        version_min: Oldest protocol version that the end speaks.
        version_max: Newest one.
    """

    link_id: bytes
    capabilities: Capability = NO_CAPABILITY
    resume: bool = False
    received: int = 0
    version_min: int = OLDEST_VERSION
    version_max: int = WIRE_VERSION

    def encode(self) -> bytes:
        """The whole frame."""
        flags = _RESUME if self.resume else 0
        fields = (self.version_min, self.version_max, flags, int(self.capabilities), self.link_id, self.received)
        return encode_frame(HELLO, 0, _FIELDS.pack(MAGIC, *fields))


class HelloReader:
    """Reads the peer's HELLO out of bytes that arrive in any pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> tuple[Hello, bytes] | None:
        """The HELLO and the bytes after it, or None while it is incomplete.

        Raises:
            RemoteProtocolError: Something else came first.
        """
        self._buffer += data
        if len(self._buffer) < HEAD:
            return None
        number, word = HEADER.unpack_from(self._buffer)
        size = word & LENGTH_MASK
        if number or word >> 24 != HELLO or not _FIELDS.size <= size <= MAX_REQUEST:
            raise RemoteProtocolError("the peer did not start with HELLO: it does not speak tpd's link protocol")
        if len(self._buffer) < HEAD + size:
            return None
        magic, low, high, flags, capabilities, link_id, received = _FIELDS.unpack_from(self._buffer, HEAD)
        if magic != MAGIC:
            raise RemoteProtocolError("wrong magic in HELLO: the peer does not speak tpd's link protocol")
        if low > high:
            raise RemoteProtocolError(f"HELLO with an empty version range {low} to {high}")
        hello = Hello(link_id, Capability(capabilities), bool(flags & _RESUME), received, low, high)
        return hello, bytes(self._buffer[HEAD + size :])


def choose_version(own: Hello, peer: Hello) -> int:
    """The newest version that both ends speak.

    Raises:
        RemoteProtocolError: There is none; the message names both ranges.
    """
    version = min(own.version_max, peer.version_max)
    if version < max(own.version_min, peer.version_min):
        raise RemoteProtocolError(
            "no common version of the link protocol: this end speaks "
            f"{_range(own)}, the peer {_range(peer)}; the older of the two must be upgraded"
        )
    return version


def _range(hello: Hello) -> str:
    low, high = hello.version_min, hello.version_max
    return f"version {low}" if low == high else f"versions {low} to {high}"
