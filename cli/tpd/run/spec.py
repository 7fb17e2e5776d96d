"""What the words of `--intercept W[=SERVICE][:LOCAL:REMOTE]` ask for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tpd_core.errors import UserError

_KINDS = {
    "deployment": "Deployment",
    "deployments": "Deployment",
    "deploy": "Deployment",
    "statefulset": "StatefulSet",
    "statefulsets": "StatefulSet",
    "sts": "StatefulSet",
    "daemonset": "DaemonSet",
    "daemonsets": "DaemonSet",
    "ds": "DaemonSet",
    "replicaset": "ReplicaSet",
    "replicasets": "ReplicaSet",
    "rs": "ReplicaSet",
    "pod": "Pod",
    "pods": "Pod",
    "po": "Pod",
}
_FORM = "W[=SERVICE][:LOCAL:REMOTE]"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class PortPair:
    """One port asked for.

    Attributes:
        local: Where the app listens on the laptop; None takes the remote number.
        remote: A number, or the name of a container port or service port; empty takes the only one.
    """

    local: int | None
    remote: str


@dataclass(frozen=True, slots=True)
class InterceptSpec:
    """One workload to intercept.

    Attributes:
        kind: "Deployment" and so on; None looks through all kinds.
        name: The workload's name.
        service: The compose service; None takes the one of that name, else the only one.
        ports: The ports asked for; empty takes the workload's only port.
        container: The pod's container; None finds it by the port.
    """

    kind: str | None
    name: str
    service: str | None = None
    ports: tuple[PortPair, ...] = ()
    container: str | None = None

    def __str__(self) -> str:
        return f"{self.kind.lower()}/{self.name}" if self.kind else self.name


def parse_intercept(text: str) -> InterceptSpec:
    """Parse one `--intercept` value.

    Raises:
        UserError: It does not have the form.
    """
    target, colon, ports = text.partition(":")
    workload, equals, service = target.partition("=")
    kind_word, slash, name = workload.rpartition("/")
    kind = None
    if slash:
        kind = _KINDS.get(kind_word.lower())
        if kind is None:
            raise UserError(
                f"--intercept {text!r}: {kind_word!r} is not a kind of workload",
                hint="Kinds are deployment, statefulset, daemonset, replicaset and pod.",
            )
    if not _NAME.fullmatch(name):
        raise UserError(
            f"--intercept {text!r} names no workload", hint=f"The form is {_FORM}, as in orders=api:3000:http."
        )
    if equals and not service:
        raise UserError(f"--intercept {text!r} has '=' without a compose service", hint=f"The form is {_FORM}.")
    pairs = (_pair(text, ports),) if colon else ()
    return InterceptSpec(kind, name, service or None, pairs)


def parse_port(text: str) -> PortPair:
    """Parse one `--port [LOCAL:]REMOTE` value, where a lone number is the laptop's.

    Raises:
        UserError: It does not have the form.
    """
    return _pair(f"--port {text}", text)


def merge(specs: Iterable[InterceptSpec]) -> list[InterceptSpec]:
    """One spec per workload: ports that were given in several specs come together.

    Raises:
        UserError: Two specs of one workload name different compose services.
    """
    merged: dict[tuple[str | None, str], InterceptSpec] = {}
    for spec in specs:
        key = (spec.kind, spec.name)
        known = merged.get(key)
        if known is None:
            merged[key] = spec
            continue
        if spec.service and known.service and spec.service != known.service:
            raise UserError(f"--intercept gives {spec} to two compose services, {known.service!r} and {spec.service!r}")
        ports = known.ports + tuple(pair for pair in spec.ports if pair not in known.ports)
        merged[key] = replace(known, service=known.service or spec.service, ports=ports)
    return list(merged.values())


def _pair(whole: str, text: str) -> PortPair:
    local, colon, remote = text.partition(":")
    if not local.isdecimal() or not 0 < int(local) < 65536 or (colon and not remote) or ":" in remote:
        raise UserError(
            f"{whole!r}: {text!r} is not LOCAL:REMOTE",
            hint="LOCAL is a port number on the laptop; REMOTE is the workload's port, by number or by name.",
        )
    if remote.isdecimal() and not 0 < int(remote) < 65536:
        raise UserError(f"{whole!r}: {remote} is not a port number")
    return PortPair(int(local), remote)
