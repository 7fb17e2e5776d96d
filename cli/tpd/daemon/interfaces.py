"""The namespace's own addresses, and the moment when it loses its last interface."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import Final

# linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h
_HEADER: Final = struct.Struct("=LHHLL")  # length, type, flags, sequence, port
_ADDRESS: Final = struct.Struct("=4BL")  # family, prefix length, flags, scope, interface index
_ATTRIBUTE: Final = struct.Struct("=HH")
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_RTM_NEWADDR: Final = 20
_RTM_GETADDR: Final = 22
_NLM_F_REQUEST_DUMP: Final = 0x1 | 0x300
_IFA_LOCAL: Final = 2
_RTMGRP_LINK: Final = 1


@dataclass(frozen=True, slots=True)
class OwnAddress:
    """An IPv4 address of an interface other than lo."""

    interface: str
    address: ipaddress.IPv4Interface

    @property
    def host(self) -> str:
        """The address alone."""
        return str(self.address.ip)


def own_addresses() -> list[OwnAddress]:
    """All IPv4 addresses of this network namespace except those of lo, the default route's own one first.

    Raises:
        OSError: Netlink refused the question.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.bind((0, 0))
        body = _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0)
        sock.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0) + body)
        found: list[OwnAddress] = []
        while not _read_dump(sock.recv(1 << 16), found):
            pass
    default = _default_source()
    return sorted(found, key=lambda own: own.host != default)


def _read_dump(data: bytes, found: list[OwnAddress]) -> bool:
    """Add the addresses of one datagram; True when the dump is complete."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
        if kind in (_NLMSG_DONE, _NLMSG_ERROR):
            return True
        if kind == _RTM_NEWADDR and (own := _parse(data[offset + _HEADER.size : offset + length])) is not None:
            found.append(own)
        offset += (length + 3) & ~3
    return False


def _parse(message: bytes) -> OwnAddress | None:
    _, prefix, _, _, index = _ADDRESS.unpack_from(message)
    name = socket.if_indextoname(index)
    offset = _ADDRESS.size
    while offset + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, offset)
        if kind == _IFA_LOCAL and name != "lo":
            packed = message[offset + _ATTRIBUTE.size : offset + length]
            return OwnAddress(name, ipaddress.IPv4Interface((packed, prefix)))
        offset += (length + 3) & ~3
    return None


def _default_source() -> str:
    """The address that the namespace speaks from to the world; empty without a default route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # documentation range: asks the routing table, sends nothing
        except OSError:
            return ""
        return str(sock.getsockname()[0])


def has_interfaces() -> bool:
    """The namespace has an interface other than lo."""
    return any(name != "lo" for _, name in socket.if_nameindex())


async def wait_for_loss() -> None:
    """Return once the namespace had interfaces and has only lo left: its container was stopped or restarted."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.setblocking(False)
        sock.bind((0, _RTMGRP_LINK))
        had = has_interfaces()
        while True:
            present = has_interfaces()
            if had and not present:
                return
            had = had or present
            await loop.sock_recv(sock, 1 << 16)
