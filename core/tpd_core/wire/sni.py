"""Reads the server name out of a TLS ClientHello without opening the connection; sans-IO.

Layouts: records from RFC 8446 section 5.1, ClientHello from 4.1.2, the server_name extension from RFC 6066 section 3.
The hello may be spread over several records and arrive in any pieces.
"""

from __future__ import annotations

from typing import Final

from tpd_core.wire.errors import RemoteProtocolError

MAX_HELLO: Final = 16 << 10
"""Most bytes that are read before there must be an answer."""

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0
_MAX_RECORD: Final = 1 << 14
_MAX_NAME: Final = 253


class SniReader:
    """Feed it what the client sends; it keeps every byte, for the server that the name leads to.

    Attributes:
        received: All bytes fed so far.
    """

    def __init__(self) -> None:
        self.received = bytearray()
        self._position = 0  # start of the first record that was not taken over into _hello
        self._hello = bytearray()

    def feed(self, data: bytes | memoryview) -> str | None:
        """The host name in lower case, or None while the hello is incomplete.

        Raises:
            RemoteProtocolError: It is no ClientHello, is longer than MAX_HELLO, or names no host.
        """
        self.received += data
        while (record := self._record()) is not None:
            self._hello += record
            if self._hello[0] != _CLIENT_HELLO:
                raise RemoteProtocolError("the first TLS message is not a ClientHello")
            if len(self._hello) >= 4:
                size = 4 + int.from_bytes(self._hello[1:4])
                if size > MAX_HELLO:
                    raise RemoteProtocolError(f"ClientHello of {size} bytes, the limit is {MAX_HELLO}")
                if len(self._hello) >= size and self._position <= MAX_HELLO:
                    return _server_name(bytes(self._hello[4:size]))
        if len(self.received) >= MAX_HELLO:
            raise RemoteProtocolError(f"no complete ClientHello within {MAX_HELLO} bytes")
        return None

    def _record(self) -> bytes | None:
        start = self._position
        available = len(self.received) - start
        if available and self.received[start] != _HANDSHAKE:
            raise RemoteProtocolError("not TLS: the first record is not a handshake")
        if available >= 2 and self.received[start + 1] != 3:
            raise RemoteProtocolError(f"not TLS: record version {self.received[start + 1]}")
        if available < 5:
            return None
        size = int.from_bytes(self.received[start + 3 : start + 5])
        if not 0 < size <= _MAX_RECORD:
            raise RemoteProtocolError(f"TLS record of {size} bytes")
        if available < 5 + size:
            return None
        self._position = start + 5 + size
        return bytes(self.received[start + 5 : self._position])


class _Cursor:
    """Reads length-prefixed fields; never past the end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    def take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._data):
            raise RemoteProtocolError("malformed ClientHello: a field passes its end")
        self._position, start = end, self._position
        return self._data[start:end]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def block(self, prefix: int) -> bytes:
        return self.take(self.number(prefix))

    def __bool__(self) -> bool:
        return self._position < len(self._data)


def _server_name(hello: bytes) -> str:
    cursor = _Cursor(hello)
    cursor.take(2 + 32)  # legacy version, random
    cursor.block(1)  # session id
    cursor.block(2)  # cipher suites
    cursor.block(1)  # compression methods
    extensions = _Cursor(cursor.block(2) if cursor else b"")
    while extensions:
        kind = extensions.number(2)
        content = extensions.block(2)
        if kind == _SERVER_NAME:
            names = _Cursor(_Cursor(content).block(2))
            while names:
                name_type = names.number(1)
                name = names.block(2)
                if name_type == _HOST_NAME:
                    return _host_name(name)
    raise RemoteProtocolError("the ClientHello names no host (no SNI)")


def _host_name(name: bytes) -> str:
    text = name.decode("ascii", "replace").lower()
    if not 0 < len(name) <= _MAX_NAME or not all(c.isalnum() or c in "-._" for c in text) or not name.isascii():
        raise RemoteProtocolError(f"the ClientHello names a host that is none: {name[:80]!r}")
    return text
