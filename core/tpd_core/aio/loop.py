"""The event loop: the fastest of what is installed, and TLS over a connected socket on any of them."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import socket
import ssl
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
ProtocolT = TypeVar("ProtocolT", bound=asyncio.BaseProtocol)
LoopFactory = Callable[[], asyncio.AbstractEventLoop]

_SMALL_BUFFERS = {"ssl_incoming_bio_size": 4 * 16448, "ssl_outgoing_bio_size": 4 * 16448}
"""aiofastnet: four TLS records, which stay in the processor's cache; its default of sixteen was slower."""

_SHUTDOWN = 1.0  # seconds that an orderly end of TLS may take


def loop_factory() -> LoopFactory:
    """aiofastnet over uvloop, else uvloop, else asyncio's own loop."""
    if importlib.util.find_spec("uvloop") is None:
        return asyncio.new_event_loop
    import uvloop

    if importlib.util.find_spec("aiofastnet") is None:
        return uvloop.new_event_loop
    import aiofastnet

    factory: LoopFactory = aiofastnet.loop_factory(uvloop.new_event_loop)
    return factory


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """`asyncio.run` on the best loop that is installed."""
    with asyncio.Runner(loop_factory=loop_factory(), debug=debug) as runner:
        runner.get_loop().set_exception_handler(on_loop_error)
        return runner.run(main)


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report what nobody else did, except peers that hang up during the TLS handshake."""
    if not is_hangup(context):
        loop.default_exception_handler(context)


def is_hangup(context: dict[str, Any]) -> bool:
    """aiofastnet reports a lost peer to the loop (as a bare class), besides raising it where it belongs."""
    error = context.get("exception")
    return "transport" in context and isinstance(error, type) and issubclass(error, OSError)


def is_fastnet(loop: asyncio.AbstractEventLoop) -> bool:
    """The loop's transports are aiofastnet's."""
    method = loop.create_connection
    return isinstance(method, functools.partial) and method.func.__module__.startswith("aiofastnet.")


async def start_tls(
    make_protocol: Callable[[], ProtocolT],
    sock: socket.socket,
    tls: ssl.SSLContext,
    *,
    server_hostname: str | None,
    timeout: float,
) -> tuple[asyncio.Transport, ProtocolT]:
    """TLS over a connected socket (TCP or AF_UNIX), which the transport owns from then on.

    Args:
        make_protocol: Makes the protocol that gets the plain bytes.
        sock: Non-blocking socket; closed when this fails.
        tls: Context of the right side.
        server_hostname: Name to verify; None makes this the accepting end.
        timeout: Seconds for the handshake.

    Raises:
        OSError: The handshake failed (`ssl.SSLError` is one) or took too long.
    """
    loop = asyncio.get_running_loop()
    options: dict[str, Any] = {"ssl": tls, "ssl_handshake_timeout": timeout, "ssl_shutdown_timeout": _SHUTDOWN}
    protocol = make_protocol()  # uvloop returns its own instead for accepted sockets
    transport: Any
    try:
        if is_fastnet(loop):
            import aiofastnet

            options |= _SMALL_BUFFERS
            if server_hostname is None:
                transport, _ = await aiofastnet.connect_accepted_socket(loop, lambda: protocol, sock, **options)
            else:
                transport, _ = await aiofastnet.create_connection(
                    loop, lambda: protocol, sock=sock, server_hostname=server_hostname, **options
                )
        elif server_hostname is None:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock, **options)
        elif sys.platform != "win32" and sock.family == socket.AF_UNIX:
            transport, _ = await loop.create_unix_connection(
                lambda: protocol, sock=sock, server_hostname=server_hostname, **options
            )
        else:
            transport, _ = await loop.create_connection(
                lambda: protocol, sock=sock, server_hostname=server_hostname, **options
            )
    except BaseException:
        loop.call_soon(sock.close)  # after the transport, if there was one already, has let go of it
        raise
    return transport, protocol
