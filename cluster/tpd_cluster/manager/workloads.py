"""Which pods belong to a workload: an index over watches, only of namespaces with attachments."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from tpd_cluster.manager.model import Attachment, Object
from tpd_cluster.manager.pods import controller_of
from tpd_core.kube import ApiClient, Change, NotFound, Reflector
from tpd_core.kube.paths import PODS, REPLICA_SETS, WORKLOADS

_NAMES_SHOWN = 12


class PodIndex:
    """The pods of one namespace.

    Args:
        on_change: Called for every change of a pod.
    """

    def __init__(self, client: ApiClient, namespace: str, on_change: Callable[[Change], None]) -> None:
        self._client = client
        self._namespace = namespace
        self._pods = Reflector(client, PODS.path(namespace), on_change=on_change)
        self._deployments: dict[str, str] = {}  # ReplicaSet's UID to its Deployment's name, empty for none

    async def run(self) -> None:
        """Follow until cancelled."""
        await self._pods.run()

    async def of(self, attachment: Attachment) -> list[Object]:
        """All pods of an attachment's workload, in any state."""
        await self._pods.synced.wait()
        pods: list[Object] = list(self._pods.objects.values())
        if attachment.kind == "Pod":
            return [pod for pod in pods if pod["metadata"]["name"] == attachment.workload]
        if attachment.kind != "Deployment":
            owner = (attachment.kind, attachment.workload)
            return [pod for pod in pods if (controller_of(pod) or ("", "", ""))[:2] == owner]
        await self._learn_replica_sets(pods)
        return [pod for pod in pods if self._deployment_of(pod) == attachment.workload]

    def _deployment_of(self, pod: Object) -> str:
        kind, _, uid = controller_of(pod) or ("", "", "")
        return self._deployments.get(uid, "") if kind == "ReplicaSet" else ""

    async def _learn_replica_sets(self, pods: Sequence[Object]) -> None:
        owners = [controller_of(pod) for pod in pods]
        needed = {owner[2] for owner in owners if owner is not None and owner[0] == "ReplicaSet"}
        unknown = needed - self._deployments.keys()
        if not unknown:
            return
        for item in (await self._client.list(REPLICA_SETS.path(self._namespace)))["items"]:
            kind, name, _ = controller_of(item) or ("", "", "")
            self._deployments[item["metadata"]["uid"]] = name if kind == "Deployment" else ""
        for uid in unknown - self._deployments.keys():
            self._deployments[uid] = ""  # gone already: its pods are going too
        for uid in self._deployments.keys() - needed:
            del self._deployments[uid]


class PodIndexes:
    """One PodIndex for each namespace that has attachments.

    Args:
        on_pod: Called for every change of a pod in such a namespace.
    """

    def __init__(self, client: ApiClient, on_pod: Callable[[Change], None]) -> None:
        self._client = client
        self._on_pod = on_pod
        self._indexes: dict[str, tuple[PodIndex, asyncio.Task[None]]] = {}

    def want(self, namespaces: set[str], group: asyncio.TaskGroup) -> None:
        """Follow exactly these namespaces, with tasks of `group`."""
        for namespace in self._indexes.keys() - namespaces:
            self._indexes.pop(namespace)[1].cancel()
        for namespace in namespaces - self._indexes.keys():
            index = PodIndex(self._client, namespace, self._on_pod)
            self._indexes[namespace] = (index, group.create_task(index.run()))

    def get(self, namespace: str) -> PodIndex | None:
        """The index of a namespace that is followed."""
        entry = self._indexes.get(namespace)
        return entry[0] if entry is not None else None


async def missing(client: ApiClient, attachment: Attachment) -> str | None:
    """If the attachment's workload does not exist: the names of those that do, for a hint."""
    resource = WORKLOADS[attachment.kind]
    try:
        await client.get(resource.path(attachment.namespace, attachment.workload))
    except NotFound:
        items = (await client.list(resource.path(attachment.namespace)))["items"]
        names = sorted(item["metadata"]["name"] for item in items)
        shown = ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
        return shown or "none"
    return None
