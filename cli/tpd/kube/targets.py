"""Which container and which of its ports a spec means: pure, over objects as the API server gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tpd.compose.spec import InterceptSpec, PortPair
from tpd_core.errors import UserError


@dataclass(frozen=True, slots=True)
class TargetPort:
    """One port of a workload's container.

    Attributes:
        name: The container port's name; may be empty.
        number: What the container listens on.
        services: "SERVICE:PORT" of each service that leads to it.
    """

    name: str
    number: int
    services: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.number} ({self.name})" if self.name else str(self.number)


@dataclass(frozen=True, slots=True)
class Target:
    """A workload's container with the ports to take, each with the laptop's port."""

    kind: str
    name: str
    namespace: str
    container: str
    ports: tuple[tuple[TargetPort, int], ...]

    def __str__(self) -> str:
        return f"{self.kind.lower()}/{self.name}"


def pod_template(workload: Mapping[str, Any]) -> Mapping[str, Any]:
    """The pod template of a workload; a Pod is its own."""
    if workload.get("kind") == "Pod":
        return workload
    template: Mapping[str, Any] = workload.get("spec", {}).get("template", {})
    return template


def services_for(workload: Mapping[str, Any], services: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The services whose selector matches the workload's pods."""
    labels = pod_template(workload).get("metadata", {}).get("labels") or {}
    found = []
    for service in services:
        selector = service.get("spec", {}).get("selector")
        if selector and all(labels.get(key) == value for key, value in selector.items()):
            found.append(service)
    return found


def resolve_target(
    spec: InterceptSpec,
    workload: Mapping[str, Any],
    services: Sequence[Mapping[str, Any]],
    container: str | None = None,
) -> Target:
    """Find the container and the ports that a spec means.

    Args:
        spec: What was asked for.
        workload: The workload object.
        services: The namespace's services.
        container: The pod's container; None finds it by the port.

    Raises:
        UserError: The container or a port does not exist, or more than one would do.
    """
    kind, meta = workload["kind"], workload["metadata"]
    containers = pod_template(workload).get("spec", {}).get("containers") or []
    names = [item["name"] for item in containers]
    if container is not None and container not in names:
        raise UserError(f"{spec.workload} has no container {container!r}", hint=f"It has: {', '.join(names)}.")
    selecting = services_for(workload, services)
    table = {
        item["name"]: container_ports(item, containers, selecting)
        for item in containers
        if container in (None, item["name"])
    }
    chosen: list[tuple[str, TargetPort, int]] = []
    for pair in spec.ports or (None,):
        holder, port = _pick(spec, pair, table, selecting)
        chosen.append((holder, port, pair.local if pair else port.number))
    holders = {holder for holder, _, _ in chosen}
    if len(holders) > 1:
        raise UserError(
            f"the ports asked of {spec.workload} belong to different containers: {', '.join(sorted(holders))}",
            hint="Intercept one container at a time.",
        )
    return Target(
        kind,
        meta["name"],
        meta["namespace"],
        holders.pop(),
        tuple((port, local) for _, port, local in chosen),
    )


def container_ports(
    container: Mapping[str, Any],
    containers: Sequence[Mapping[str, Any]],
    services: Sequence[Mapping[str, Any]],
) -> list[TargetPort]:
    """A container's TCP ports: those it declares, and those that services lead to where no container declares them."""
    declared = {
        int(port["containerPort"]): str(port.get("name") or "")
        for port in container.get("ports") or []
        if port.get("protocol", "TCP") == "TCP"
    }
    elsewhere = {
        int(port["containerPort"])
        for other in containers
        if other is not container
        for port in other.get("ports") or []
    }
    names = {name: number for number, name in declared.items() if name}
    reached: dict[int, list[str]] = {}
    for service in services:
        for port in service.get("spec", {}).get("ports") or []:
            if port.get("protocol", "TCP") != "TCP":
                continue
            goal = port.get("targetPort", port["port"])
            number = names.get(goal) if isinstance(goal, str) else int(goal)
            if number is None or (number not in declared and (number in elsewhere or container is not containers[0])):
                continue
            reached.setdefault(number, []).append(f"{service['metadata']['name']}:{port['port']}")
    numbers = sorted(declared.keys() | reached.keys())
    return [TargetPort(declared.get(number, ""), number, tuple(reached.get(number, ()))) for number in numbers]


def _pick(
    spec: InterceptSpec,
    pair: PortPair | None,
    table: Mapping[str, Sequence[TargetPort]],
    services: Sequence[Mapping[str, Any]],
) -> tuple[str, TargetPort]:
    every = [(container, port) for container, ports in table.items() for port in ports]
    remote = pair.remote if pair else None
    if pair and remote is None:
        same = [item for item in every if item[1].number == pair.local]
        if len(same) == 1:
            return same[0]
    if remote is None:
        # A declared port that no service leads to (metrics, debugging) is rarely what is meant.
        candidates = [item for item in every if item[1].services] or every
    else:
        candidates = [item for item in every if _means(remote, item[1], services)]
        if not candidates and isinstance(remote, int):
            # Containers may listen on ports that nobody declares.
            return next(iter(table)), TargetPort("", remote)
    if len(candidates) == 1:
        return candidates[0]
    listed = ", ".join(_described(container, port, len(table) > 1) for container, port in candidates or every)
    if not candidates:
        if not every:
            raise UserError(
                f"{spec.workload} declares no TCP port, and no service leads to it",
                hint=f"Say which one: --intercept {spec.workload}:LOCAL:REMOTE.",
            )
        raise UserError(f"{spec.workload} has no port {remote!r}", hint=f"It has: {listed}.")
    first = candidates[0][1]
    raise UserError(
        f"{spec.workload} has more than one port: {listed}",
        hint=f"Say which one: --intercept {spec.workload}:{pair.local if pair else first.number}:"
        f"{first.name or first.number}.",
    )


def _means(word: int | str, port: TargetPort, services: Sequence[Mapping[str, Any]]) -> bool:
    # The container's own number comes first; a service's number is looked at where it differs.
    if word in (port.number, port.name):
        return True
    for service in services:
        for item in service.get("spec", {}).get("ports") or []:
            full = f"{service['metadata']['name']}:{item['port']}"
            if full in port.services and word in (item.get("name"), item["port"]):
                return True
    return False


def _described(container: str, port: TargetPort, with_container: bool) -> str:
    by = f" by service {', '.join(port.services)}" if port.services else ""
    return f"{port}{f' of {container}' if with_container else ''}{by}"
