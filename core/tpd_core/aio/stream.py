"""Streams as coroutines see them: what a link hands out."""

from __future__ import annotations

import asyncio
import socket
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, Protocol

from tpd_core.aio.errors import LinkClosed, StreamRejected, StreamReset

if TYPE_CHECKING:
    from tpd_core.aio.link import Link
    from tpd_core.aio.splice import Splice, SpliceResult
    from tpd_core.wire.stream import MuxStream

_LOOK_AGAIN: Final = 0.05  # seconds between looks at an idle stream that still holds bytes


class Turn(Enum):
    """What came of a stream's turn to write while the link is short of room."""

    DONE = auto()  # nothing more to send now
    AGAIN = auto()  # sent its share and has more
    FULL = auto()  # the link took nothing more


class Sink(Protocol):
    """Whoever is told about a stream's events; `MuxStream.app`."""

    def on_opened(self) -> None:
        """The peer accepted."""

    def on_rejected(self, code: int, message: str) -> None:
        """The peer refused; the stream is over."""

    def on_data(self, view: memoryview) -> None:
        """Bytes, valid during the call; to be reported to `Mux.consumed` when somebody took them."""

    def on_credit(self) -> None:
        """The peer lets us send more."""

    def on_fin(self) -> None:
        """The peer sends no more."""

    def on_reset(self) -> None:
        """The peer ended the stream."""

    def on_lost(self, reason: str) -> None:
        """The link is gone."""

    def on_turn(self) -> Turn:
        """The link, which was full, has room."""


class Stream:
    """One TCP-like conversation on a link; one reader and one writer at a time.

    Attributes:
        link: The link that carries it.
        sent: Bytes sent to the peer so far.
        received: Bytes received from the peer so far.
        last_activity: `loop.time()` of the last byte in either direction.
    """

    def __init__(self, link: Link, stream: MuxStream) -> None:
        self.link = link
        self.sent = self.received = 0
        self.last_activity = link.loop.time()
        self._stream = stream
        self._inbox = bytearray()
        self._eof = False
        self._error: LinkClosed | StreamReset | StreamRejected | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._opened: asyncio.Future[None] | None = None
        self._splice: Splice | None = None
        stream.app = self

    def __repr__(self) -> str:
        return f"<Stream {self._stream.id} sent={self.sent} received={self.received}>"

    # -- for users -----------------------------------------------------------------------------------------------
    async def read(self, limit: int = 65536) -> bytes:
        """Up to `limit` bytes; empty when the peer has sent its last.

        Raises:
            StreamReset: The stream was reset.
            LinkClosed: The link is gone.
        """
        while not self._inbox:
            if self._error is not None:
                raise self._error
            if self._eof:
                return b""
            self._reader = self.link.loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        with memoryview(self._inbox) as view:
            data = bytes(view[:limit])
        del self._inbox[:limit]
        self.link.consumed(self._stream, len(data))
        return data

    async def write(self, data: bytes) -> None:
        """Send `data`; waits while the peer grants no credit or the link is full.

        Raises:
            StreamReset: The stream was reset.
            LinkClosed: The link is gone.
            LocalProtocolError: After `write_eof`.
        """
        rest = memoryview(data)
        while True:
            if self._error is not None:
                raise self._error
            done = self.link.send(self._stream, rest)
            if done:
                self.sent += done
                self.last_activity = self.link.loop.time()
                rest = rest[done:]
            if not rest:
                return
            self._writer = self.link.loop.create_future()
            if self._stream.sendable > 0:
                self.link.wait_turn(self)
            try:
                await self._writer
            finally:
                self._writer = None

    def write_eof(self) -> None:
        """Send no more; the other direction goes on. Nothing happens when the stream is over."""
        if self._error is None and not self._stream.fin_sent and not self._stream.done:
            self.link.mux.fin(self._stream)
            self.link.schedule()

    def reset(self) -> None:
        """End the stream at once in both directions; nothing happens when it is over."""
        if self._splice is not None:
            self._splice.abort()
            return
        self.link.mux.reset(self._stream)
        self.link.schedule()
        self._fail(StreamReset("stream reset by this side"))

    async def splice(self, sock: socket.socket, *, head: bytes = b"") -> SpliceResult:
        """Hand the data path to the driver: bytes go between the peer and `sock` until both directions are finished.

        Half-closes and resets are carried over both ways. The stream's `read` and `write` must not be used from then
        on. Cancelling resets both sides.

        Args:
            sock: A connected, non-blocking stream socket; closed in the end, whatever happens.
            head: Bytes that the caller has read from `sock` already: they are sent to the peer first.

        Returns:
            Counts of bytes, and whether it ended by a reset from any side or by the loss of the link.
        """
        from tpd_core.aio.splice import Splice

        self._splice = Splice(self, self._stream, sock, head, bytes(self._inbox), self._eof)
        self._inbox.clear()
        if self._error is not None:
            self._splice.abort()
        return await self._splice.run()

    async def finish_when_idle(self, idle: float, deadline: float) -> bool:
        """End the stream in an orderly manner (FIN both ways) once no byte has passed for a while.

        May be called while another task is in `splice`, which then returns.

        Args:
            idle: Seconds without a byte in either direction.
            deadline: Seconds from now after which to give up.

        Returns:
            True when the stream is over, False when it was still busy at the deadline and goes on.
        """
        loop = self.link.loop
        end = loop.time() + deadline
        while not self.over:
            now = loop.time()
            due = self.last_activity + idle
            if due <= now and (self._splice is None or self._splice.drained):
                if self._splice is not None:
                    self._splice.finish()
                else:
                    self.write_eof()
                return True
            if now >= end:
                return False
            await asyncio.sleep(min(max(due - now, _LOOK_AGAIN), end - now))
        return True

    @property
    def over(self) -> bool:
        """Both directions are finished, or the stream or the link was cut."""
        if self._splice is not None:
            return self._splice.closed
        return self._error is not None or self._stream.done

    # -- for the link --------------------------------------------------------------------------------------------
    async def wait_opened(self) -> None:
        """Until the peer accepts.

        Raises:
            StreamRejected: It did not.
            StreamReset: It reset the stream instead.
            LinkClosed: The link is gone.
        """
        if self._error is not None:
            raise self._error
        if not self._stream.opened:
            self._opened = self.link.loop.create_future()
            await self._opened

    def on_opened(self) -> None:
        """See Sink."""
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)

    def on_rejected(self, code: int, message: str) -> None:
        """See Sink."""
        self._fail(StreamRejected(code, message))

    def on_data(self, view: memoryview) -> None:
        """See Sink."""
        self.received += len(view)
        self.last_activity = self.link.loop.time()
        self._inbox += view
        _wake(self._reader)

    def on_credit(self) -> None:
        """See Sink."""
        _wake(self._writer)

    def on_fin(self) -> None:
        """See Sink."""
        self._eof = True
        _wake(self._reader)

    def on_reset(self) -> None:
        """See Sink."""
        self._fail(StreamReset())

    def on_lost(self, reason: str) -> None:
        """See Sink."""
        self._fail(LinkClosed(reason))

    def on_turn(self) -> Turn:
        """See Sink."""
        _wake(self._writer)
        return Turn.DONE

    def _fail(self, error: LinkClosed | StreamReset | StreamRejected) -> None:
        if self._error is None:
            self._error = error
        self._inbox.clear()
        _wake(self._reader)
        _wake(self._writer)
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(error)


class Incoming:
    """A stream that the peer wants to open; answer it with `accept` or `reject`, at once or later.

    Until then the peer's first bytes (64 KiB at most) wait here.

    Attributes:
        link: Where it came from.
        request: What the peer sent with it.
    """

    def __init__(self, link: Link, stream: MuxStream, request: bytes) -> None:
        self.link = link
        self.request = request
        self._stream = stream
        self._driver = Stream(link, stream)

    @property
    def cancelled(self) -> bool:
        """The peer has taken it back, or the link is gone."""
        return self._driver._error is not None or (self._stream.done and not self._stream.opened)  # noqa: SLF001

    def accept(self) -> Stream:
        """Tell the peer that the stream is open.

        Raises:
            StreamReset: The peer has taken it back.
            LinkClosed: The link is gone.
        """
        error = self._driver._error  # noqa: SLF001 - two halves of one thing
        if error is not None:
            raise error
        if self._stream.done:
            raise StreamReset
        self.link.mux.accept(self._stream)
        self.link.schedule()
        return self._driver

    def reject(self, code: int, message: str = "") -> None:
        """Tell the peer why not (`wire.frames.RejectCode`); nothing happens when it has taken it back."""
        if not self.cancelled:
            self.link.mux.reject(self._stream, code, message)
            self.link.schedule()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
