"""The redirect as nft rules. Pure.

TCP is taken by `tproxy` in a filter chain, not by NAT: connections that the app has already stay with it when the
rules appear, and connections taken by the agent survive their removal. No route is needed, since the destination is
the pod's own address. Loopback packets pass the hook as well and must be left alone: the agent's own connections to
the app are among them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

TABLE: Final = "tpd_agent"
"""One agent per pod: a second one cannot make a table of this name."""


def table_body(listen4: int, listen6: int | None, probe_sources: Collection[str], probe_ports: Collection[int]) -> str:
    """What stands in the table.

    Args:
        listen4: Port of the transparent listener on 127.0.0.1.
        listen6: Port of the one on ::1, None where the pod has no IPv6.
        probe_sources: IPv4 addresses that the kubelet's probes come from.
        probe_ports: Ports with probes that cannot be told by their bytes: packets from a source above whose TTL no
            hop has lowered go to the app.
    """
    lines = [
        "set ports { type inet_service; }",
        "chain take {",
        "type filter hook prerouting priority mangle; policy accept;",
        'iifname "lo" accept',
    ]
    if probe_sources and probe_ports:
        sources, ports = ", ".join(sorted(probe_sources)), ", ".join(map(str, sorted(probe_ports)))
        lines.append(f"ip saddr {{ {sources} }} ip ttl 64 tcp dport {{ {ports} }} accept")
    lines.append(f"meta nfproto ipv4 tcp dport @ports tproxy ip to 127.0.0.1:{listen4} accept")
    if listen6 is not None:
        lines.append(f"meta nfproto ipv6 tcp dport @ports tproxy ip6 to [::1]:{listen6} accept")
    lines.append("}")
    return "\n".join(lines)


def change_ports(*, add: Collection[int] = (), remove: Collection[int] = ()) -> str:
    """Commands that change which ports are taken."""
    commands = []
    if add:
        commands.append(f"add element inet {TABLE} ports {{ {', '.join(map(str, sorted(add)))} }}")
    if remove:
        commands.append(f"delete element inet {TABLE} ports {{ {', '.join(map(str, sorted(remove)))} }}")
    return "\n".join(commands)
