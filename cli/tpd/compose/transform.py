"""A compose project in which services stand in for workloads: the document of the user's project, changed.

What moves, and why, was found by trying each key on the engine: whatever describes the network endpoint goes to an
anchor, everything else stays with the service, which joins the anchor's network namespace.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping

from tpd.compose.argv import scaled
from tpd.compose.model import (
    SHARED_VOLUME,
    Bind,
    Document,
    Namespace,
    Plan,
    Request,
    SharedVolume,
    Target,
    labels,
    listed,
)
from tpd.compose.mounts import place, service_mounts
from tpd.compose.namespaces import Group, groups_of, joined, owner_of
from tpd.compose.ours import anchor_service, daemon_service, escape, gate_service
from tpd.compose.remote import leave_out
from tpd_core.errors import BugError, UserError

_NOT_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def transform(config: Document, request: Request) -> Plan:
    """Make the project in which the targets stand in for their workloads.

    The same request gives the same document, to the byte once rendered; anchors, daemons and gates depend neither on
    the targets' environment nor on their binds.

    Args:
        config: What `ComposeCommand.config_argv` prints. It is not changed.
        request: What to intercept, and with what.

    Raises:
        UserError: The project cannot be intercepted as asked.
        ClusterError: A volume of the workload cannot be mounted.
    """
    document = copy.deepcopy(config)
    project = document["name"]
    services: dict[str, Document] = document["services"]
    targets = {target.service: target for target in request.targets}
    if len(targets) != len(request.targets):
        raise BugError("a service is targeted twice")
    _refuse_unknown(targets, services)
    needed = {name for target in targets for name in (target, owner_of(services, target))}
    remote_names, notes = leave_out(document, request.remote, needed)
    groups = groups_of(services, targets)
    namespaces = [_namespace(group, services, request, alone=len(groups) == 1) for group in groups]
    _refuse_taken_names(namespaces, services)
    local_names = _names(services)
    binds: dict[str, tuple[Bind, ...]] = {}

    # Others' references are followed before any service changes: they name services and containers as they were.
    for namespace in namespaces:
        for name in namespace.members:
            _join(services[name], namespace, services)
    for namespace in namespaces:
        _relink(services, namespace)
    for namespace in namespaces:
        owner = services[namespace.owner]
        container = owner.get("container_name") or request.separator.join((project, namespace.owner, "1"))
        for name in sorted({namespace.owner, *namespace.targets}):
            _once(name, services[name])
        anchor = anchor_service(owner, container, namespace, request)
        owner["network_mode"] = f"service:{namespace.anchor}"
        services[namespace.anchor] = anchor
        services[namespace.daemon] = daemon_service(namespace, request, anchor)
        if namespace.gate is not None:
            services[namespace.gate] = gate_service(namespace, request, anchor)
        for name in namespace.targets:
            binds[name], left_out = _fill(services[name], targets[name], namespace, request)
            notes += left_out
    if request.volumes is not None and request.volumes.mountpoint is not None:
        _declare_volume(document, request)
    return Plan(document, project, tuple(namespaces), tuple(remote_names), local_names, tuple(notes), binds)


def render(document: Document) -> str:
    """A document as compose reads it: the same text for the same content.

    Compose reads JSON as YAML, which differs in two ways: it knows no pairs of surrogates, so characters stay as they
    are; and it refuses control characters, or takes them for line breaks, so those are escaped.
    """
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
    return _NOT_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def shared_volume(config: Document) -> SharedVolume:
    """The Docker volume that the project's daemons mount into; the user's file may declare it too."""
    declared = (config.get("volumes") or {}).get(SHARED_VOLUME) or {}
    project = config["name"]
    return SharedVolume(
        name=declared.get("name") or f"{project}_{SHARED_VOLUME}",
        labels={
            **(declared.get("labels") or {}),
            **labels("volumes", project, project),
            "com.docker.compose.project": project,
            "com.docker.compose.volume": SHARED_VOLUME,
        },
        external=bool(declared.get("external")),
    )


def _namespace(group: Group, services: Document, request: Request, *, alone: bool) -> Namespace:
    suffix = "" if alone else f"-{group.owner}"
    dns = services[group.owner].get("dns") or []
    return Namespace(
        owner=group.owner,
        anchor=f"tpd-anchor{suffix}",
        daemon=f"tpd-daemon{suffix}",
        gate=f"tpd-gate{suffix}" if request.gate else None,
        session=f"{request.session}{suffix}",
        targets=group.targets,
        members=group.members,
        dns_upstreams=(dns,) if isinstance(dns, str) else tuple(dns),
    )


def _join(service: Document, namespace: Namespace, services: Document) -> None:
    if joined(service, namespace.members, services):
        service["network_mode"] = f"service:{namespace.anchor}"
    depends = service.setdefault("depends_on", {})
    depends[namespace.anchor] = {"condition": "service_started", "restart": True}


def _relink(services: Document, namespace: Namespace) -> None:
    """A link names an endpoint, and that is the anchor's."""
    for service in services.values():
        links = service.get("links")
        if links:
            service["links"] = [_relinked(link, namespace) for link in links]


def _relinked(link: str, namespace: Namespace) -> str:
    service, _, alias = link.partition(":")
    return f"{namespace.anchor}:{alias or service}" if service == namespace.owner else link


def _once(name: str, service: Document) -> None:
    deploy = service.get("deploy") or {}
    wishes = {"scale": service.pop("scale", None), "deploy.replicas": deploy.get("replicas")}
    numbers = {where: int(number) for where, number in wishes.items() if number is not None}
    for where, number in numbers.items():
        if number > 1:
            raise scaled(name, number, f"`{where}: {number}` in the compose file")
    # 0 stays: such a service is started by hand.
    service["deploy"] = deploy | {"replicas": min(numbers.values(), default=1)}


def _fill(
    service: Document, target: Target, namespace: Namespace, request: Request
) -> tuple[tuple[Bind, ...], tuple[str, ...]]:
    waits = (namespace.gate, "service_completed_successfully")
    on, condition = waits if namespace.gate is not None else (namespace.daemon, "service_started")
    service["depends_on"][on] = {"condition": condition}
    environment = dict(service.get("environment") or {})
    for name, value in target.environment.items():
        # A name without a value in the compose file and in the user's shell is no value of the user's.
        if environment.get(name) is None:
            environment[name] = escape(value)
    if environment:
        service["environment"] = environment
    if not target.binds or request.volumes is None:
        return (), ()
    binds, notes = place(target.binds, service_mounts(service), f"Service {target.service!r}")
    if binds and request.volumes.mountpoint is not None:
        service["volumes"] = [
            *(service.get("volumes") or []),
            *(
                {
                    "type": "bind",
                    "source": escape(f"{request.volumes.mountpoint}/{bind.source}"),
                    "target": escape(bind.target),
                    **({"read_only": True} if bind.read_only else {}),
                    "bind": {"create_host_path": False, "propagation": "rslave"},
                }
                for bind in binds
            ),
        ]
    return binds, notes


def _declare_volume(document: Document, request: Request) -> None:
    volume = shared_volume(document)
    if volume.external:
        return
    volumes = document.get("volumes") or {}
    own = {name: value for name, value in volume.labels.items() if not name.startswith("com.docker.")}
    document["volumes"] = volumes | {
        SHARED_VOLUME: (volumes.get(SHARED_VOLUME) or {}) | {"name": volume.name, "labels": own}
    }


def _names(services: Mapping[str, Document]) -> tuple[str, ...]:
    """Every name by which the engine's resolver may know one of the services."""
    names = set(services)
    for service in services.values():
        names |= {str(service[key]) for key in ("container_name", "hostname") if service.get(key)}
        for network in (service.get("networks") or {}).values():
            names |= set((network or {}).get("aliases") or [])
        for link in [*(service.get("links") or []), *(service.get("external_links") or [])]:
            names.add(link.rpartition(":")[2])
    return tuple(sorted(names))


def _refuse_unknown(targets: Iterable[str], services: Mapping[str, Document]) -> None:
    for target in targets:
        if target not in services:
            raise UserError(
                f"The compose project has no service {target!r}.",
                hint=f"The project's services: {listed(sorted(services))}.",
            )


def _refuse_taken_names(namespaces: Iterable[Namespace], services: Mapping[str, Document]) -> None:
    for namespace in namespaces:
        for name in namespace.ours:
            if name in services:
                raise UserError(
                    f"The compose project has a service called {name!r}, a name that tpd needs for itself.",
                    hint="Rename that service.",
                )
