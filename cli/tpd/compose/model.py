"""What goes into a transformation and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Document = dict[str, Any]

DNS_ADDRESS = "198.18.0.53"
"""Address of the daemon's resolver: inside a captured range, so that no port 53 is bound in the app's namespace."""

VOLUME_ROOT = "/tpd/volumes"
"""Where a daemon sees the shared Docker volume."""

SHARED_VOLUME = "tpd-volumes"
"""Key of the shared volume in a compose file: any service may mount it and sees every mounted volume."""


@dataclass(frozen=True, slots=True)
class Bind:
    """One volume of the workload, to be seen by the app.

    Args:
        source: Path below the shared volume, as the daemon reports it.
        target: Absolute path in the app's container.
        read_only: The app may not write.
    """

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """One intercepted compose service, and what its workload gives it."""

    service: str
    environment: Mapping[str, str] = field(default_factory=dict)
    binds: tuple[Bind, ...] = ()


@dataclass(frozen=True, slots=True)
class Images:
    """References of the product's images; `pull_policy` is compose's (`never`, `missing`, `always`)."""

    anchor: str
    daemon: str
    pull_policy: str | None = None


@dataclass(frozen=True, slots=True)
class Volumes:
    """The workload's volumes are wanted.

    Args:
        mountpoint: Where the engine keeps the shared Docker volume, on the engine's machine. None where mounts do not
            propagate between containers: the daemon then keeps its mounts to itself, and they are attached in the
            app's container after each of its starts.
        apparmor: The engine confines containers by AppArmor, whose default profile forbids mounts.
    """

    mountpoint: str | None
    apparmor: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """Everything that a compose transformation depends on.

    Args:
        targets: The intercepted services.
        session: Name of the run. One daemon: its session's name; several: the prefix of theirs.
        images: The product's images.
        volumes: None when no volumes are wanted: the daemon then gets fewer capabilities.
        remote: Services to leave out, or "all" for every one that is not needed here.
        gate: Hold the app back by a one-shot service until the daemon is ready.
        dns_address: Where the anchor's resolver forwards to.
        log_level: The daemon's.
        separator: Between the parts of a container's name: "-", or "_" in compose's compatibility mode.
    """

    targets: tuple[Target, ...]
    session: str
    images: Images
    volumes: Volumes | None = None
    remote: tuple[str, ...] = ()
    gate: bool = True
    dns_address: str = DNS_ADDRESS
    log_level: str = "info"
    separator: str = "-"


@dataclass(frozen=True, slots=True)
class Namespace:
    """One network namespace that tpd owns.

    Args:
        owner: The service whose networks, ports and names the anchor has taken over.
        anchor: Service name of the container that holds the namespace.
        daemon: Service name of the daemon in it.
        gate: Service name of the one-shot gate, if there is one.
        session: Name of the daemon's session.
        targets: The intercepted services in it.
        members: All the user's services in it.
        dns_upstreams: The owner's own `dns:`; empty: the engine's resolvers are the daemon's upstreams.
    """

    owner: str
    anchor: str
    daemon: str
    gate: str | None
    session: str
    targets: tuple[str, ...]
    members: tuple[str, ...]
    dns_upstreams: tuple[str, ...]

    @property
    def ours(self) -> tuple[str, ...]:
        """Service names that the transformation added."""
        return (self.anchor, self.daemon) if self.gate is None else (self.anchor, self.daemon, self.gate)


@dataclass(frozen=True, slots=True)
class Plan:
    """A transformed project.

    Args:
        document: The compose document to run.
        project: Its project name.
        namespaces: One per anchor, in the order of their owners' names.
        remote_names: Services left out: their names are the cluster's.
        local_names: Names that belong to this project and must not be asked in the cluster.
        notes: Sentences that the user should read.
        binds: By target, the volumes of the workload that leave the user's own mounts as they are.
    """

    document: Document
    project: str
    namespaces: tuple[Namespace, ...]
    remote_names: tuple[str, ...]
    local_names: tuple[str, ...]
    notes: tuple[str, ...]
    binds: Mapping[str, tuple[Bind, ...]] = field(default_factory=dict)

    @property
    def targets(self) -> tuple[str, ...]:
        """The intercepted services."""
        return tuple(service for namespace in self.namespaces for service in namespace.targets)

    @property
    def members(self) -> tuple[str, ...]:
        """All the user's services that live in one of the namespaces."""
        return tuple(service for namespace in self.namespaces for service in namespace.members)


@dataclass(frozen=True, slots=True)
class SharedVolume:
    """The Docker volume that all of a project's daemons mount into.

    Args:
        name: The engine's name of it.
        labels: With these compose takes it for its own.
        external: The user's file declares it external: it exists already, and is not ours to make or remove.
    """

    name: str
    labels: Mapping[str, str]
    external: bool


def labels(role: str, session: str, run: str) -> dict[str, str]:
    """The labels of every object that tpd makes on the laptop."""
    return {"dev.tpd": "1", "dev.tpd.role": role, "dev.tpd.run": run, "dev.tpd.session": session}


def listed(names: Sequence[str]) -> str:
    """Names for a sentence: `a, b, c`, or `none`."""
    return ", ".join(names) if names else "none"
