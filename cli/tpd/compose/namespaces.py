"""Whose network namespace an intercepted service lives in, and which services share it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from tpd.compose.model import Document
from tpd_core.errors import UserError

_SERVICE = "service:"
_CONTAINER = "container:"


@dataclass(frozen=True, slots=True)
class Group:
    """Services with one network namespace: `owner` has the networks, all others join it."""

    owner: str
    targets: tuple[str, ...]
    members: tuple[str, ...]


def owner_of(services: Document, name: str) -> str:
    """Follow `network_mode: service:X` to the service that has networks of its own.

    Raises:
        UserError: It ends in a namespace that tpd cannot put an anchor under.
    """
    owner = name
    for _ in services:
        mode = str(services[owner].get("network_mode") or "")
        if not mode.startswith(_SERVICE):
            break
        owner = mode.removeprefix(_SERVICE)
    _refuse_mode(name, owner, str(services[owner].get("network_mode") or ""))
    return owner


def groups_of(services: Document, targets: Collection[str]) -> list[Group]:
    """The namespaces of all intercepted services, in the order of their owners' names.

    Raises:
        UserError: A target lives in a namespace that tpd cannot put an anchor under.
    """
    owners = {target: owner_of(services, target) for target in sorted(targets)}
    return [
        Group(
            owner=owner,
            targets=tuple(target for target in owners if owners[target] == owner),
            members=tuple(sorted(_members(services, owner))),
        )
        for owner in sorted(set(owners.values()))
    ]


def joined(service: Document, members: Iterable[str], services: Document) -> bool:
    """Whether a service's network mode names one of the members, as a service or by container name."""
    mode = str(service.get("network_mode") or "")
    if mode.startswith(_SERVICE):
        return mode.removeprefix(_SERVICE) in members
    if mode.startswith(_CONTAINER):
        containers = {services[member].get("container_name") for member in members if member in services}
        return mode.removeprefix(_CONTAINER) in containers
    return False


def _members(services: Document, owner: str) -> set[str]:
    members = {owner}
    while True:
        more = {
            name for name, service in services.items() if name not in members and joined(service, members, services)
        }
        if not more:
            return members
        members |= more


def _refuse_mode(target: str, owner: str, mode: str) -> None:
    whose = f"Service {target!r}" if target == owner else f"Service {target!r} shares the network of {owner!r}, which"
    if mode == "host":
        raise UserError(
            f"{whose} has `network_mode: host`: an intercept would take over the host's own network, which tpd never"
            " changes.",
            hint=f"Remove `network_mode: host` from {owner!r} and publish its ports by `ports:`.",
        )
    if mode == "none":
        raise UserError(
            f"{whose} has `network_mode: none`: without any network nothing can be connected to the cluster.",
            hint=f"Remove `network_mode: none` from {owner!r}.",
        )
    if mode.startswith(_CONTAINER):
        raise UserError(
            f"{whose} has `network_mode: {mode}`: it lives in the network of a container outside this project.",
            hint=f"Give {owner!r} networks of its own, or write `network_mode: service:NAME` for a service of the"
            " project.",
        )
