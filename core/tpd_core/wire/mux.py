"""The stream multiplexer, sans-IO: bytes in, events out; queued frames come back as buffers.

Theory
======
*Streams.* A stream is born by OPEN and lives, for each end, until both FINs have passed or a RESET or REJECT was sent
or received; then it is forgotten and its number never used again (numbers only grow). Frames for a forgotten stream
may still be on their way and are ignored; frames for a number never opened are a protocol error.

    opener     OPEN ──▶ opening ──OPENED──▶ open ──FIN──▶ half closed ──FIN──▶ forgotten
                           └──REJECT──▶ forgotten  └──RESET, at any time, either end──▶ forgotten

OPEN is optimistic: the opener may send DATA, FIN or RESET at once, up to the initial credit, without waiting for
OPENED. The other end sends nothing but CREDIT, REJECT or RESET before its OPENED.

*Credit.* An end may send what the other granted. A stream starts at MIN_WINDOW; what the reader consumed is granted
again in quarters of the window. Growth needs no clock: the sender marks the DATA frame that used up its credit
(STARVED), and if the reader has taken everything when that frame is consumed, the window doubles, up to MAX_WINDOW
per stream and LINK_BUDGET per link. A stalled reader holds its own window and nothing else.

*No copies.* The driver reads a local socket straight into the next DATA frame (`reserve`, then `commit`), and gets
received DATA as views into the buffer that it passed to `receive_data`, valid until it reuses it. A DATA frame may
arrive as several events; only split headers and control frames are put together here.

*Bounds.* PONG, CREDIT and ACK are not queued: what is due is remembered (the latest PING, a set of streams, a
number) and written when the driver takes data, so a peer that sends but never reads makes none of them pile up, and
runs out of credit. Everything else that a peer can provoke counts against MAX_QUEUED.

*Resumption.* With `resumable`, sent chunks are kept instead of reused until an ACK covers them. After the transport
was lost, `resume` takes the count of bytes that the peer says it has received and queues the rest again; the parser's
state survives, so the cut may be anywhere.
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

from tpd_core.wire.errors import LocalProtocolError, RemoteProtocolError
from tpd_core.wire.frames import (
    ACK,
    ACK_EVERY,
    CHUNK,
    CLOSE,
    CREDIT,
    DATA,
    FIN,
    FIXED_SIZES,
    HEAD,
    HEADER,
    LENGTH_MASK,
    LINK_BUDGET,
    LINK_FRAMES,
    MAX_QUEUED,
    MAX_REPLAY,
    MAX_REQUEST,
    MAX_STREAMS,
    MAX_WINDOW,
    MIN_ROOM,
    MIN_WINDOW,
    NUMBER,
    OPEN,
    OPENED,
    PING,
    PONG,
    REJECT,
    REJECT_CODE,
    RESET,
    STARVED,
    TYPE_MASK,
    encode_reject,
)
from tpd_core.wire.stream import MuxStream

Event: TypeAlias = tuple[int, MuxStream | None, memoryview | bytes]
"""Frame type, the stream (None for frames of the link), the payload. DATA payloads may be parts of a frame."""

_KEPT_CHUNKS = 8
_LAST_NUMBER = 0xFFFFFFFF


class Mux:
    """One end of a link.

    Args:
        client: This is the connecting end.
        resumable: Both ends said that they can resume.
    """

    def __init__(self, *, client: bool, resumable: bool = False) -> None:
        self.streams: dict[int, MuxStream] = {}
        self.resumable = resumable
        self.received = 0
        """Bytes received so far, over all transports."""
        self.sent = 0
        """Bytes handed out so far; after `resume`, counted again from where the peer stopped."""
        self._parity = 1 if client else 0
        self._next = 1 if client else 2
        self._last_peer = 0
        self._opened_here = self._opened_there = 0
        self._budget = LINK_BUDGET
        # receiving
        self._error: RemoteProtocolError | None = None
        self._stash = b""
        self._left = 0
        self._current: MuxStream | None = None
        # due, written when data is taken
        self._credits: dict[int, MuxStream] = {}
        self._pong: bytes | None = None
        # sending: the chunk being filled, and full ones
        self._pool: list[bytearray] = []
        self._sealed: list[tuple[bytearray, int, int]] = []  # chunk, from, to
        self._queued = 0  # bytes in _sealed
        self._chunk = bytearray(CHUNK)
        self._view = memoryview(self._chunk)
        self._start = self._pos = 0
        # resumption
        self._replay: deque[tuple[int, bytearray, int]] = deque()  # first byte's number, chunk, length
        self._chunk_number = self._acked = self._ack_sent = 0

    # -- streams -------------------------------------------------------------------------------------------------
    def open(self, request: bytes) -> MuxStream:
        """Queue OPEN.

        Raises:
            LocalProtocolError: The request is longer than MAX_REQUEST, or MAX_STREAMS are open already.
        """
        if len(request) > MAX_REQUEST:
            raise LocalProtocolError(f"request of {len(request)} bytes, the limit is {MAX_REQUEST}")
        if self._opened_here >= MAX_STREAMS:
            raise LocalProtocolError(f"{MAX_STREAMS} streams are open on this link already")
        if self._next > _LAST_NUMBER:
            raise LocalProtocolError("the link has used up its stream numbers")
        stream = self.streams[self._next] = MuxStream(self._next, initiated=True)
        self._next += 2
        self._opened_here += 1
        self._control(OPEN, stream.id, request)
        return stream

    def accept(self, stream: MuxStream) -> None:
        """Queue OPENED for a stream that the peer opened."""
        if stream.initiated or stream.opened or stream.done:
            raise LocalProtocolError(f"stream {stream.id} does not wait to be accepted")
        stream.opened = True
        self._control(OPENED, stream.id)

    def reject(self, stream: MuxStream, code: int, message: str = "") -> None:
        """Queue REJECT for a stream that the peer opened; the stream is over."""
        if stream.initiated or stream.opened or stream.done:
            raise LocalProtocolError(f"stream {stream.id} does not wait to be accepted")
        self._control(REJECT, stream.id, encode_reject(code, message))
        self._forget(stream)

    def fin(self, stream: MuxStream) -> None:
        """Queue FIN: no more DATA from this end."""
        self._check_sending(stream)
        stream.fin_sent = True
        self._control(FIN, stream.id)
        if stream.fin_received:
            self._forget(stream)

    def reset(self, stream: MuxStream) -> None:
        """Queue RESET, unless the stream is over already."""
        if not stream.done:
            self._control(RESET, stream.id)
            self._forget(stream)

    def ping(self, payload: bytes) -> None:
        """Queue PING; the peer returns the 8 bytes, but answers only the latest of several."""
        self._control(PING, 0, payload)

    def close(self, reason: str) -> None:
        """Queue CLOSE: the link ends on purpose, and the peer need not wait for a new transport."""
        self._control(CLOSE, 0, reason.encode()[:MAX_REQUEST])

    # -- sending -------------------------------------------------------------------------------------------------
    def reserve(self, stream: MuxStream, limit: int = CHUNK) -> memoryview | None:
        """Space for the stream's next payload; None without credit or while enough is queued.

        The space is valid until the next call of any other method.
        """
        pos = self._pos
        if CHUNK - pos < MIN_ROOM:
            if self._sealed or (self.resumable and self._chunk_number + pos - self._acked > MAX_REPLAY):
                return None
            self._seal()
            pos = 0
        credit = stream.sendable
        if credit < limit:
            if credit <= 0:
                return None
            limit = credit
        pos += HEAD
        return self._view[pos : pos + limit]

    def commit(self, stream: MuxStream, size: int) -> None:
        """The first `size` bytes (at least 1) of the reserved space are the payload."""
        stream.sendable -= size
        kind = DATA if stream.sendable else DATA | STARVED
        HEADER.pack_into(self._chunk, self._pos, stream.id, kind << 24 | size)
        self._pos += HEAD + size

    def send(self, stream: MuxStream, data: bytes | memoryview) -> int:
        """Copy as much of `data` into frames as fits; the number of bytes taken.

        Raises:
            LocalProtocolError: The stream's sending side is closed.
        """
        self._check_sending(stream)
        done = 0
        with memoryview(data) as source:
            while done < len(source) and (view := self.reserve(stream, len(source) - done)) is not None:
                size = len(view)
                view[:] = source[done : done + size]
                self.commit(stream, size)
                done += size
        return done

    def pending(self) -> bool:
        """`data_to_send` has something."""
        return self._pos > self._start or bool(self._sealed or self._credits or self._pong or self._ack_due())

    def data_to_send(self) -> list[memoryview]:
        """Everything queued or due, in order.

        Without resumption the buffers are reused from the next call of any method on: write them out first.
        """
        if self._credits:
            for stream in self._credits.values():
                stream.receivable += stream.owed
                self._control(CREDIT, stream.id, stream.owed.to_bytes(4))
                stream.owed = 0
            self._credits.clear()
        if self._pong is not None:
            self._control(PONG, 0, self._pong)
            self._pong = None
        if self._ack_due():
            self._ack_sent = self.received
            self._control(ACK, 0, NUMBER.pack(self.received))
        views = [memoryview(chunk)[a:b] for chunk, a, b in self._sealed]
        self.sent += self._queued + self._pos - self._start
        if self._pos > self._start:
            views.append(self._view[self._start : self._pos])
        if self.resumable:
            self._start = self._pos
        else:
            for chunk, _, _ in self._sealed:
                self._recycle(chunk)
            self._start = self._pos = 0
        self._sealed.clear()
        self._queued = 0
        return views

    def _check_sending(self, stream: MuxStream) -> None:
        if stream.fin_sent or stream.done or not (stream.opened or stream.initiated):
            raise LocalProtocolError(f"stream {stream.id} cannot send")

    def _control(self, kind: int, number: int, payload: bytes = b"") -> None:
        size = HEAD + len(payload)
        if CHUNK - self._pos < size:
            self._seal()
        pos = self._pos
        HEADER.pack_into(self._chunk, pos, number, kind << 24 | len(payload))
        if payload:
            self._view[pos + HEAD : pos + size] = payload
        self._pos = pos + size

    def _seal(self) -> None:
        if self._pos > self._start:
            self._sealed.append((self._chunk, self._start, self._pos))
            self._queued += self._pos - self._start
        if self.resumable:
            self._replay.append((self._chunk_number, self._chunk, self._pos))
            self._chunk_number += self._pos
        self._chunk = self._pool.pop() if self._pool else bytearray(CHUNK)
        self._view = memoryview(self._chunk)
        self._start = self._pos = 0

    def _recycle(self, chunk: bytearray) -> None:
        if len(self._pool) < _KEPT_CHUNKS:
            self._pool.append(chunk)

    # -- resumption ----------------------------------------------------------------------------------------------
    def resume(self, peer_received: int) -> None:
        """A new transport: queue again what the peer has not got.

        Raises:
            RemoteProtocolError: The peer's count is outside what is kept.
        """
        if not self._acked <= peer_received <= self.sent:
            raise RemoteProtocolError(
                f"the peer wants to resume at byte {peer_received}, kept are {self._acked} to {self.sent}"
            )
        self._on_ack(peer_received)
        self._sealed = [(c, max(0, peer_received - n), size) for n, c, size in self._replay]
        self._queued = sum(b - a for _, a, b in self._sealed)
        self._start = max(0, peer_received - self._chunk_number)
        self.sent = peer_received

    def _ack_due(self) -> bool:
        return self.resumable and self.received - self._ack_sent >= ACK_EVERY

    def _on_ack(self, number: int) -> None:
        if number > self.sent:
            raise RemoteProtocolError(f"ACK of byte {number}, sent are {self.sent}")
        if number < self._acked:
            return  # an old ACK, replayed on a new transport
        self._acked = number
        while self._replay and self._replay[0][0] + self._replay[0][2] <= number:
            self._recycle(self._replay.popleft()[1])

    # -- receiving -----------------------------------------------------------------------------------------------
    def receive_data(self, data: memoryview) -> list[Event]:
        """Events in the order of the frames.

        Raises:
            RemoteProtocolError: The peer broke the protocol; every later call raises it again.
        """
        if self._error is not None:
            raise self._error
        try:
            return self._parse(data)
        except RemoteProtocolError as error:
            self._error = error
            raise

    def _parse(self, data: memoryview) -> list[Event]:
        events: list[Event] = []
        self.received += len(data)
        if self._stash:
            data, self._stash = memoryview(self._stash + data), b""
        end, pos = len(data), 0
        unpack, streams = HEADER.unpack_from, self.streams
        if self._left:
            pos = min(self._left, end)
            self._left -= pos
            current = self._current
            if current is not None and not current.done:
                events.append((DATA, current, data[:pos]))
        while pos < end:
            if end - pos < HEAD:
                self._stash = bytes(data[pos:])
                break
            number, word = unpack(data, pos)
            size, kind = word & LENGTH_MASK, word >> 24
            stream = streams.get(number)
            pos += HEAD
            if kind & TYPE_MASK == DATA:
                part = size if size <= end - pos else end - pos
                if part < size:
                    self._left, self._current = size - part, stream
                if stream is None:
                    self._check_known(number)
                else:
                    if (
                        not 0 < size <= stream.receivable
                        or stream.fin_received
                        or not (stream.opened or not stream.initiated)
                    ):
                        raise RemoteProtocolError(_bad_data(stream, size))
                    stream.receivable -= size
                    stream.unread += size
                    if kind & STARVED:
                        stream.starved = True
                    if part:
                        events.append((DATA, stream, data[pos : pos + part]))
                pos += part
                continue
            self._check_control(kind, number, size)
            if end - pos < size:
                self._stash = bytes(data[pos - HEAD :])
                break
            self._on_control(kind, number, stream, data[pos : pos + size], events)
            pos += size
        if self._queued > MAX_QUEUED or self._chunk_number - self._acked > MAX_REPLAY + MAX_QUEUED:
            raise RemoteProtocolError("the peer sends but does not read")
        return events

    def consumed(self, stream: MuxStream, size: int) -> None:
        """The reader took `size` bytes: grant them again, and more if the sender starves while the reader keeps up."""
        stream.unread -= size
        if stream.done:
            return  # a forgotten stream has given its share of the budget back and gets no more
        stream.owed += size
        if stream.starved and not stream.unread:
            stream.starved = False
            extra = min(stream.window, MAX_WINDOW - stream.window, self._budget)
            stream.window += extra
            stream.owed += extra
            self._budget -= extra
        elif stream.owed < stream.window >> 2:
            return
        if not stream.fin_received:
            self._credits[stream.id] = stream

    def _check_known(self, number: int) -> None:
        """A frame for a stream that is not there: forgotten ones are fine, others never existed."""
        last = self._next - 2 if number & 1 == self._parity else self._last_peer
        if 0 < number <= last:
            return
        raise RemoteProtocolError(f"a frame for stream {number}, which was never opened")

    def _check_control(self, kind: int, number: int, size: int) -> None:
        fixed = FIXED_SIZES.get(kind)
        if fixed is None:
            if kind not in (OPEN, REJECT, CLOSE):
                raise RemoteProtocolError(f"unknown frame type {kind}")
            if size > MAX_REQUEST or (kind == REJECT and size < REJECT_CODE.size):
                raise RemoteProtocolError(f"frame of type {kind} with a payload of {size} bytes")
        elif size != fixed:
            raise RemoteProtocolError(f"frame of type {kind} with a payload of {size} bytes instead of {fixed}")
        if (number == 0) != (kind in LINK_FRAMES):
            raise RemoteProtocolError(f"frame of type {kind} on stream {number}")

    def _on_control(
        self, kind: int, number: int, stream: MuxStream | None, payload: memoryview, events: list[Event]
    ) -> None:
        if kind == OPEN:
            events.append((OPEN, self._on_open(number), bytes(payload)))
        elif kind == PING:
            self._pong = bytes(payload)
        elif kind == PONG:
            events.append((PONG, None, bytes(payload)))
        elif kind == ACK:
            if not self.resumable:
                raise RemoteProtocolError("ACK on a link that is not resumable")
            self._on_ack(*NUMBER.unpack(payload))
            events.append((ACK, None, b""))
        elif kind == CLOSE:
            events.append((CLOSE, None, bytes(payload)))
        elif stream is None:
            self._check_known(number)
        else:
            self._on_stream(kind, stream, payload)
            events.append((kind, stream, bytes(payload)))

    def _on_open(self, number: int) -> MuxStream:
        if number & 1 == self._parity or number <= self._last_peer:
            raise RemoteProtocolError(f"OPEN with the number {number}, which is not a new one of the peer's")
        if self._opened_there >= MAX_STREAMS:
            raise RemoteProtocolError(f"more than {MAX_STREAMS} streams")
        self._last_peer = number
        self._opened_there += 1
        stream = self.streams[number] = MuxStream(number, initiated=False)
        return stream

    def _on_stream(self, kind: int, stream: MuxStream, payload: memoryview) -> None:
        if kind == CREDIT:
            grant = int.from_bytes(payload)
            stream.sendable += grant
            if not 0 < grant <= stream.sendable <= MAX_WINDOW:
                raise RemoteProtocolError(f"CREDIT of {grant} on stream {stream.id} passes the largest window")
        elif kind == OPENED:
            if stream.opened or not stream.initiated:
                raise RemoteProtocolError(f"OPENED for stream {stream.id}, which does not wait for it")
            stream.opened = True
        elif kind == FIN:
            if stream.fin_received or (stream.initiated and not stream.opened):
                raise RemoteProtocolError(f"FIN on stream {stream.id} in the wrong state")
            stream.fin_received = True
            self._credits.pop(stream.id, None)
            if stream.fin_sent:
                self._forget(stream)
        else:
            if kind == REJECT and (stream.opened or not stream.initiated):
                raise RemoteProtocolError(f"REJECT for stream {stream.id}, which does not wait for it")
            self._forget(stream)

    def _forget(self, stream: MuxStream) -> None:
        stream.done = True
        del self.streams[stream.id]
        self._credits.pop(stream.id, None)
        self._budget += stream.window - MIN_WINDOW
        if stream.initiated:
            self._opened_here -= 1
        else:
            self._opened_there -= 1


def _bad_data(stream: MuxStream, size: int) -> str:
    if stream.fin_received:
        return f"DATA after FIN on stream {stream.id}"
    if stream.initiated and not stream.opened:
        return f"DATA before OPENED on stream {stream.id}"
    return f"DATA of {size} bytes on stream {stream.id}, granted are {stream.receivable}"
