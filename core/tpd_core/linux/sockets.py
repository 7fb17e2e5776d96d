"""Sockets that take traffic meant for other addresses, and sockets that speak from them.

All are non-blocking IPv4 or IPv6 sockets, by the form of the address given.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import struct
from typing import Final, TypeAlias

Address: TypeAlias = tuple[str, int]
"""Host (an IP literal) and port."""

# Values of linux/in.h and linux/in6.h; the socket module lacks most of them.
_IP_TRANSPARENT: Final = 19
_IP_RECVORIGDSTADDR: Final = 20
_IP_BIND_ADDRESS_NO_PORT: Final = 24
_IPV6_RECVORIGDSTADDR: Final = 74
_IPV6_TRANSPARENT: Final = 75


def family_of(host: str) -> socket.AddressFamily:
    """AF_INET or AF_INET6.

    Raises:
        ValueError: Not an IP literal.
    """
    return socket.AF_INET if ipaddress.ip_address(host).version == 4 else socket.AF_INET6


def transparent_tcp_listener(host: str, port: int = 0, backlog: int = 1024) -> socket.socket:
    """A listener that may be the target of nft's `tproxy`; needs CAP_NET_ADMIN.

    What `original_destination` says of an accepted socket is what the caller dialled.

    Raises:
        OSError: The address is taken, or the capability is missing.
    """
    family = family_of(host)
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
        sock.setblocking(False)
        _set_transparent(sock, family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(backlog)
        undo.pop_all()
    return sock


def original_destination(sock: socket.socket) -> Address:
    """Where the peer of a socket accepted from a transparent listener meant to go."""
    host, port = sock.getsockname()[:2]
    return host, port


async def connect_from(
    source: Address | None, target: Address, *, timeout: float, transparent: bool = False
) -> socket.socket:
    """Connect a TCP socket, from a given address if one is given.

    Args:
        source: Address to speak from, or None for the system's choice. It must be local (a `local` route to its range
            makes it so for IPv4) unless `transparent`. Port 0 lets the kernel choose; another port is given up for
            the kernel's choice when it is taken.
        target: Where to connect.
        timeout: Seconds.
        transparent: Bind `source` even where it is not local; needs CAP_NET_ADMIN. Answers must still find their way
            back to this host.

    Raises:
        OSError: Refused, unreachable, or EADDRNOTAVAIL for a source that is not local.
        TimeoutError: No answer in time.
    """
    if source is not None and source[1]:
        try:
            return await _connect(source, target, timeout, transparent)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                raise
        source = (source[0], 0)
    return await _connect(source, target, timeout, transparent)


async def _connect(source: Address | None, target: Address, timeout: float, transparent: bool) -> socket.socket:
    family = family_of(target[0])
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source is not None:
            if transparent:
                _set_transparent(sock, family)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # The port is chosen at connect, per target: thousands of sockets may share one.
            sock.setsockopt(socket.SOL_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind(source)
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().sock_connect(sock, target)
        undo.pop_all()
    return sock


def transparent_udp_socket(host: str, port: int = 0) -> socket.socket:
    """A UDP socket that may be the target of nft's `tproxy`; read it with `receive_with_destination`.

    Raises:
        OSError: The address is taken, or CAP_NET_ADMIN is missing.
    """
    family = family_of(host)
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(_udp(family))
        if family == socket.AF_INET:
            sock.setsockopt(socket.SOL_IP, _IP_RECVORIGDSTADDR, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVORIGDSTADDR, 1)
        sock.bind((host, port))
        undo.pop_all()
    return sock


def transparent_udp_source(address: Address) -> socket.socket:
    """A UDP socket that speaks from an address which this host need not have, to answer for an original destination.

    Raises:
        OSError: CAP_NET_ADMIN is missing.
    """
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(_udp(family_of(address[0])))
        sock.bind(address)
        undo.pop_all()
    return sock


def receive_with_destination(sock: socket.socket, limit: int = 65536) -> tuple[bytes, Address, Address]:
    """One datagram, where it came from, and where it was meant to go.

    Raises:
        BlockingIOError: There is none.
    """
    data, ancillary, _, peer = sock.recvmsg(limit, socket.CMSG_SPACE(28))
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_IP, _IP_RECVORIGDSTADDR):
            port, packed = struct.unpack_from("!2xH4s", value)
            return data, peer[:2], (socket.inet_ntop(socket.AF_INET, packed), port)
        if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_RECVORIGDSTADDR):
            port, packed = struct.unpack_from("!2xH4x16s", value)
            return data, peer[:2], (socket.inet_ntop(socket.AF_INET6, packed), port)
    raise OSError(errno.ENOMSG, "a datagram came without its original destination")


def _udp(family: socket.AddressFamily) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    try:
        _set_transparent(sock, family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except OSError:
        sock.close()
        raise
    return sock


def _set_transparent(sock: socket.socket, family: socket.AddressFamily) -> None:
    if family == socket.AF_INET:
        sock.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
