"""`--intercept W[=SERVICE][:LOCAL[:REMOTE]]`: what it says, and which compose service it means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tpd.compose.model import listed
from tpd_core.errors import UserError

FORM = "WORKLOAD[=SERVICE][:LOCAL_PORT[:WORKLOAD_PORT]]"

_KINDS = {
    "Deployment": ("deployment", "deployments", "deploy", "deployment.apps", "deployments.apps"),
    "StatefulSet": ("statefulset", "statefulsets", "sts", "statefulset.apps", "statefulsets.apps"),
    "DaemonSet": ("daemonset", "daemonsets", "ds", "daemonset.apps", "daemonsets.apps"),
    "ReplicaSet": ("replicaset", "replicasets", "rs", "replicaset.apps", "replicasets.apps"),
    "Pod": ("pod", "pods", "po"),
}
_KIND_OF = {alias: kind for kind, aliases in _KINDS.items() for alias in aliases}

# Names of objects and of ports as the API server validates them (DNS-1123 subdomain, IANA service name); names of
# services as the compose specification has them.
_OBJECT = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_SERVICE = re.compile(r"[a-zA-Z0-9._-]+", re.ASCII)
_PORT_NAME = re.compile(r"(?=.{1,15}\Z)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class PortPair:
    """A port of the app and the port of the workload whose traffic it takes.

    Args:
        local: Where the app listens.
        remote: Number or name of the workload's port; None: the same number if the workload has it, else its only
            port.
    """

    local: int
    remote: int | str | None = None


@dataclass(frozen=True, slots=True)
class InterceptSpec:
    """One workload to intercept.

    Args:
        kind: Kind of the workload, None when it was not said.
        name: The workload's name.
        service: The compose service that stands in for it, None when it was not said.
        ports: Empty: the workload's only port, same number locally.
    """

    kind: str | None
    name: str
    service: str | None = None
    ports: tuple[PortPair, ...] = ()

    @property
    def workload(self) -> str:
        """As kubectl writes it: `deployment/orders`, or `orders` when the kind was not said."""
        return f"{self.kind.lower()}/{self.name}" if self.kind else self.name


def parse_intercept(text: str) -> InterceptSpec:
    """Read one `--intercept` value.

    Raises:
        UserError: The value does not have the form `W[=SERVICE][:LOCAL[:REMOTE]]`.
    """
    who, *ports = text.split(":")
    workload, equals, service = who.partition("=")
    kind_text, slash, name = workload.rpartition("/")
    if not name or (slash and not kind_text):
        raise _malformed(text, "it names no workload")
    if slash and kind_text.lower() not in _KIND_OF:
        kinds = listed([aliases[0] for aliases in _KINDS.values()])
        raise UserError(
            f"--intercept {text}: {kind_text!r} is no kind that can be intercepted.", hint=f"One of: {kinds}."
        )
    if len(name) > 253 or not _OBJECT.fullmatch(name):
        raise _malformed(text, f"{name!r} is not a name that a Kubernetes object can have")
    if equals and not _SERVICE.fullmatch(service):
        raise _malformed(text, f"{service!r} is not a name that a compose service can have")
    return InterceptSpec(
        kind=_KIND_OF[kind_text.lower()] if slash else None,
        name=name,
        service=service if equals else None,
        ports=_ports(text, ports),
    )


def merge_specs(specs: Iterable[InterceptSpec]) -> tuple[InterceptSpec, ...]:
    """Join values that name the same workload with different ports.

    Raises:
        UserError: One workload is given to two services, twice without ports, or twice with the same port.
    """
    merged: dict[tuple[str | None, str], InterceptSpec] = {}
    for spec in specs:
        first = merged.setdefault((spec.kind, spec.name), spec)
        if first is spec:
            continue
        if first.service != spec.service:
            raise UserError(
                f"--intercept {spec.workload} is given to both {first.service or spec.name!r} and"
                f" {spec.service or spec.name!r}: a workload has one stand-in.",
                hint="Leave one of them out.",
            )
        if not (first.ports and spec.ports):
            raise UserError(
                f"--intercept {spec.workload} is given twice.",
                hint=f"Repeat it only for further ports, each written out: {FORM}.",
            )
        ports = first.ports + spec.ports
        _refuse_doubles(spec.workload, ports)
        merged[spec.kind, spec.name] = replace(first, ports=ports)
    return tuple(merged.values())


def map_services(specs: Sequence[InterceptSpec], services: Sequence[str]) -> tuple[tuple[InterceptSpec, str], ...]:
    """Find each workload's compose service: the one said, else the one of its name, else the only one.

    Raises:
        UserError: There is no such service, or it is not clear which one is meant.
    """
    return tuple((spec, _service_of(spec, services)) for spec in specs)


def _service_of(spec: InterceptSpec, services: Sequence[str]) -> str:
    known = f"The project's services: {listed(sorted(services))}."
    if spec.service is not None:
        if spec.service not in services:
            raise UserError(f"--intercept {spec.workload}={spec.service}: no service {spec.service!r}.", hint=known)
        return spec.service
    if spec.name in services:
        return spec.name
    if len(services) == 1:
        return services[0]
    raise UserError(
        f"--intercept {spec.workload}: no compose service is called {spec.name!r}, and there is more than one."
        if services
        else f"--intercept {spec.workload}: the compose project has no services.",
        hint=f"{known} Say which one stands in: --intercept {spec.workload}=SERVICE" if services else "",
    )


def _ports(text: str, parts: list[str]) -> tuple[PortPair, ...]:
    match parts:
        case []:
            return ()
        case [local]:
            return (PortPair(_number(text, local)),)
        case [local, remote] if remote.isascii() and remote.isdigit():
            return (PortPair(_number(text, local), _number(text, remote)),)
        case [local, remote] if _PORT_NAME.fullmatch(remote):
            return (PortPair(_number(text, local), remote),)
        case [_, remote]:
            raise _malformed(text, f"{remote!r} is neither a port number nor a name that a port can have")
        case _:
            raise _malformed(text, "it has more than two ports")


def _number(text: str, port: str) -> int:
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise _malformed(text, f"{port!r} is not a port number from 1 to 65535")
    return int(port)


def _refuse_doubles(workload: str, ports: Sequence[PortPair]) -> None:
    remotes = [pair.local if pair.remote is None else pair.remote for pair in ports]
    for remote in remotes:
        if remotes.count(remote) > 1:
            raise UserError(
                f"--intercept {workload}: its port {remote} is given twice.",
                hint="A port of the workload goes to one port of the app.",
            )


def _malformed(text: str, why: str) -> UserError:
    return UserError(f"--intercept {text!r} cannot be read: {why}.", hint=f"The form is {FORM}.")
