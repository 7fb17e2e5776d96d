"""What a daemon must know about the cluster to capture the right traffic."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Iterable
from typing import Any

import tpd_core
from tpd_cluster.manager.model import Object
from tpd_cluster.manager.settings import Settings
from tpd_core.errors import TpdError
from tpd_core.kube import ApiClient, Invalid, NotFound
from tpd_core.kube.errors import ApiError, Forbidden
from tpd_core.kube.paths import NODES, SERVICE_CIDRS, SERVICES
from tpd_core.proto import link_pb2

_EVERY = 300.0  # seconds between looks: nodes come and go, ranges hardly ever
_ENDPOINT_NODES = 3

_log = logging.getLogger(__name__)


class ClusterFacts:
    """Keeps a ClusterInfo up to date.

    Args:
        resolv_conf: Contents of the manager's own /etc/resolv.conf.
        on_change: Called with each new one.
    """

    def __init__(
        self,
        client: ApiClient,
        settings: Settings,
        resolv_conf: str,
        on_change: Callable[[link_pb2.ClusterInfo], None] = lambda info: None,
    ) -> None:
        self.current: link_pb2.ClusterInfo | None = None
        self.on_change = on_change
        self._client = client
        self._settings = settings
        self._resolv_conf = resolv_conf

    async def run(self) -> None:
        """Look again from time to time, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY)
            try:
                await self.refresh()
            except TpdError as error:
                _log.warning("the cluster's ranges could not be read: %s", error.message)

    async def refresh(self) -> link_pb2.ClusterInfo:
        """Look now.

        Raises:
            TpdError: The API server refused or could not be reached.
        """
        nodes = (await self._client.list(NODES.path(), {"resourceVersion": "0"}))["items"]
        domain, address = read_resolv_conf(self._resolv_conf, self._settings.namespace)
        info = link_pb2.ClusterInfo(
            manager_version=tpd_core.__version__,
            service_cidrs=self._settings.service_cidrs or await self._service_cidrs(),
            pod_cidrs=self._settings.pod_cidrs or pod_cidrs(nodes),
            cluster_domain=self._settings.cluster_domain or domain,
            dns_address=self._settings.dns_address or address,
            endpoints=await self._endpoints(nodes),
        )
        if not info.pod_cidrs:
            _log.warning("the nodes name no pod ranges: set the chart value cluster.podCIDRs")
        if self.current != info:
            self.current = info
            self.on_change(info)
        return info

    async def _service_cidrs(self) -> list[str]:
        """From the ServiceCIDR objects (Kubernetes 1.33 and later), else out of a refusal.

        A Service with an address that cannot be is refused with the valid range in the message.
        """
        try:
            items = (await self._client.list(SERVICE_CIDRS.path()))["items"]
            return [cidr for item in items for cidr in item["spec"]["cidrs"]]
        except (NotFound, Forbidden):
            pass
        impossible = {
            "metadata": {"generateName": "tpd-range-", "namespace": self._settings.namespace},
            "spec": {"ports": [{"port": 1}], "clusterIP": "192.0.2.1"},
        }
        try:
            await self._client.create(SERVICES.path(self._settings.namespace), impossible, {"dryRun": "All"})
        except Invalid as error:
            return cidrs_in(error.words)
        except ApiError as error:
            _log.warning("the service range is unknown, set cluster.serviceCIDRs: %s", error.message)
        return []

    async def _endpoints(self, nodes: list[dict[str, Any]]) -> list[link_pb2.Endpoint]:
        kind = self._settings.endpoint_type
        if kind == "None":
            return []
        path = SERVICES.path(self._settings.namespace, self._settings.endpoint_service)
        return endpoints(kind, self._settings.endpoint_host, await self._client.get(path), nodes)


def pod_cidrs(nodes: Iterable[Object]) -> list[str]:
    """The nodes' ranges; neighbouring ones put together."""
    texts = {cidr for node in nodes for cidr in node["spec"].get("podCIDRs") or ()}
    parsed = [ipaddress.ip_network(text, strict=False) for text in texts]
    v4 = ipaddress.collapse_addresses(net for net in parsed if isinstance(net, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(net for net in parsed if isinstance(net, ipaddress.IPv6Network))
    return [*map(str, v4), *map(str, v6)]


def endpoints(kind: str, host: str, service: Object, nodes: Iterable[Object]) -> list[link_pb2.Endpoint]:
    """Where the router can be reached from outside, by the endpoint Service.

    Args:
        kind: "NodePort" or "LoadBalancer".
        host: Instead of what the cluster says; may be empty.
    """
    port = service["spec"]["ports"][0]
    if kind == "NodePort":
        hosts = [host] if host else _node_addresses(nodes)
        number = port.get("nodePort")
    else:
        ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
        hosts = [host] if host else [entry.get("ip") or entry.get("hostname") or "" for entry in ingress]
        number = port["port"]
    return [link_pb2.Endpoint(host=name, port=number) for name in hosts if name and number]


def _node_addresses(nodes: Iterable[Object]) -> list[str]:
    """One address of each of a few ready nodes, an outside one where there is one."""
    found = []
    for node in nodes:
        conditions = node["status"].get("conditions") or ()
        if not any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions):
            continue
        by_kind: dict[str, str] = {}
        for entry in node["status"].get("addresses") or ():
            by_kind.setdefault(entry["type"], entry["address"])
        address = by_kind.get("ExternalIP") or by_kind.get("InternalIP")
        if address:
            found.append(address)
        if len(found) == _ENDPOINT_NODES:
            break
    return found


def read_resolv_conf(text: str, namespace: str) -> tuple[str, str]:
    """Cluster domain and resolver's address out of a pod's resolv.conf.

    The kubelet writes `search NAMESPACE.svc.DOMAIN svc.DOMAIN DOMAIN ...`.
    """
    domain, address = "cluster.local", ""
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and not address:
            address = words[1]
        if len(words) > 1 and words[0] == "search":
            prefix = f"{namespace}.svc."
            domain = next((word[len(prefix) :].rstrip(".") for word in words[1:] if word.startswith(prefix)), domain)
    return domain, address


def cidrs_in(words: str) -> list[str]:
    """Networks that a message of the API server names."""
    found = []
    for word in words.replace(",", " ").split():
        try:
            if "/" in word:
                found.append(str(ipaddress.ip_network(word.strip("()[]\"'.;"))))
        except ValueError:
            continue
    return found
