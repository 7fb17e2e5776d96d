"""The redirect: transparent listeners and the kernel-owned table that feeds them. Exists only while ports are held."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from tpd_cluster.agent.rules import TABLE, change_ports, table_body
from tpd_core.errors import ClusterError
from tpd_core.linux.netns import has_address
from tpd_core.linux.nft import OwnedTable
from tpd_core.linux.sockets import transparent_tcp_listener

_ACCEPTS: Final = 64  # connections taken before other events of the loop are looked at
_LINGER: Final = 1.0  # seconds that handshakes may take which were under way when the table went
_RETRY: Final = 0.1  # seconds until accept is tried again when descriptors ran out

_log = logging.getLogger(__name__)


class Redirect:
    """Takes TCP connections to a changing set of the pod's ports.

    Args:
        on_connection: Called with each accepted socket, which it owns; what `original_destination` says of it is what
            the caller dialled.
        node_ip: The node's address: where it is one's own, nothing is taken.
        probe_ports: Ports with probes that the packet filter must let through.
    """

    def __init__(
        self,
        on_connection: Callable[[socket.socket], None],
        *,
        node_ip: str | None,
        probe_ports: Collection[int],
    ) -> None:
        self._on_connection = on_connection
        self._node_ip = node_ip
        self._probe_ports = probe_ports
        self._table: OwnedTable | None = None
        self._listeners: list[socket.socket] = []
        self._ports: frozenset[int] = frozenset()

    @property
    def ports(self) -> frozenset[int]:
        """Ports that are taken now."""
        return self._ports

    def set_ports(self, ports: Collection[int]) -> None:
        """Take exactly these ports; with none, everything is removed. Open connections are not touched.

        Raises:
            ClusterError: The kernel refused (`NftError` with nft's words), or this is the node's own network.
            OSError: A listener could not be made.
        """
        wanted = frozenset(ports)
        if not wanted:
            self.close()
        elif self._table is None:
            self._install(wanted)
        elif wanted != self._ports:
            self._table.update(change_ports(add=wanted - self._ports, remove=self._ports - wanted))
        self._ports = wanted

    def close(self) -> None:
        """Give all ports back at once."""
        table, self._table = self._table, None
        listeners, self._listeners = self._listeners, []
        self._ports = frozenset()
        if table is not None:
            table.close()
            _log.info("redirect removed")
        if listeners:
            asyncio.get_running_loop().call_later(_LINGER, self._retire, listeners)

    def _install(self, ports: Collection[int]) -> None:
        if self._node_ip is not None and has_address(self._node_ip):
            raise ClusterError(
                "the pod uses its node's network: a redirect would change the node's own rules",
                hint="Pods with hostNetwork cannot be intercepted.",
            )
        listeners = [transparent_tcp_listener("127.0.0.1")]
        try:
            if has_ipv6():
                listeners.append(transparent_tcp_listener("::1"))
            listen6 = listeners[1].getsockname()[1] if len(listeners) > 1 else None
            body = table_body(listeners[0].getsockname()[1], listen6, self._probe_sources(), self._probe_ports)
            self._table = OwnedTable(TABLE, body)
            self._table.update(change_ports(add=ports))
        except BaseException:
            if self._table is not None:
                self._table.close()
                self._table = None
            for listener in listeners:
                listener.close()
            raise
        loop = asyncio.get_running_loop()
        for listener in listeners:
            loop.add_reader(listener, self._accept, listener)
        self._listeners = listeners
        _log.info("redirect installed", extra={"ports": sorted(ports)})

    def _probe_sources(self) -> set[str]:
        sources = gateways(Path("/proc/self/net/route").read_text())
        if self._node_ip is not None and ":" not in self._node_ip:
            sources.add(self._node_ip)
        return sources

    def _accept(self, listener: socket.socket) -> bool:
        """Take waiting connections; True when there may be more."""
        for _ in range(_ACCEPTS):
            try:
                sock, _peer = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return False
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    _log.warning("connections wait: %s", error)
                    loop = asyncio.get_running_loop()
                    loop.remove_reader(listener)
                    loop.call_later(_RETRY, self._resume, listener)
                return False
            sock.setblocking(False)
            if sock.getsockname() == listener.getsockname():
                sock.close()  # somebody dialled the listener itself: there is nowhere to take that
            else:
                self._on_connection(sock)
        return True

    def _resume(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _retire(self, listeners: list[socket.socket]) -> None:
        for listener in listeners:
            while self._accept(listener):
                pass
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()


def has_ipv6() -> bool:
    """The network namespace has IPv6 loopback."""
    try:
        return has_address("::1")
    except OSError:
        return False


def gateways(table: str) -> set[str]:
    """IPv4 gateways in the text of /proc/net/route; kubelets behind a bridge probe from there."""
    rows = (line.split() for line in table.splitlines()[1:])
    digits = {row[2] for row in rows if len(row) > 2 and row[2] != "00000000"}
    return {socket.inet_ntoa(bytes.fromhex(word)[::-1]) for word in digits}
