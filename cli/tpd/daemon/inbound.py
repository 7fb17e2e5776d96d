"""Callers from the cluster, handed to the app as if they had come directly."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Final

from tpd.daemon.interfaces import own_addresses
from tpd_core.aio.errors import LinkClosed, StreamReset
from tpd_core.aio.stream import Incoming, Stream
from tpd_core.linux.sockets import Address, connect_from
from tpd_core.proto import link_pb2
from tpd_core.wire.frames import RejectCode

_log = logging.getLogger(__name__)

_TIMEOUT: Final = 1.0
"""Seconds for the app to accept; the agent waits as long before it hands the caller to the original container."""

LOOPBACK: Final = "127.0.0.1"


async def deliver(
    incoming: Incoming,
    inbound: link_pb2.Inbound,
    local_port: int,
    *,
    may_speak_from: Callable[[str], bool],
    opened: Callable[[Stream], None],
) -> None:
    """Connect a caller's stream to the app and carry it to its end.

    Args:
        incoming: The agent's offer; accepted only once the app has accepted.
        inbound: Who calls.
        local_port: Where the app listens.
        may_speak_from: Whether answers to an address come back to this namespace.
        opened: Told of the stream, for counters.
    """
    try:
        sock = await _connect(inbound, local_port, speak_as_caller=may_speak_from(inbound.source_host))
    except (OSError, TimeoutError) as error:
        code = RejectCode.REFUSED if isinstance(error, ConnectionRefusedError) else RejectCode.TIMEOUT
        incoming.reject(code, f"nothing accepts on port {local_port} on the laptop: {error}")
        return
    try:
        stream = incoming.accept()
    except (StreamReset, LinkClosed):
        sock.close()
        return
    opened(stream)
    result = await stream.splice(sock)
    _log.debug("caller served", extra={"caller": inbound.source_host, "sent": result.sent, "got": result.received})


async def _connect(inbound: link_pb2.Inbound, port: int, *, speak_as_caller: bool) -> socket.socket:
    """A connection to the app: on the loopback address, or where the app listens on its network's address only."""
    source: Address | None = (inbound.source_host, inbound.source_port)
    own = None
    if not speak_as_caller:
        # Answers to the caller would not come back; but the app must not take it for a program beside it either.
        own = own_addresses()
        source = (own[0].host, 0) if own else None
    try:
        return await connect_from(source, (LOOPBACK, port), timeout=_TIMEOUT)
    except ConnectionRefusedError:
        for address in own_addresses() if own is None else own:
            with contextlib.suppress(ConnectionRefusedError):
                return await connect_from(source, (address.host, port), timeout=_TIMEOUT)
        raise
