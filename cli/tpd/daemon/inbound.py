"""Callers from the cluster, handed to the app as if they had come directly."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Final

from tpd.daemon.interfaces import own_addresses
from tpd_core.aio.errors import LinkClosed, StreamReset
from tpd_core.aio.stream import Incoming, Stream
from tpd_core.linux.sockets import connect_from
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
    own = own_addresses()
    # Where answers to the caller would not come back, the app must at least not take it for a local program.
    caller = (inbound.source_host, inbound.source_port)
    source = caller if may_speak_from(inbound.source_host) else (own[0].host, 0) if own else None
    sock = None
    failure: OSError | None = None
    for host in (LOOPBACK, *(address.host for address in own)):
        try:
            sock = await connect_from(source, (host, local_port), timeout=_TIMEOUT)
            break
        except (OSError, TimeoutError) as error:
            failure = error if isinstance(error, OSError) else OSError(str(error))
            if not isinstance(error, ConnectionRefusedError):
                break
    if sock is None:
        refused = failure is not None and failure.errno == errno.ECONNREFUSED
        code = RejectCode.REFUSED if refused else RejectCode.TIMEOUT
        incoming.reject(code, f"nothing accepts on port {local_port} on the laptop: {failure}")
        return
    try:
        stream = incoming.accept()
    except (StreamReset, LinkClosed):
        sock.close()
        return
    opened(stream)
    result = await stream.splice(sock)
    _log.debug("caller served", extra={"caller": inbound.source_host, "sent": result.sent, "got": result.received})
