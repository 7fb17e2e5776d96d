"""Whom to ask for a name, and under which full names the cluster may know it. Pure.

A pod's resolv.conf makes the C library try a search list. A container on the laptop has no such list (and musl's
resolver would not use one the same way), so the expansion is done here, for the shapes that mean something in a
cluster: `service`, `service.namespace`, `pod.service`, `pod.service.namespace`, each also with `.svc`, and SRV names in
front of those. Longer names are asked in the world only, unless they end in the cluster's own suffixes.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Final

DEFAULT_DOMAIN: Final = "cluster.local"
_REVERSE: Final = ".in-addr.arpa"
_LONGEST_SHORT: Final = 3  # labels of pod.service.namespace


@dataclass(frozen=True, slots=True)
class NameConfig:
    """What decides about names in one session.

    Attributes:
        namespace: Where short names are looked up.
        domain: The cluster's DNS domain, such as cluster.local.
        ranges: The cluster's addresses: their reverse names are the cluster's.
        local_names: Names of compose services and aliases, which the cluster is never asked for.
        remote_names: Names that only the cluster is asked for, also when it cannot be reached.
    """

    namespace: str
    domain: str = DEFAULT_DOMAIN
    ranges: tuple[ipaddress.IPv4Network, ...] = ()
    local_names: frozenset[str] = field(default_factory=frozenset)
    remote_names: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class Plan:
    """Whom to ask.

    Attributes:
        candidates: Full names, without the last dot, to ask the cluster for, best first.
        world: Ask the upstream resolvers when the cluster knows none of them.
        certain: The name can only be the cluster's: without its answer there is none.
    """

    candidates: tuple[str, ...]
    world: bool
    certain: bool


def plan(name: str, config: NameConfig) -> Plan:
    """Decide for one name.

    Args:
        name: As asked, in any case, with or without the last dot.
        config: The session's settings.
    """
    name = name.rstrip(".").lower()
    if name in config.remote_names:
        return Plan(_expand(name, config) or (name,), world=False, certain=True)
    if name in config.local_names:
        return Plan((), world=True, certain=False)
    if name.endswith(_REVERSE):
        own = _reverse_is_cluster(name, config.ranges)
        return Plan((name,) if own else (), world=not own, certain=own)
    if name == config.domain or name.endswith(f".{config.domain}"):
        return Plan((name,), world=False, certain=True)
    if name.endswith(".svc"):
        return Plan((f"{name}.{config.domain}",), world=False, certain=True)
    candidates = _expand(name, config)
    return Plan(candidates, world=True, certain=len(_host_labels(name)) == 1)


def _expand(name: str, config: NameConfig) -> tuple[str, ...]:
    in_namespace = f"{name}.{config.namespace}.svc.{config.domain}"
    anywhere = f"{name}.svc.{config.domain}"
    match len(_host_labels(name)):
        case 1:
            return (in_namespace,) if config.namespace else ()
        case 2:
            return (anywhere, in_namespace) if config.namespace else (anywhere,)
        case count if count == _LONGEST_SHORT:
            return (anywhere,)
    return ()


def _host_labels(name: str) -> list[str]:
    """The labels without an SRV question's `_port._protocol` in front."""
    labels = [label for label in name.split(".") if label]
    while labels and labels[0].startswith("_"):
        del labels[0]
    return labels


def _reverse_is_cluster(name: str, ranges: tuple[ipaddress.IPv4Network, ...]) -> bool:
    labels = name.removesuffix(_REVERSE).split(".")
    try:
        address = ipaddress.IPv4Address(".".join(reversed(labels)))
    except ValueError:
        return False
    return any(address in network for network in ranges)
