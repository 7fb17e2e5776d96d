"""How a container reaches the API server that the laptop's kubeconfig names."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tpd.kube.config import Login
from tpd_core.proto import control_pb2

_BUILT_IN = ("bridge", "host", "none")


@dataclass(frozen=True, slots=True)
class Reach:
    """The API server as the daemon's container should address it.

    Attributes:
        url: Its URL from there; empty when only the laptop itself reaches it.
        tls_server_name: The name in its certificate; empty for the URL's host.
        network: A network that the anchor has to join first; None for none.
        note: How, for people.
    """

    url: str
    tls_server_name: str
    network: str | None
    note: str

    def transports(self, wanted: Sequence[int]) -> list[int]:
        """The kinds of transport to try, in order (values of `control_pb2.TransportKind`); empty for the usual."""
        if wanted or self.url:
            return list(wanted)
        return [control_pb2.TRANSPORT_ENDPOINT, control_pb2.TRANSPORT_RELAY]


def find_reach(login: Login, containers: Sequence[Mapping[str, Any]]) -> Reach:
    """Decide from the engine's running containers (as `/containers/json` lists them).

    An address that belongs to a container, or a loopback port that a container publishes, is reached over one of that
    container's own networks (kind, k3d, minikube); any other loopback address, a proxy, or a server whose certificate
    is not checked leaves only the laptop itself.
    """
    if login.proxy or (not login.verify and not login.ca):
        return Reach("", "", None, "by this computer" + (" and its proxy" if login.proxy else ""))
    host, port = login.host, login.port
    name = login.tls_server_name or ""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return Reach(login.server, name, None, "directly")
    if not address.is_loopback:
        for container in containers:
            for network, settings in _networks(container).items():
                if settings.get("IPAddress") == host:
                    return Reach(login.server, name, network, f"over network {network}")
        return Reach(login.server, name, None, "directly")
    for container in containers:
        for published in container.get("Ports") or ():
            if published.get("PublicPort") != port or published.get("Type") != "tcp":
                continue
            for network, settings in _networks(container).items():
                inner = settings.get("IPAddress")
                if inner and network not in _BUILT_IN:
                    parts = urlsplit(login.server)
                    url = f"{parts.scheme}://{inner}:{published['PrivatePort']}{parts.path}"
                    return Reach(url, name or host, network, f"over network {network}")
    return Reach("", "", None, "by this computer")


def _networks(container: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    networks: Mapping[str, Mapping[str, Any]] = (container.get("NetworkSettings") or {}).get("Networks") or {}
    return networks
