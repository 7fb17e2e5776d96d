"""Connections into the cluster on a daemon's behalf, as long as no agent can make them."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from tpd_core.aio.errors import LinkClosed, StreamReset
from tpd_core.aio.stream import Incoming
from tpd_core.proto import link_pb2
from tpd_core.wire.frames import RejectCode

CONNECT_TIMEOUT = 10.0
"""Seconds until the other end must have answered."""


def refusal(host: str, port: int, *, resolver: str = "") -> str | None:
    """Why the manager does not connect there, or None.

    Its own loopback and the link-local range (which holds the cloud's metadata service, and with it the node's
    credentials) are no part of the cluster's network; a node-local DNS cache is.

    Args:
        resolver: The cluster resolver's address.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"{host!r} is not an IP address"
    if not 0 < port < 65536:
        return f"{port} is not a port"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address.is_loopback or address.is_unspecified or address.is_multicast:
        return f"{host} is not an address in the cluster"
    if address.is_link_local and host != resolver:
        return f"{host} is link-local: not an address in the cluster"
    return None


async def dial(incoming: Incoming, request: link_pb2.Dial, *, resolver: str = "") -> None:
    """Connect, answer, carry; returns when the stream is over."""
    reason = refusal(request.host, request.port, resolver=resolver)
    if reason is not None:
        incoming.reject(RejectCode.DENIED, reason)
        return
    family = socket.AF_INET6 if ":" in request.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await asyncio.get_running_loop().sock_connect(sock, (request.host, request.port))
        stream = incoming.accept()
    except (OSError, TimeoutError) as error:
        sock.close()
        incoming.reject(reject_code(error), f"{request.host}:{request.port}: {error or 'no answer in time'}")
        return
    except (StreamReset, LinkClosed):
        sock.close()
        return
    except BaseException:
        sock.close()
        raise
    try:
        await stream.splice(sock)
    except (StreamReset, LinkClosed):
        return


def reject_code(error: BaseException) -> RejectCode:
    """How a failed connection is told."""
    if isinstance(error, ConnectionRefusedError):
        return RejectCode.REFUSED
    if isinstance(error, TimeoutError):
        return RejectCode.TIMEOUT
    return RejectCode.UNREACHABLE
