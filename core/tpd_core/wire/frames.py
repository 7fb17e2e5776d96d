"""Frame layout and limits.

A frame is an 8-byte header and a payload. The header is two big-endian words: the stream's number, then the frame
type in the top byte and the payload's length in the low 24 bits. Numbers of streams opened by the connecting end are
odd, those of the accepting end even; stream 0 is the link itself.
"""

from __future__ import annotations

import enum
from struct import Struct
from typing import Final

HEADER: Final = Struct("!II")
HEAD: Final = HEADER.size
NUMBER: Final = Struct("!Q")
REJECT_CODE: Final = Struct("!H")

OPEN: Final = 1  # payload: the request, opaque here
OPENED: Final = 2  # the accepting end took the stream
REJECT: Final = 3  # the accepting end refused it; payload: code and message
DATA: Final = 4
CREDIT: Final = 5  # payload: how many more bytes the peer may send
FIN: Final = 6  # no more DATA from this end
RESET: Final = 7  # the stream ends at once, both ways
PING: Final = 8  # payload: 8 bytes, returned by PONG
PONG: Final = 9
ACK: Final = 10  # payload: how many bytes of the link were received, for resumption
HELLO: Final = 11  # first on every transport, never again
CLOSE: Final = 12  # the link is over, on purpose; payload: why

STARVED: Final = 0x80  # flag on DATA: this frame used up the stream's credit
TYPE_MASK: Final = 0x7F
LENGTH_MASK: Final = 0xFFFFFF

FIXED_SIZES: Final = {OPENED: 0, CREDIT: 4, FIN: 0, RESET: 0, PING: 8, PONG: 8, ACK: 8}
"""Payload length in bytes of the frames that have only one."""

LINK_FRAMES: Final = frozenset((PING, PONG, ACK, HELLO, CLOSE))
"""Frames that belong to stream 0; all others belong to a stream."""

CHUNK: Final = 8 * 16384
"""One write of the link in bytes: eight full TLS records. Half and double were both slower when measured."""

MIN_ROOM: Final = 4096
"""A DATA frame is not started in less space than this, in bytes."""

MAX_REQUEST: Final = 2048
"""Longest payload of OPEN, REJECT, HELLO and CLOSE, in bytes."""

MIN_WINDOW: Final = 64 << 10
"""Credit that every stream starts with, each way, in bytes; neither end announces it."""

MAX_WINDOW: Final = 16 << 20
"""Most that one stream's window grows to, in bytes."""

LINK_BUDGET: Final = 64 << 20
"""Sum of what all streams' windows may grow beyond MIN_WINDOW, in bytes."""

MAX_STREAMS: Final = 4096
"""Streams that one end may have open at the same time."""

MAX_QUEUED: Final = 16 << 20
"""Most that waits for a peer that sends but does not read, in bytes; then it is a protocol error."""

ACK_EVERY: Final = CHUNK
"""A resumable link acknowledges after this many received bytes."""

MAX_REPLAY: Final = 16 << 20
"""Most DATA that a resumable link keeps for replay, in bytes; a sender waits for ACK beyond it."""


class RejectCode(enum.IntEnum):
    """Why a stream was not opened."""

    REFUSED = 1  # nothing listens there
    UNREACHABLE = 2
    DENIED = 3
    TIMEOUT = 4
    UNSUPPORTED = 5
    INTERNAL = 6


def encode_frame(kind: int, number: int, payload: bytes = b"") -> bytes:
    """One frame as bytes; the multiplexer writes in place instead, tests and HELLO use this."""
    return HEADER.pack(number, kind << 24 | len(payload)) + payload


def encode_reject(code: int, message: str) -> bytes:
    """Payload of REJECT; a message that is too long is cut."""
    return REJECT_CODE.pack(code) + message.encode()[: MAX_REQUEST - REJECT_CODE.size]


def decode_reject(payload: bytes | memoryview) -> tuple[int, str]:
    """Code and message of a REJECT whose length was checked; what is not UTF-8 is replaced."""
    (code,) = REJECT_CODE.unpack_from(payload)
    return code, bytes(payload[REJECT_CODE.size :]).decode(errors="replace")
