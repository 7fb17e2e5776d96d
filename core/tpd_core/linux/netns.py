"""What kind of network namespace this process is in."""

from __future__ import annotations

import contextlib
import errno
import socket

from tpd_core.linux.sockets import family_of


def has_address(host: str) -> bool:
    """True if `host` is an address of this network namespace.

    Tells a pod's own namespace from its node's: only there the node's address can be bound.

    Raises:
        ValueError: Not an IP literal.
    """
    with contextlib.closing(socket.socket(family_of(host), socket.SOCK_STREAM)) as sock:
        try:
            sock.bind((host, 0))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            return False
        return True
