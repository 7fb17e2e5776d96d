"""Counts the connections that the app had before its port was taken. Pure, but for reading two files of /proc."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

_ESTABLISHED: Final = "01"


def count_established(ports: Collection[int]) -> int:
    """Connections from outside the pod to `ports` that are open in this network namespace."""
    total = 0
    for name in ("tcp", "tcp6"):
        try:
            with Path("/proc/self/net", name).open() as lines:
                total += sum(1 for port in established(lines) if port in ports)
        except FileNotFoundError:
            continue  # no IPv6
    return total


def established(lines: Iterable[str]) -> Iterator[int]:
    """Local ports of established connections whose peer is elsewhere, from the lines of /proc/net/tcp or tcp6."""
    for line in lines:
        fields = line.split()
        if len(fields) < 4 or fields[3] != _ESTABLISHED:
            continue
        local, _, port = fields[1].partition(":")
        peer = fields[2].partition(":")[0]
        if peer != local and not _address(peer).is_loopback:
            yield int(port, 16)


def _address(digits: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The kernel prints addresses as 32-bit words in the machine's order, which is little-endian where agents run."""
    words = (bytes.fromhex(digits[i : i + 8])[::-1] for i in range(0, len(digits), 8))
    address = ipaddress.ip_address(b"".join(words))
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
