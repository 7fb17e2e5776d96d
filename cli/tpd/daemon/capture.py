"""Capture: what the app sends to cluster addresses turns round on lo and ends in the daemon's sockets.

Theory
======
A `local` route on lo makes an address range the namespace's own, so packets to it never leave; nft's tproxy hands the
TCP ones to one transparent listener, whose accepted sockets tell what was dialled. No address translation, no
conntrack entry, no port bound that the app may want. Pings to such addresses would be answered by the kernel itself,
which would be a lie: they are dropped.

DNS comes to one captured address. TCP goes the common way. A UDP answer must come from port 53 of that address, and
binding that port fails where the app has bound port 53 on all addresses; so the port number is rewritten, statelessly
and in both directions, and the daemon's socket is bound to another port.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterable, Sequence

from tpd.daemon.interfaces import OwnAddress, own_addresses
from tpd_core.errors import ConfigError, EngineError
from tpd_core.linux.nft import NftError, OwnedTable
from tpd_core.linux.routes import RouteError, ensure_local_route, remove_local_route
from tpd_core.linux.sockets import transparent_tcp_listener

TABLE = "tpd_daemon"
LOOPBACK = "127.0.0.1"
DNS_PORT = 53
_IP_TRANSPARENT = 19  # linux/in.h


def plan_routes(cidrs: Iterable[str], exempt: Iterable[str]) -> list[ipaddress.IPv4Network]:
    """The IPv4 ranges to make local: `cidrs` without the addresses that the daemon itself must reach outside.

    IPv6 ranges are left out: the cluster's IPv6 addresses are not captured, and DNS does not hand them out.
    """
    networks = [net for cidr in cidrs if isinstance(net := ipaddress.ip_network(cidr), ipaddress.IPv4Network)]
    for host in exempt:
        hole = ipaddress.ip_network(host)
        if not isinstance(hole, ipaddress.IPv4Network):
            continue
        networks = [part for net in networks for part in (net.address_exclude(hole) if hole.subnet_of(net) else (net,))]
    return sorted(ipaddress.collapse_addresses(networks))


def find_overlap(cidrs: Iterable[str], own: Sequence[OwnAddress]) -> ConfigError | None:
    """The error for the first cluster range that this namespace's own networks overlap, if there is one."""
    for cidr in cidrs:
        network = ipaddress.ip_network(cidr)
        for address in own:
            if isinstance(network, ipaddress.IPv4Network) and network.overlaps(address.address.network):
                return ConfigError(
                    f"the cluster's range {cidr} overlaps the container network {address.address.network}"
                    f" ({address.interface}): neighbours and cluster addresses cannot be told apart",
                    hint="give the compose network another subnet (networks.NAME.ipam.config), or set"
                    ' "default-address-pools" of the Docker engine',
                )
    return None


def nft_body(dns_address: str, tcp_port: int, dns_udp_port: int) -> str:
    """Sets and chains of the daemon's table."""
    return f"""
set captured {{ type ipv4_addr; flags interval; auto-merge; }}
chain dns_question {{
  type filter hook prerouting priority raw; policy accept;
  iifname "lo" ip daddr {dns_address} udp dport {DNS_PORT} udp dport set {dns_udp_port}
}}
chain dns_answer {{
  type filter hook output priority raw; policy accept;
  ip saddr {dns_address} udp sport {dns_udp_port} udp sport set {DNS_PORT}
}}
chain capture {{
  type filter hook prerouting priority mangle; policy accept;
  iifname "lo" ip daddr {dns_address} tcp dport {DNS_PORT} tproxy ip to {LOOPBACK}:{tcp_port} accept
  iifname "lo" ip daddr @captured meta l4proto tcp tproxy ip to {LOOPBACK}:{tcp_port} accept
  iifname "lo" ip daddr @captured meta l4proto udp reject with icmp port-unreachable
  ip daddr {{ {dns_address} }} icmp type echo-request drop
  ip daddr @captured icmp type echo-request drop
  iifname != "lo" ip daddr @captured drop
}}
"""


class Capture:
    """Routes, rules and sockets of the capture; a context manager.

    Args:
        dns_address: Captured from the start: the address that the container was given as its resolver.

    Raises:
        EngineError: The kernel refused; CAP_NET_ADMIN or a module is missing.
    """

    def __init__(self, dns_address: str) -> None:
        self.dns_address = dns_address
        self._routes: list[ipaddress.IPv4Network] = []
        try:
            self._undo = self._start(dns_address)
        except (NftError, RouteError, OSError) as error:
            raise EngineError(
                f"the container's traffic cannot be captured: {error}",
                hint="the daemon needs the capability NET_ADMIN, and a kernel from 5.12 with the module nft_tproxy"
                " (`modprobe nft_tproxy` on the engine's machine)",
            ) from error

    def _start(self, dns_address: str) -> contextlib.ExitStack:
        with contextlib.ExitStack() as undo:
            own = own_addresses()
            ensure_local_route(f"{dns_address}/32", own[0].host if own else None)
            self.tcp = undo.enter_context(transparent_tcp_listener(LOOPBACK))
            self.udp = undo.enter_context(_dns_socket(dns_address))
            body = nft_body(dns_address, self.tcp.getsockname()[1], self.udp.getsockname()[1])
            self._table = undo.enter_context(OwnedTable(TABLE, body))
            return undo.pop_all()

    def set_ranges(self, cidrs: Sequence[str], exempt: Iterable[str] = ()) -> None:
        """Capture exactly these ranges, besides the DNS address; none gives all others back.

        Args:
            cidrs: The cluster's service and pod ranges.
            exempt: Addresses that the daemon's own transports connect to.

        Raises:
            ConfigError: A range overlaps the namespace's own networks; nothing has changed.
            NftError, RouteError: The kernel refused.
        """
        own = own_addresses()
        if (overlap := find_overlap(cidrs, own)) is not None:
            raise overlap
        routes = plan_routes(cidrs, exempt)
        elements = f"add element inet {TABLE} captured {{ {', '.join(map(str, routes))} }}" if routes else ""
        self._table.update(f"flush set inet {TABLE} captured\n{elements}")
        for network in routes:
            ensure_local_route(str(network), own[0].host if own else None)
        for network in self._routes:
            if network not in routes:
                remove_local_route(str(network))
        self._routes = routes

    def covers(self, host: str) -> bool:
        """`host` is in a captured range, and so may be spoken from."""
        address = ipaddress.ip_address(host)
        return any(address in network for network in self._routes)

    def close(self) -> None:
        """Give everything back."""
        self._undo.close()
        for network in [*self._routes, ipaddress.IPv4Network(self.dns_address)]:
            remove_local_route(str(network))
        self._routes = []

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _dns_socket(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
        sock.bind((address, 0))
    except OSError:
        sock.close()
        raise
    return sock
