"""Looking at the manager from outside."""

from __future__ import annotations

from tpd.kube.access import rights
from tpd.kube.names import MANAGER
from tpd_core.kube import ApiClient, NotFound
from tpd_core.kube.paths import Resource

_STATEFUL_SETS = Resource("apps/v1", "statefulsets")


async def manager_version(client: ApiClient, namespace: str) -> str | None:
    """The installed manager's version (its label, else its image's tag); None when it is not installed."""
    try:
        with rights("to read the manager's version"):
            found = await client.get(_STATEFUL_SETS.path(namespace, MANAGER))
    except NotFound:
        return None
    label = found["metadata"].get("labels", {}).get("app.kubernetes.io/version")
    if label:
        return str(label)
    image = str(found["spec"]["template"]["spec"]["containers"][0]["image"])
    return image.rpartition(":")[2]
