"""The fast path between a local socket and a stream: no coroutine, no copy, one callback per readiness event.

The socket is read straight into the next DATA frame and written straight from the link's read buffer; only what the
kernel does not take at once is copied, and counts against the stream's window until it is taken.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tpd_core.aio.stream import Turn

if TYPE_CHECKING:
    from tpd_core.aio.stream import Stream
    from tpd_core.wire.stream import MuxStream

_LINGER_ZERO = b"\1\0\0\0\0\0\0\0"  # struct linger: close sends RST
_PIECE = 64 << 10  # pieces of the backlog: small frames share one


@dataclass(frozen=True, slots=True)
class SpliceResult:
    """How a splice ended.

    Attributes:
        sent: Bytes from the socket to the peer.
        received: Bytes from the peer to the socket.
        reset: It was cut: by the peer, by the socket's other end, by cancellation or with the link.
    """

    sent: int
    received: int
    reset: bool


class Splice:
    """Carries bytes between `sock` and the stream until both directions are finished; see `Stream.splice`."""

    __slots__ = (
        "_backlog",
        "_broken",
        "_done",
        "_fd",
        "_head",
        "_link",
        "_owner",
        "_paused",
        "_peer_finished",
        "_queued",
        "_read_finished",
        "_sock",
        "_stream",
        "_write_finished",
        "closed",
    )

    def __init__(
        self, owner: Stream, stream: MuxStream, sock: socket.socket, head: bytes, early: bytes, early_eof: bool
    ) -> None:
        self._owner, self._stream, self._link = owner, stream, owner.link
        self._sock, self._fd = sock, sock.fileno()
        self._head = memoryview(head)
        self._backlog: deque[bytearray | memoryview] = deque()
        self._done: asyncio.Future[SpliceResult] = self._link.loop.create_future()
        self._paused = True  # the poller does not watch the socket for reading
        self._queued = False  # waits for its turn on the full link
        self._broken = False  # the socket takes nothing more
        self._read_finished = stream.fin_sent
        self._peer_finished = early_eof
        self._write_finished = False
        self.closed = False
        stream.app = self
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if early:
            self._deliver(memoryview(early))
        if early_eof:
            self._end_writing()
        self._kick()

    async def run(self) -> SpliceResult:
        """Wait for the end."""
        try:
            return await self._done
        except asyncio.CancelledError:
            self.abort()
            raise

    # -- socket to peer ------------------------------------------------------------------------------------------
    def _resume(self) -> None:
        if self._paused and not self._read_finished and not self.closed:
            self._paused = False
            self._link.loop.add_reader(self._fd, self._readable)

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._link.loop.remove_reader(self._fd)

    def _readable(self) -> None:
        turn = self._read_once()
        if turn is Turn.FULL:
            self._pause()
            self._enqueue()

    def _enqueue(self) -> None:
        if not self._queued:
            self._queued = True
            self._link.wait_turn(self)

    def _kick(self) -> None:
        """Send the head, then let the poller watch the socket."""
        while self._head and not self.closed:
            turn = self._read_once()
            if turn is Turn.FULL:
                self._enqueue()
                return
            if turn is Turn.DONE and self._head:
                return  # no credit
        self._resume()

    def _read_once(self) -> Turn:
        """One frame's worth; without credit or at the end of the socket's data the poller is told to stop watching."""
        link, stream = self._link, self._stream
        mux = link.mux
        if stream.done or self.closed:
            self._pause()
            return Turn.DONE
        view = mux.reserve(stream)
        if view is None:
            if stream.sendable <= 0:
                self._pause()
                return Turn.DONE
            if not link.blocked:
                link.flush()
                view = mux.reserve(stream)
            if view is None:
                return Turn.FULL
        if self._head:
            size = min(len(view), len(self._head))
            view[:size] = self._head[:size]
            self._head = self._head[size:]
        else:
            try:
                size = self._sock.recv_into(view)
            except (BlockingIOError, InterruptedError):
                return Turn.DONE
            except OSError:
                self.abort()
                return Turn.DONE
            if not size:
                self._on_end_of_data()
                return Turn.DONE
        mux.commit(stream, size)
        self._owner.sent += size
        self._owner.last_activity = link.loop.time()
        link.schedule()
        return Turn.AGAIN if size == len(view) or self._head else Turn.DONE

    def _on_end_of_data(self) -> None:
        self._pause()
        if self._broken:  # the socket was reset: what it had sent before has been read
            self.abort()
            return
        self._read_finished = True
        self._link.mux.fin(self._stream)
        self._link.schedule()
        self._maybe_close()

    # -- peer to socket ------------------------------------------------------------------------------------------
    def _deliver(self, view: memoryview) -> None:
        size = len(view)
        if self._broken:
            self._link.mux.consumed(self._stream, size)
            return
        if self._backlog:
            last = self._backlog[-1]
            if isinstance(last, bytearray) and len(last) + size <= _PIECE and len(self._backlog) > 1:
                last += view
            else:
                self._backlog.append(bytearray(view))
            return
        try:
            sent = self._sock.send(view)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._break()
            self._link.mux.consumed(self._stream, size)
            return
        if sent < size:
            self._backlog.append(bytearray(view[sent:]))
            self._link.loop.add_writer(self._fd, self._writable)
        if sent:
            self._link.mux.consumed(self._stream, sent)

    def _writable(self) -> None:
        link = self._link
        try:
            while self._backlog:
                data = self._backlog[0]
                sent = self._sock.send(data)
                link.mux.consumed(self._stream, sent)
                if sent < len(data):
                    self._backlog[0] = memoryview(data)[sent:]
                    break
                self._backlog.popleft()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._break()
        else:
            if not self._backlog:
                link.loop.remove_writer(self._fd)
                if self._peer_finished:
                    self._end_writing()
        link.flush()

    def _break(self) -> None:
        """The socket takes nothing more: drop what it should get, but pass on what it sent before it was reset."""
        self._broken = True
        self._link.loop.remove_writer(self._fd)
        for data in self._backlog:
            self._link.mux.consumed(self._stream, len(data))
        self._backlog.clear()
        if self._read_finished:
            self.abort()

    def _end_writing(self) -> None:
        """The peer sent FIN: pass it on once everything before it is written."""
        if self._backlog or self.closed:
            return
        self._write_finished = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the reader will see why
        self._maybe_close()

    def _maybe_close(self) -> None:
        if self._read_finished and self._write_finished:
            self._close(reset=False)

    # -- ends ----------------------------------------------------------------------------------------------------
    def abort(self) -> None:
        """RESET to the peer, RST to the socket."""
        self._link.mux.reset(self._stream)
        self._link.schedule()
        self._close(reset=True)

    @property
    def drained(self) -> bool:
        """Nothing waits here to be sent in either direction."""
        return not self._backlog and not self._head

    def finish(self) -> None:
        """FIN to both; for a connection that is idle and drained. Bytes that still come are answered by a reset."""
        if self.closed:
            return
        if not self._read_finished and not self._stream.done:
            self._link.mux.fin(self._stream)
            self._link.schedule()
        self._stream.app = _Finished(self)
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        self._close(reset=False)

    def reset_late(self) -> None:
        """The peer sends to a stream that this side has finished."""
        self._link.mux.reset(self._stream)
        self._link.schedule()

    def _close(self, *, reset: bool) -> None:
        if self.closed:
            return
        self._pause()
        self.closed = True
        self._link.loop.remove_writer(self._fd)
        if reset:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self._sock.close()
        self._backlog.clear()
        if not self._done.done():
            self._done.set_result(SpliceResult(self._owner.sent, self._owner.received, reset))

    # -- Sink ----------------------------------------------------------------------------------------------------
    def on_opened(self) -> None:
        """See Sink; nothing waits for it here."""

    def on_rejected(self, code: int, message: str) -> None:
        """See Sink."""
        self._close(reset=True)

    def on_data(self, view: memoryview) -> None:
        """See Sink."""
        if self.closed:
            return
        self._owner.received += len(view)
        self._owner.last_activity = self._link.loop.time()
        self._deliver(view)

    def on_credit(self) -> None:
        """See Sink."""
        if not self._queued and self._paused:
            self._kick()

    def on_fin(self) -> None:
        """See Sink."""
        self._peer_finished = True
        self._end_writing()

    def on_reset(self) -> None:
        """See Sink."""
        self._close(reset=True)

    def on_lost(self, reason: str) -> None:
        """See Sink."""
        self._close(reset=True)

    def on_turn(self) -> Turn:
        """See Sink; while it waits for turns, the poller does not watch the socket."""
        self._queued = False
        if self.closed or self._read_finished:
            return Turn.DONE
        turn = self._read_once()
        if turn is Turn.DONE:
            if self._stream.sendable > 0:
                self._resume()
        else:
            self._queued = True  # the link keeps it in the queue
        return turn


class _Finished:
    """Takes a spliced stream's place after `finish`, until the peer's FIN."""

    __slots__ = ("_splice",)

    def __init__(self, splice: Splice) -> None:
        self._splice = splice

    def on_data(self, view: memoryview) -> None:
        self._splice.reset_late()

    def on_opened(self) -> None: ...

    def on_rejected(self, code: int, message: str) -> None: ...

    def on_credit(self) -> None: ...

    def on_fin(self) -> None: ...

    def on_reset(self) -> None: ...

    def on_lost(self, reason: str) -> None: ...

    def on_turn(self) -> Turn:
        return Turn.DONE
