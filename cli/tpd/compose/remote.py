"""`--remote`: services of the project that are left to the cluster."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from tpd.compose.model import Document, listed
from tpd_core.errors import UserError

ALL = "all"


def leave_out(document: Document, wanted: Sequence[str], needed: Collection[str]) -> tuple[list[str], list[str]]:
    """Remove services, and every reference to them, from a document.

    Args:
        document: Changed in place.
        wanted: Names of services; "all" means every service that is not needed.
        needed: The intercepted services and those whose network namespace they share.

    Returns:
        The names left out, and sentences about services that had to go with them or that lost something.

    Raises:
        UserError: A name is unknown or needed.
    """
    services: dict[str, Document] = document["services"]
    for name in wanted:
        if name == ALL:
            continue
        if name not in services:
            raise UserError(
                f"--remote {name}: the compose project has no service {name!r}.",
                hint=f"The project's services: {listed(sorted(services))}.",
            )
        if name in needed:
            raise UserError(
                f"--remote {name}: service {name!r} is the one that runs here, in the workload's place.",
                hint="Leave it out of --remote, or do not intercept with it.",
            )
    gone = set(services) - set(needed) - _joining(services, needed) if ALL in wanted else set(wanted)
    notes = []
    for name in sorted(_depending_on_namespaces(services, gone)):
        notes.append(f"Service {name!r} is left out too: it lives in the namespaces of a service left to the cluster.")
        if name in needed:
            raise UserError(
                f"--remote {listed(wanted)}: the intercepted service {name!r} lives in a namespace of a service that"
                " would be left out.",
                hint="Keep that service here.",
            )
        gone.add(name)
    for name in gone:
        del services[name]
    for name in sorted(services) if gone else ():
        notes += _forget(name, services[name], gone)
    return sorted(gone), notes


def _joining(services: Document, needed: Collection[str]) -> set[str]:
    """Services that live inside a needed one's namespaces: they are part of it."""
    return _depending_on_namespaces(services, set(needed)) - set(needed)


def _depending_on_namespaces(services: Document, roots: Collection[str]) -> set[str]:
    found: set[str] = set()
    while True:
        more = {
            name
            for name, service in services.items()
            if name not in found and name not in roots and _homes(service) & (found | set(roots))
        }
        if not more:
            return found
        found |= more


def _homes(service: Document) -> set[str]:
    modes = [str(service.get(key) or "") for key in ("network_mode", "ipc", "pid")]
    return {mode.removeprefix("service:") for mode in modes if mode.startswith("service:")}


def _forget(name: str, service: Document, gone: Collection[str]) -> Iterable[str]:
    notes = []
    if service.get("depends_on"):
        service["depends_on"] = {key: value for key, value in service["depends_on"].items() if key not in gone}
    _drop(service, "links", gone)
    lost = _drop(service, "volumes_from", gone)
    if lost:
        notes.append(f"Service {name!r} does without the volumes of {listed(lost)}, left to the cluster.")
    for key in ("depends_on", "links", "volumes_from"):
        if key in service and not service[key]:
            del service[key]
    return notes


def _drop(service: Document, key: str, gone: Collection[str]) -> list[str]:
    entries: list[Any] = service.get(key) or []
    kept = [entry for entry in entries if entry.partition(":")[0] not in gone]
    if len(kept) != len(entries):
        service[key] = kept
    return sorted(entry.partition(":")[0] for entry in entries if entry not in kept)
