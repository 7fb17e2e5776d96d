"""As much of the SFTP protocol, version 3, as the tests need."""

from __future__ import annotations

import asyncio
import struct

from tpd_core.aio.stream import Stream

OPEN_READ, OPEN_CREATE = 1, 2 | 8
STATUS, HANDLE, DATA, NAME = 101, 102, 103, 104
OK, NO_SUCH_FILE, DENIED = 0, 2, 3


class Sftp:
    """A session on a stream that OpenSSH's file server answers."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = b""

    async def start(self) -> None:
        await self._send(1, struct.pack("!I", 3))
        assert (await self._receive())[0] == 2

    async def _send(self, kind: int, body: bytes) -> None:
        await self._stream.write(struct.pack("!IB", len(body) + 1, kind) + body)

    async def _receive(self) -> tuple[int, bytes]:
        async with asyncio.timeout(10):
            while len(self._buffer) < 4 or len(self._buffer) < 4 + int.from_bytes(self._buffer[:4]):
                data = await self._stream.read()
                assert data, "the file server has ended"
                self._buffer += data
        size = int.from_bytes(self._buffer[:4])
        kind, body, self._buffer = self._buffer[4], self._buffer[5 : 4 + size], self._buffer[4 + size :]
        return kind, body

    async def _call(self, kind: int, *fields: str | int | bytes) -> tuple[int, bytes]:
        body = struct.pack("!I", 1)
        for field in fields:
            if isinstance(field, int):
                body += struct.pack("!I", field)
            else:
                data = field.encode() if isinstance(field, str) else field
                body += struct.pack("!I", len(data)) + data
        await self._send(kind, body)
        answer, data = await self._receive()
        return answer, data[4:]

    async def realpath(self, path: str) -> str:
        answer, body = await self._call(16, path)
        assert answer == NAME
        return body[8 : 8 + int.from_bytes(body[4:8])].decode()

    async def read(self, path: str) -> bytes | int:
        """The file's first bytes, or the error's code."""
        answer, body = await self._call(3, path, OPEN_READ, 0)
        if answer == STATUS:
            return int.from_bytes(body[:4])
        handle = body[4:]
        answer, body = await self._call(5, handle, 0, 0, 1000)
        return body[4:] if answer == DATA else int.from_bytes(body[:4])

    async def write(self, path: str, content: bytes) -> int:
        """Create a file; the code of the first error, or 0."""
        answer, body = await self._call(3, path, OPEN_CREATE, 0)
        if answer == STATUS:
            return int.from_bytes(body[:4])
        handle = body[4:]
        await self._call(6, handle, 0, 0, content)
        _, body = await self._call(4, handle)
        return int.from_bytes(body[:4])
