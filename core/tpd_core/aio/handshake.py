"""TLS and HELLO on a fresh socket: what comes before a link has a multiplexer."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tpd_core.aio.errors import LinkClosed
from tpd_core.aio.loop import start_tls
from tpd_core.wire.errors import RemoteProtocolError
from tpd_core.wire.hello import Hello, HelloReader, choose_version

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds for TLS and HELLO together."""

_TURN_AWAY: Final = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class Greeted:
    """A transport on which both ends have said HELLO. It does not read until its new protocol resumes it."""

    transport: asyncio.Transport
    certificate: bytes | None
    own: Hello
    peer: Hello
    rest: bytes
    version: int


class _Greeter(asyncio.Protocol):
    """Collects the peer's HELLO, then stops reading."""

    def __init__(self) -> None:
        self._reader = HelloReader()
        self._transport: asyncio.Transport | None = None
        self.peer: asyncio.Future[tuple[Hello, bytes]] = asyncio.get_running_loop().create_future()
        self.peer.add_done_callback(_retrieve)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "pause_reading")
        self._transport = transport  # type: ignore[assignment] # aiofastnet's and uvloop's have their own base

    def data_received(self, data: bytes) -> None:
        if self.peer.done():
            if not self.peer.cancelled() and self.peer.exception() is None:
                hello, rest = self.peer.result()
                self.peer = asyncio.get_running_loop().create_future()
                self.peer.set_result((hello, rest + data))
            return
        try:
            found = self._reader.feed(data)
        except RemoteProtocolError as error:
            self.peer.set_exception(error)
            return
        if found is not None:
            if self._transport is not None:
                self._transport.pause_reading()
            self.peer.set_result(found)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.peer.done():
            self.peer.set_exception(exc or ConnectionResetError("the peer closed the connection before its HELLO"))


async def greet(
    sock: socket.socket,
    tls: ssl.SSLContext,
    *,
    server_hostname: str | None,
    answer: Callable[[Hello | None, bytes | None], Hello],
    timeout: float,
) -> Greeted:
    """Bring a connected socket to the point where both ends have said HELLO.

    Args:
        sock: Owned from here on.
        tls: Context of the right side.
        server_hostname: Name to verify; None makes this the accepting end.
        answer: Makes the own HELLO out of the peer's (None for the connecting end, which speaks first) and the
            peer's certificate in DER form.
        timeout: Seconds for everything.

    Raises:
        LinkClosed: It did not come so far; the reason says why.
    """
    transport: asyncio.Transport | None = None
    try:
        async with asyncio.timeout(timeout):
            transport, greeter = await start_tls(_Greeter, sock, tls, server_hostname=server_hostname, timeout=timeout)
            certificate = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
            if server_hostname is not None:
                own = answer(None, certificate)
                transport.write(own.encode())
                peer, _ = await greeter.peer
            else:
                peer, _ = await greeter.peer
                own = answer(peer, certificate)
                transport.write(own.encode())
            version = choose_version(own, peer)
            rest = greeter.peer.result()[1]
    except BaseException as error:
        if transport is not None:
            transport.abort()
        if isinstance(error, (OSError, RemoteProtocolError, TimeoutError, ValueError)):
            raise LinkClosed(_explain(error, timeout)) from error
        raise
    return Greeted(transport, certificate, own, peer, rest, version)


async def turn_away(greeted: Greeted) -> None:
    """End a connection after its HELLO, which the peer is to read; takes a second at most."""
    leaving = _Leaving()
    greeted.transport.set_protocol(leaving)
    greeted.transport.resume_reading()
    greeted.transport.close()
    await asyncio.wait([leaving.gone], timeout=_TURN_AWAY)
    greeted.transport.abort()


class _Leaving(asyncio.Protocol):
    """Waits for the end of a connection."""

    def __init__(self) -> None:
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.gone.done():
            self.gone.set_result(None)


def _explain(error: Exception, timeout: float) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate is not valid: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, RemoteProtocolError):
        return f"protocol error: {error}"
    if isinstance(error, TimeoutError):
        return f"no TLS handshake and HELLO within {timeout:g} s"
    return str(error) or type(error).__name__


def _retrieve(future: asyncio.Future[tuple[Hello, bytes]]) -> None:
    if not future.cancelled():
        future.exception()
