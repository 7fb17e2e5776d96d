"""A link: one TLS connection that carries many streams, as asyncio sees it.

The link is the transport's buffered protocol. What one turn of the loop queued, by however many streams, is written by
one call at the end of the turn. While the transport is full, streams that want to write wait in a queue and get one
chunk each in turn when it drains, so none starves behind another.

A link lives in one of three states: connected; suspended, when its connection was lost and a recovery (see resume.py)
is to find it a new one; ended. Without a recovery a lost connection is the end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from tpd_core.aio.errors import LinkClosed, StreamRejected
from tpd_core.aio.handshake import HANDSHAKE_TIMEOUT, Greeted, greet, turn_away
from tpd_core.aio.loop import is_fastnet
from tpd_core.aio.pulse import Pulse
from tpd_core.aio.resume import GRACE, LinkKeeper, Recovery, Redial
from tpd_core.aio.stream import Incoming, Sink, Stream
from tpd_core.aio.turns import Turns
from tpd_core.wire.errors import LocalProtocolError, RemoteProtocolError
from tpd_core.wire.frames import (
    ACK,
    CHUNK,
    CLOSE,
    CREDIT,
    DATA,
    FIN,
    MIN_WINDOW,
    OPEN,
    OPENED,
    PONG,
    REJECT,
    RejectCode,
    decode_reject,
)
from tpd_core.wire.hello import LINK_ID_SIZE, NO_CAPABILITY, Capability, Hello
from tpd_core.wire.mux import Mux
from tpd_core.wire.stream import MuxStream

KEEPALIVE: Final = 2.0
"""Seconds of silence after which the peer is asked for a sign of life."""

DEAD_AFTER: Final = 5.0
"""Seconds of silence after which the link is dead."""

_CLOSE_TIMEOUT: Final = 2.0  # seconds that an orderly close may take
_SLOW_PATH: Final = 0.01  # seconds of round trip from which on a short send queue pays (measured at 80 ms)
_TCP_NOTSENT_LOWAT: Final = 25

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class LinkStats:
    """Counters of a link.

    Attributes:
        bytes_in: Bytes received, after TLS.
        bytes_out: Bytes sent, before TLS.
        streams_opened: Streams opened by either end.
        rtt: Last round trip in seconds, None before the first.
    """

    bytes_in: int = 0
    bytes_out: int = 0
    streams_opened: int = 0
    rtt: float | None = None


class Link(asyncio.BufferedProtocol):
    """One end of a link; made by `connect` or `accept`, an async context manager that closes it.

    Attributes:
        id: 16 bytes, the same at both ends.
        peer_certificate: The peer's certificate in DER form, None when it has none.
        peer_capabilities: What the peer can do beyond the basic protocol.
        stats: Counters.
        closed: Set when the link is gone.
        reason: Why, then.
        loop: The event loop.
        mux: The protocol state, for the streams.
        suspended_since: `loop.time()` at which the connection was lost, None while there is one.
        blocked: The transport is full, for the streams.
    """

    def __init__(
        self,
        greeted: Greeted,
        on_open: Callable[[Incoming], None],
        *,
        client: bool,
        keepalive: float,
        dead_after: float,
        recovery: Recovery | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.id = greeted.own.link_id
        self.peer_certificate = greeted.certificate
        self.peer_capabilities = greeted.peer.capabilities
        self.stats = LinkStats()
        self.closed = asyncio.Event()
        self.reason: str | None = None
        resumable = bool(greeted.own.capabilities & greeted.peer.capabilities & Capability.RESUME)
        self.mux = Mux(client=client, resumable=resumable)
        self.blocked = False
        self.suspended_since: float | None = None
        self._on_open = on_open
        self._recovery = recovery if resumable else None
        self._version = greeted.version
        self._transport: asyncio.Transport | None = None
        self._pulse = Pulse(
            keepalive, dead_after, ping=self._ping, on_silence=lambda: self.suspend(f"peer silent for {dead_after:g} s")
        )
        self._turns = Turns(lambda: not self.blocked and self.reason is None)
        self._buffer = memoryview(bytearray(CHUNK))
        self._scheduled = False
        self._gone = asyncio.Event()
        self._attach(greeted)

    @classmethod
    async def connect(
        cls,
        sock: socket.socket,
        *,
        tls: ssl.SSLContext,
        server_hostname: str,
        on_open: Callable[[Incoming], None],
        keepalive: float = KEEPALIVE,
        dead_after: float = DEAD_AFTER,
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
        redial: Callable[[], Awaitable[socket.socket]] | None = None,
        grace: float = GRACE,
    ) -> Self:
        """Become the connecting end over a connected socket.

        Args:
            sock: Connected and non-blocking, TCP or an end of an AF_UNIX socket pair; owned from here on.
            tls: From `tls.client_context`.
            server_hostname: Name that the peer's certificate must carry; also the SNI.
            on_open: Called, on the loop, for each stream that the peer opens; may be called before this returns.
            keepalive: Seconds of silence until the peer is asked for a sign of life.
            dead_after: Seconds of silence until the link counts as dead.
            handshake_timeout: Seconds for TLS and HELLO.
            redial: Makes a new connected socket when the connection is lost; with it the link and its streams outlive
                that, if the peer can resume too. Called again when it raises OSError or TpdError.
            grace: Seconds for which that is tried.

        Raises:
            LinkClosed: TLS, the certificate or the protocol version was refused, or nothing answered in time.
        """
        recovery = None
        if redial is not None:
            recovery = Redial(
                redial, tls=tls, server_hostname=server_hostname, grace=grace, handshake_timeout=handshake_timeout
            )
        own = Hello(os.urandom(LINK_ID_SIZE), NO_CAPABILITY if redial is None else Capability.RESUME)
        greeted = await greet(
            sock, tls, server_hostname=server_hostname, answer=lambda _peer, _cert: own, timeout=handshake_timeout
        )
        return cls(greeted, on_open, client=True, keepalive=keepalive, dead_after=dead_after, recovery=recovery)

    @classmethod
    async def accept(
        cls,
        sock: socket.socket,
        *,
        tls: ssl.SSLContext,
        on_open: Callable[[Incoming], None],
        keepalive: float = KEEPALIVE,
        dead_after: float = DEAD_AFTER,
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
    ) -> Self:
        """Become the accepting end over a connected socket; see `connect`, `tls` is from `tls.server_context`.

        Raises:
            LinkClosed: See `connect`.
        """

        def answer(peer: Hello | None, _certificate: bytes | None) -> Hello:
            assert peer is not None
            return Hello(peer.link_id)

        greeted = await greet(sock, tls, server_hostname=None, answer=answer, timeout=handshake_timeout)
        if greeted.peer.resume:
            await turn_away(greeted)
            raise LinkClosed("the peer wanted to resume a link, which is not possible here")
        return cls(greeted, on_open, client=False, keepalive=keepalive, dead_after=dead_after)

    @classmethod
    async def accept_or_resume(
        cls,
        sock: socket.socket,
        keeper: LinkKeeper,
        *,
        tls: ssl.SSLContext,
        on_open: Callable[[Incoming], None],
        keepalive: float = KEEPALIVE,
        dead_after: float = DEAD_AFTER,
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
    ) -> Self | None:
        """Like `accept`, for links that outlive their connection.

        Args:
            sock: See `connect`.
            keeper: Knows the links of this listener.
            tls: See `accept`.
            on_open: See `connect`.
            keepalive: See `connect`.
            dead_after: See `connect`.
            handshake_timeout: See `connect`.

        Returns:
            A new link, or None when the peer has come back to one of the keeper's, which goes on.

        Raises:
            LinkClosed: See `connect`; also when the peer comes back to a link that is gone.
        """
        known: Link | None = None

        def answer(peer: Hello | None, certificate: bytes | None) -> Hello:
            nonlocal known
            assert peer is not None
            known = keeper.find(peer.link_id, certificate)
            if known is None or not peer.resume:
                return Hello(peer.link_id, Capability.RESUME)
            known.suspend("the peer has made a new connection")
            return Hello(peer.link_id, Capability.RESUME, resume=True, received=known.mux.received)

        greeted = await greet(sock, tls, server_hostname=None, answer=answer, timeout=handshake_timeout)
        if known is not None and greeted.own.resume:
            known.resume(greeted)
            return None
        if known is not None or greeted.peer.resume:
            await turn_away(greeted)
            raise LinkClosed(f"the peer's link {greeted.peer.link_id.hex()} is {'taken' if known else 'gone'}")
        link = cls(greeted, on_open, client=False, keepalive=keepalive, dead_after=dead_after, recovery=keeper)
        keeper.add(link)
        return link

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # -- for users -----------------------------------------------------------------------------------------------
    async def open(self, request: bytes, *, head: bytes = b"", timeout: float | None = None) -> Stream:
        """Open a stream and wait until the peer has accepted it.

        Args:
            request: Goes with it, `wire.frames.MAX_REQUEST` bytes at most.
            head: First bytes to send, 64 KiB at most: they go out at once and are lost when the peer rejects.
            timeout: Seconds to wait; then the stream is reset.

        Raises:
            StreamRejected: The peer (or a limit of this end) refused.
            StreamReset: The peer reset it instead of an answer.
            LinkClosed: The link is gone.
            TimeoutError: No answer in time.
        """
        if self.reason is not None:
            raise LinkClosed(self.reason)
        if len(head) > MIN_WINDOW:
            raise ValueError(f"head of {len(head)} bytes, the limit is {MIN_WINDOW}")
        try:
            raw = self.mux.open(request)
        except LocalProtocolError as error:
            raise StreamRejected(RejectCode.INTERNAL, str(error)) from error
        self.stats.streams_opened += 1
        stream = Stream(self, raw)
        early = self.mux.send(raw, head)
        stream.sent += early
        self.schedule()
        try:
            async with asyncio.timeout(timeout):
                await stream.wait_opened()
        except (TimeoutError, asyncio.CancelledError):
            stream.reset()
            raise
        if early < len(head):
            await stream.write(head[early:])
        return stream

    async def wait_closed(self) -> str:
        """Wait until the link is gone; why."""
        await self.closed.wait()
        return self.reason or ""

    @property
    def suspended(self) -> bool:
        """The connection was lost, and a new one is waited for; streams stall."""
        return self.reason is None and self._transport is None

    def close(self, reason: str = "closed by this side") -> None:
        """End the link and every stream on it; the peer is told why."""
        self._end(reason, abort=False)

    async def aclose(self, reason: str = "closed by this side") -> None:
        """`close`, and wait until the connection is down (two seconds at most)."""
        self.close(reason)
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._gone.wait()
        except TimeoutError:
            if self._transport is not None:
                self._transport.abort()
            await self._gone.wait()

    # -- for streams ---------------------------------------------------------------------------------------------
    def send(self, stream: MuxStream, data: memoryview) -> int:
        """Queue as much as credit and the link allow now."""
        done = self.mux.send(stream, data)
        if done < len(data) and stream.sendable > 0 and not self.blocked:
            self.flush()
            done += self.mux.send(stream, data[done:])
        if done:
            self.schedule()
        return done

    def consumed(self, stream: MuxStream, size: int) -> None:
        """Somebody took received bytes."""
        self.mux.consumed(stream, size)
        self.schedule()

    def wait_turn(self, sink: Sink) -> None:
        """Call `sink.on_turn` when the link has room."""
        self._turns.add(sink)

    def schedule(self) -> None:
        """Write once, after every socket that is ready in this turn of the loop has been read."""
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what is queued, unless the transport is full."""
        self._scheduled = False
        if self.blocked or self.reason is not None:
            return
        if self._write() and not self.blocked:
            self._turns.give_soon()  # there is room again

    def _write(self) -> bool:
        transport = self._transport
        assert transport is not None, "a link without a transport is blocked"
        views = self.mux.data_to_send()
        for view in views:
            self.stats.bytes_out += len(view)
            transport.write(view)
        return bool(views)

    # -- transport -----------------------------------------------------------------------------------------------
    def _attach(self, greeted: Greeted) -> None:
        transport = self._transport = greeted.transport
        self._gone.clear()
        self.blocked = False
        transport.set_protocol(self)
        self._set_option(socket.TCP_NODELAY, 1)  # event loops do so only for sockets made with an explicit protocol
        # aiofastnet counts only what did not fit its TLS buffer; the others count all, and need some to work with
        transport.set_write_buffer_limits(0 if is_fastnet(self.loop) else 2 * CHUNK, 0)
        if greeted.rest:
            self._feed(memoryview(greeted.rest))
        if self.reason is None:
            transport.resume_reading()
            self._pulse.start()

    def _detach(self) -> None:
        """Drop the transport; whatever it still has to say goes nowhere."""
        transport, self._transport = self._transport, None
        self.blocked = True
        self._gone.set()
        if transport is not None:
            transport.set_protocol(_Deaf())
            transport.abort()

    def suspend(self, reason: str) -> None:
        """The connection is lost: wait for a new one, if somebody is there to make it; else it is the end."""
        if self.reason is not None or self.suspended:
            return
        if self._recovery is None:
            self._end(reason, abort=True)
            return
        self._detach()
        self._pulse.stop()
        self.suspended_since = self.loop.time()
        self._recovery.on_suspended(self, reason)

    def resume(self, greeted: Greeted) -> None:
        """There is a new connection, on which both ends have said that they continue this link."""
        if self.reason is not None:
            greeted.transport.abort()
            return
        assert self._recovery is not None
        self._recovery.on_resumed(self)
        try:
            if greeted.version != self._version:
                raise RemoteProtocolError(f"resumed with version {greeted.version} instead of {self._version}")
            self.mux.resume(greeted.peer.received)
        except RemoteProtocolError as error:
            greeted.transport.abort()
            self._end(f"protocol error by the peer: {error}", abort=True)
            return
        self.suspended_since = None
        self._attach(greeted)
        self.flush()
        self._turns.give()

    def give_up(self, reason: str) -> None:
        """No new connection will come."""
        if self.suspended:
            self._end(reason, abort=True)

    def get_buffer(self, sizehint: int) -> memoryview:
        """See asyncio.BufferedProtocol."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio.BufferedProtocol."""
        self._feed(self._buffer[:nbytes])

    def _feed(self, data: memoryview) -> None:
        if self.reason is not None:
            return
        self._pulse.heard = self.loop.time()
        self.stats.bytes_in += len(data)
        try:
            events = self.mux.receive_data(data)
        except RemoteProtocolError as error:
            self._end(f"protocol error by the peer: {error}", abort=True)
            return
        for kind, stream, payload in events:
            if kind == DATA:
                stream.app.on_data(payload)  # type: ignore[union-attr] # DATA always has its stream
            else:
                if stream is None:
                    self._on_link_event(kind, payload)
                else:
                    self._on_stream_event(kind, stream, payload)
                if self.reason is not None:
                    return
        if not self._scheduled and self.mux.pending():
            self.flush()

    def _on_link_event(self, kind: int, payload: memoryview | bytes) -> None:
        if kind == PONG:
            self._on_pong(payload)
        elif kind == CLOSE:
            self._end(f"closed by the peer: {bytes(payload).decode(errors='replace')}", abort=True)
        elif kind == ACK:
            self._turns.give()

    def _on_stream_event(self, kind: int, stream: MuxStream, payload: memoryview | bytes) -> None:
        if kind == OPEN:
            self.stats.streams_opened += 1
            incoming = Incoming(self, stream, bytes(payload))
            try:
                self._on_open(incoming)
            except Exception:
                _log.exception("the handler of new streams failed")
                incoming.reject(RejectCode.INTERNAL, "the peer failed to handle the request")
            return
        sink: Sink = stream.app
        if kind == CREDIT:
            sink.on_credit()
        elif kind == FIN:
            sink.on_fin()
        elif kind == OPENED:
            sink.on_opened()
        elif kind == REJECT:
            sink.on_rejected(*decode_reject(payload))
        else:
            sink.on_reset()

    def eof_received(self) -> None:
        """See asyncio.BufferedProtocol."""
        self.suspend("the peer closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.BufferedProtocol."""
        self._gone.set()
        self.suspend(f"connection lost: {exc}" if exc else "the peer closed the connection")

    def pause_writing(self) -> None:
        """See asyncio.BufferedProtocol."""
        self.blocked = True

    def resume_writing(self) -> None:
        """See asyncio.BufferedProtocol."""
        self.blocked = False
        self.flush()
        self._turns.give()

    # -- signs of life -------------------------------------------------------------------------------------------
    def _ping(self, payload: bytes) -> None:
        self.mux.ping(payload)
        self.schedule()

    def _on_pong(self, payload: memoryview | bytes) -> None:
        first = self.stats.rtt is None
        self._pulse.on_pong(payload)
        rtt = self.stats.rtt = self._pulse.rtt
        if first and rtt is not None and rtt > _SLOW_PATH:
            self._set_option(_TCP_NOTSENT_LOWAT, CHUNK)

    def _set_option(self, option: int, value: int) -> None:
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
            return
        try:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        except OSError:
            pass  # it is faster with the option, no more

    # -- the end -------------------------------------------------------------------------------------------------
    def _end(self, reason: str, *, abort: bool) -> None:
        if self.reason is not None:
            return
        if self._transport is not None and not abort:
            self.mux.close(reason)
            self._write()  # even to a full transport: it is the last
        self.reason = reason
        self._pulse.stop()
        for stream in list(self.mux.streams.values()):
            if stream.app is not None:  # else its OPEN came together with what ended the link
                stream.app.on_lost(reason)
        self._turns.clear()
        if self._recovery is not None:
            self._recovery.on_ended(self)
        if self._transport is None:
            self._gone.set()
        elif abort:
            self._transport.abort()
        else:
            self._transport.close()
        self.closed.set()


class _Deaf(asyncio.Protocol):
    """The protocol of a transport that its link has left."""
