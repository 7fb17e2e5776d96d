"""An SFTP session that outlives its transport. Pure: bytes in, bytes out.

sshfs speaks to this as to a server, and never learns that the real server behind it is another one after the link was
lost. What makes that possible: a handle that sshfs holds is ours, and stands for the file that was opened with it; on
a new transport every file is opened again, and every question that has no answer yet is asked again.

    down ──attach──▶ greeting ──VERSION──▶ reopening ──all answered──▶ up
      ◀───────────────────────── detach, at any time ────────────────────┘

Asking again is harmless for all that names an offset or only looks. For the rest the first time may have worked:
"no such file" then means that a removal or a renaming is done. A directory that was being listed cannot be continued;
its listing ends with an error.

The protocol: draft-ietf-secsh-filexfer-02, which is what sshfs and OpenSSH speak.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from struct import Struct
from typing import Final

_LENGTH: Final = Struct("!I")
_HEAD: Final = Struct("!BI")  # type, request id
_MAX_PACKET: Final = 1 << 20
"""Longest packet in bytes; OpenSSH's server takes and sends at most 256 KiB."""


class ProtocolError(Exception):
    """Either side sent something that is not SFTP."""


class _Type(enum.IntEnum):
    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    FSTAT = 8
    FSETSTAT = 10
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    RMDIR = 15
    RENAME = 18
    STATUS = 101
    HANDLE = 102
    EXTENDED = 200


_OK: Final = 0
_NO_SUCH_FILE: Final = 2
_FAILURE: Final = 4
_NO_CONNECTION: Final = 6

_BY_HANDLE: Final = frozenset((_Type.CLOSE, _Type.READ, _Type.WRITE, _Type.FSTAT, _Type.FSETSTAT, _Type.READDIR))
_EXTENDED_BY_HANDLE: Final = (b"fstatvfs@openssh.com", b"fsync@openssh.com")
_DONE_WHEN_MISSING: Final = frozenset((_Type.REMOVE, _Type.RMDIR, _Type.RENAME))
_EXTENDED_RENAME: Final = b"posix-rename@openssh.com"
_CREATING_FLAGS: Final = 0x08 | 0x10 | 0x20  # SSH_FXF_CREAT, SSH_FXF_TRUNC, SSH_FXF_EXCL


class _State(enum.Enum):
    DOWN = enum.auto()
    GREETING = enum.auto()
    REOPENING = enum.auto()
    UP = enum.auto()


@dataclass(slots=True)
class _Handle:
    """A file or directory that the client has open; `server` is None where it could not be opened again."""

    opening: bytes
    server: bytes | None


@dataclass(slots=True)
class _Request:
    """A question without an answer yet; `again` when it was asked on an earlier transport too."""

    body: bytes
    again: bool = False


class SftpSession:
    """The state between sshfs and whatever server there is.

    Attributes:
        to_client: Bytes for sshfs; the driver takes and clears them.
        to_server: Bytes for the present server; the driver takes and clears them.
        pending: Bytes of the questions without an answer; they are kept until there is one.
    """

    def __init__(self) -> None:
        self.to_client = bytearray()
        self.to_server = bytearray()
        self.pending = 0
        self._state = _State.DOWN
        self._given_up = False
        self._greeting = b""
        self._greeted = False
        self._from_client = bytearray()
        self._from_server = bytearray()
        self._requests: dict[int, _Request] = {}
        self._handles: dict[bytes, _Handle] = {}
        self._next_handle = 0
        self._reopening: dict[int, _Handle] = {}

    def client_data(self, data: bytes) -> None:
        """Take what sshfs sent.

        Raises:
            ProtocolError: It is not SFTP.
        """
        for body in _packets(self._from_client, data):
            self._on_request(body)

    def server_data(self, data: bytes) -> None:
        """Take what the server sent.

        Raises:
            ProtocolError: It is not SFTP, or not an answer to anything.
        """
        for body in _packets(self._from_server, data):
            self._on_reply(body)

    def attach(self) -> None:
        """There is a server, which has not been spoken to yet."""
        self._state = _State.GREETING
        self._given_up = False
        if self._greeting:
            self._put(self.to_server, self._greeting)

    def detach(self) -> None:
        """The server is gone; questions wait for the next one."""
        self._state = _State.DOWN
        self.to_server.clear()
        self._from_server.clear()
        self._reopening.clear()
        for handle in self._handles.values():
            handle.server = None
        for number, request in list(self._requests.items()):
            request.again = True
            if request.body[0] == _Type.READDIR:
                self._answer(number, _FAILURE)

    def give_up(self) -> None:
        """No server came for long: every question is answered with an error until one does."""
        self._given_up = True
        for number in list(self._requests):
            self._answer(number, _NO_CONNECTION)

    # -- sshfs's side --------------------------------------------------------------------------------------------
    def _on_request(self, body: bytes) -> None:
        if body[0] == _Type.INIT:
            self._greeting = body
            if self._state is _State.GREETING:
                self._put(self.to_server, body)
            return
        if len(body) < _HEAD.size:
            raise ProtocolError("a request without a number")
        _, number = _HEAD.unpack_from(body)
        self._requests[number] = _Request(body)
        self.pending += len(body)
        if self._given_up:
            self._answer(number, _NO_CONNECTION)
        elif self._state is _State.UP:
            self._ask(number)

    def _ask(self, number: int) -> None:
        body = self._requests[number].body
        at = _handle_position(body)
        if at is None:
            self._put(self.to_server, body)
            return
        name, end = _string(body, at)
        handle = self._handles.get(name)
        if handle is not None and handle.server is not None:
            self._put(self.to_server, body[:at] + _pack(handle.server) + body[end:])
        elif body[0] == _Type.CLOSE:
            self._handles.pop(name, None)
            self._answer(number, _OK)
        else:
            self._answer(number, _FAILURE)

    def _answer(self, number: int, code: int) -> None:
        """Answer in the server's stead."""
        self.pending -= len(self._requests.pop(number).body)
        self._put(self.to_client, _HEAD.pack(_Type.STATUS, number) + _LENGTH.pack(code) + _pack(b"") + _pack(b""))

    # -- the server's side ---------------------------------------------------------------------------------------
    def _on_reply(self, body: bytes) -> None:
        if self._state is _State.GREETING:
            if body[0] != _Type.VERSION:
                raise ProtocolError(f"the server began with packet {body[0]}")
            if not self._greeted:
                self._greeted = True
                self._put(self.to_client, body)
            self._reopen()
            return
        if len(body) < _HEAD.size:
            raise ProtocolError("a reply without a number")
        kind, number = _HEAD.unpack_from(body)
        if self._state is _State.REOPENING:
            handle = self._reopening.pop(number, None)
            if handle is None:
                raise ProtocolError(f"a reply to {number}, which was not asked")
            handle.server = _string(body, _HEAD.size)[0] if kind == _Type.HANDLE else None
            self._resume_if_reopened()
            return
        request = self._requests.pop(number, None)
        if request is None:
            raise ProtocolError(f"a reply to {number}, which was not asked")
        self.pending -= len(request.body)
        self._put(self.to_client, self._translate(kind, number, body, request))

    def _translate(self, kind: int, number: int, body: bytes, request: _Request) -> bytes:
        if kind == _Type.HANDLE:
            name = _LENGTH.pack(self._next_handle)
            self._next_handle += 1
            self._handles[name] = _Handle(_without_creation(request.body), _string(body, _HEAD.size)[0])
            return body[: _HEAD.size] + _pack(name)
        if request.body[0] == _Type.CLOSE:
            self._handles.pop(_string(request.body, _HEAD.size)[0], None)
        if request.again and kind == _Type.STATUS and _done_when_missing(request.body):
            (code,) = _LENGTH.unpack_from(body, _HEAD.size)
            if code == _NO_SUCH_FILE:
                return _HEAD.pack(_Type.STATUS, number) + _LENGTH.pack(_OK) + _pack(b"") + _pack(b"")
        return body

    def _reopen(self) -> None:
        self._state = _State.REOPENING
        for number, handle in enumerate(self._handles.values()):
            self._reopening[number] = handle
            self._put(self.to_server, _HEAD.pack(handle.opening[0], number) + handle.opening[_HEAD.size :])
        self._resume_if_reopened()

    def _resume_if_reopened(self) -> None:
        if not self._reopening:
            self._state = _State.UP
            for number in list(self._requests):
                self._ask(number)

    @staticmethod
    def _put(buffer: bytearray, body: bytes) -> None:
        buffer += _LENGTH.pack(len(body))
        buffer += body


def _packets(buffer: bytearray, data: bytes) -> list[bytes]:
    """The complete packets, without their lengths."""
    buffer += data
    result = []
    position = 0
    while len(buffer) - position >= _LENGTH.size:
        (size,) = _LENGTH.unpack_from(buffer, position)
        if not 0 < size <= _MAX_PACKET:
            raise ProtocolError(f"a packet of {size} bytes")
        end = position + _LENGTH.size + size
        if len(buffer) < end:
            break
        result.append(bytes(buffer[position + _LENGTH.size : end]))
        position = end
    del buffer[:position]
    return result


def _pack(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value


def _string(body: bytes, position: int) -> tuple[bytes, int]:
    """A string and the position after it."""
    start = position + _LENGTH.size
    if len(body) < start:
        raise ProtocolError("a packet that ends early")
    end = start + _LENGTH.unpack_from(body, position)[0]
    if len(body) < end:
        raise ProtocolError("a packet that ends early")
    return body[start:end], end


def _handle_position(body: bytes) -> int | None:
    """Where the handle begins that a request is about, None where it is about none."""
    if body[0] in _BY_HANDLE:
        return _HEAD.size
    if body[0] == _Type.EXTENDED:
        name, end = _string(body, _HEAD.size)
        if name in _EXTENDED_BY_HANDLE:
            return end
    return None


def _without_creation(body: bytes) -> bytes:
    """The opening again, without creating or cutting the file."""
    if body[0] != _Type.OPEN:
        return body
    _, end = _string(body, _HEAD.size)
    if len(body) < end + _LENGTH.size:
        raise ProtocolError("a packet that ends early")
    (flags,) = _LENGTH.unpack_from(body, end)
    return body[:end] + _LENGTH.pack(flags & ~_CREATING_FLAGS) + body[end + _LENGTH.size :]


def _done_when_missing(body: bytes) -> bool:
    if body[0] == _Type.EXTENDED:
        return _string(body, _HEAD.size)[0] == _EXTENDED_RENAME
    return body[0] in _DONE_WHEN_MISSING
