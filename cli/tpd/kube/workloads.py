"""Finding workloads and services with the user's own rights."""

from __future__ import annotations

import asyncio
import difflib
from typing import Any

from tpd.compose.spec import InterceptSpec
from tpd.kube.access import rights
from tpd_core.errors import ClusterError
from tpd_core.kube import ApiClient, ApiError, Forbidden, NotFound
from tpd_core.kube.paths import NAMESPACES, SERVICES, WORKLOADS

_BY_NAME = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Pod")


class WorkloadMissingError(ClusterError):
    """No workload, or no namespace, has the name."""


async def find_workload(client: ApiClient, namespace: str, spec: InterceptSpec) -> dict[str, Any]:
    """The workload that a spec names; without a kind, the first of Deployment, StatefulSet, DaemonSet, ReplicaSet, Pod.

    Raises:
        WorkloadMissingError: There is none; names the nearest.
        RightsError: The user may not look.
    """
    kinds = (spec.kind,) if spec.kind else _BY_NAME
    answers = await asyncio.gather(*(_get(client, namespace, kind, spec.name) for kind in kinds))
    refusal: Forbidden | None = None
    for kind, answer in zip(kinds, answers, strict=True):
        if isinstance(answer, Forbidden):
            refusal = refusal or answer
        elif answer is not None:
            return {**answer, "kind": kind}
    if refusal is not None:
        with rights(f"to find the workload {spec.name!r}"):
            raise refusal
    raise await _missing(client, namespace, spec, kinds)


async def list_workloads(client: ApiClient, namespace: str | None) -> list[dict[str, Any]]:
    """Deployments, stateful sets, daemon sets, and the replica sets and pods that nothing owns, sorted by name."""
    kinds = _BY_NAME
    with rights("to list workloads"):
        listings = await asyncio.gather(*(client.list(WORKLOADS[kind].path(namespace)) for kind in kinds))
    found = [
        {**item, "kind": kind}
        for kind, listing in zip(kinds, listings, strict=True)
        for item in listing["items"]
        if not item["metadata"].get("ownerReferences")
    ]
    return sorted(found, key=lambda item: (item["metadata"]["namespace"], item["metadata"]["name"], item["kind"]))


async def list_services(client: ApiClient, namespace: str) -> list[dict[str, Any]]:
    """The namespace's services; none where the user may not list them (ports then come from the pod spec alone)."""
    try:
        listing = await client.list(SERVICES.path(namespace))
    except Forbidden:
        return []
    return list(listing["items"])


async def require_namespace(client: ApiClient, namespace: str) -> None:
    """Check that a namespace exists, as far as the user may know.

    Raises:
        WorkloadMissingError: It does not.
    """
    try:
        await client.get(NAMESPACES.path(None, namespace))
    except NotFound as error:
        raise WorkloadMissingError(
            f"there is no namespace {namespace!r} in the cluster {client.base_url}",
            hint="Choose another with -n/--namespace, or another cluster with --context.",
        ) from error
    except Forbidden:
        pass


async def _get(client: ApiClient, namespace: str, kind: str, name: str) -> dict[str, Any] | Forbidden | None:
    try:
        return await client.get(WORKLOADS[kind].path(namespace, name))
    except NotFound:
        return None
    except Forbidden as error:
        return error


async def _missing(client: ApiClient, namespace: str, spec: InterceptSpec, kinds: tuple[str, ...]) -> Exception:
    what = spec.kind.lower() if spec.kind else "workload"
    try:
        await require_namespace(client, namespace)
    except WorkloadMissingError as error:
        return error
    names: set[str] = set()
    for kind in kinds:
        try:
            listing = await client.list(WORKLOADS[kind].path(namespace))
        except ApiError:
            continue
        names |= {item["metadata"]["name"] for item in listing["items"] if not item["metadata"].get("ownerReferences")}
    near = difflib.get_close_matches(spec.name, sorted(names), n=3, cutoff=0.5)
    if near:
        hint = f"Did you mean {' or '.join(near)}?"
    elif names:
        hint = f"It has: {', '.join(sorted(names)[:12])}."
    else:
        hint = "The namespace has none; choose another with -n/--namespace."
    return WorkloadMissingError(f"there is no {what} {spec.name!r} in namespace {namespace!r}", hint=hint)
