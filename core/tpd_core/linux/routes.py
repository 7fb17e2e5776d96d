"""Routes that make whole address ranges local to a network namespace.

With `local RANGE dev lo`, packets to the range turn round on the loopback interface, where nft's `tproxy` takes them,
and every address of the range may be bound as a source. The two rtnetlink messages are written by hand: it takes less
than loading a library for them.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from typing import Final

from tpd_core.errors import ClusterError

# linux/netlink.h, linux/rtnetlink.h
_HEADER: Final = struct.Struct("=LHHLL")  # length, type, flags, sequence, port
_ROUTE: Final = struct.Struct("=8BL")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_ATTRIBUTE: Final = struct.Struct("=HH")
_NLMSG_ERROR: Final = 2
_RTM_NEWROUTE: Final = 24
_RTM_DELROUTE: Final = 25
_NLM_F_REQUEST_ACK: Final = 0x1 | 0x4
_NLM_F_REPLACE_CREATE: Final = 0x100 | 0x400
_RT_TABLE_LOCAL: Final = 255
_RTPROT_STATIC: Final = 4
_RT_SCOPE_HOST: Final = 254
_RTN_LOCAL: Final = 2
_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_PREFSRC: Final = 7


class RouteError(ClusterError):
    """The kernel refused a route; the message names it."""


def ensure_local_route(cidr: str, source: str | None = None) -> None:
    """Make a range local to the network namespace of the calling thread; a route that is already there is replaced.

    Args:
        cidr: The range, IPv4 or IPv6.
        source: The namespace's own address, which sockets that connect into the range then speak from.

    Raises:
        RouteError: No right (CAP_NET_ADMIN), or a source that is not local.
        ValueError: Not a range, or not an address.
    """
    network = ipaddress.ip_network(cidr)
    preferred = _attribute(_RTA_PREFSRC, ipaddress.ip_address(source).packed) if source else b""
    if code := _request(_RTM_NEWROUTE, _NLM_F_REPLACE_CREATE, network, preferred):
        raise RouteError(f"the kernel refused the local route {network} (source {source}): {os.strerror(code)}")


def remove_local_route(cidr: str) -> None:
    """Remove the route again; a route that is not there is fine.

    Raises:
        RouteError: No right.
        ValueError: Not a range.
    """
    network = ipaddress.ip_network(cidr)
    code = _request(_RTM_DELROUTE, 0, network, b"")
    if code not in (0, errno.ESRCH, errno.ENOENT):
        raise RouteError(f"the kernel refused to remove the local route {network}: {os.strerror(code)}")


def _request(kind: int, flags: int, network: ipaddress.IPv4Network | ipaddress.IPv6Network, extra: bytes) -> int:
    """Send one message and return the errno of its acknowledgement, 0 for success."""
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    body = _ROUTE.pack(family, network.prefixlen, 0, 0, _RT_TABLE_LOCAL, _RTPROT_STATIC, _RT_SCOPE_HOST, _RTN_LOCAL, 0)
    body += _attribute(_RTA_DST, network.network_address.packed)
    body += _attribute(_RTA_OIF, struct.pack("=L", socket.if_nametoindex("lo"))) + extra
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.bind((0, 0))
        sock.send(_HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST_ACK | flags, 1, 0) + body)
        answer = sock.recv(65536)
    if _HEADER.unpack_from(answer)[1] != _NLMSG_ERROR:
        return errno.EPROTO
    (code,) = struct.unpack_from("=l", answer, _HEADER.size)
    return -int(code)


def _attribute(kind: int, value: bytes) -> bytes:
    data = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value
    return data + bytes(-len(data) % 4)
