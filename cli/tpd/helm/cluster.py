"""What the chart does not do: the manager's namespace, and leaving a cluster as tpd found it."""

from __future__ import annotations

import contextlib

from tpd.kube.access import open_cluster, rights
from tpd.kube.agents import stop_all_agents
from tpd_core.kube import ATTACHMENTS, SESSIONS, ApiClient, Conflict, NotFound
from tpd_core.kube.paths import NAMESPACES, Resource

_LABEL = "app.kubernetes.io/managed-by"
_CRDS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions")


async def make_namespace(kubeconfig: str | None, context: str | None, namespace: str) -> None:
    """Create the manager's namespace where there is none, marked so that `remove_namespace` knows it for tpd's own.

    Raises:
        RightsError: The user may not create namespaces.
    """
    async with open_cluster(kubeconfig, context) as (_, api):
        with rights("to create the manager's namespace"), contextlib.suppress(Conflict):
            await api.create(NAMESPACES.path(), {"metadata": {"name": namespace, "labels": {_LABEL: "tpd"}}})


async def remove_namespace(kubeconfig: str | None, context: str | None, namespace: str) -> bool:
    """Delete the manager's namespace if tpd made it; whether it did.

    Raises:
        RightsError: The user may not delete namespaces.
    """
    async with open_cluster(kubeconfig, context) as (_, api):
        with rights("to delete the manager's namespace"):
            found = await api.get(NAMESPACES.path(None, namespace))
            if (found["metadata"].get("labels") or {}).get(_LABEL) != "tpd":
                return False
            await api.delete(NAMESPACES.path(None, namespace))
    return True


async def clear_cluster(kubeconfig: str | None, context: str | None, namespace: str) -> None:
    """Delete all sessions (and with them all attachments), then end all agents.

    Raises:
        RightsError: The user is no administrator of tpd.
    """
    async with open_cluster(kubeconfig, context) as (_, api):
        try:
            with rights("to end all sessions"):
                for item in (await api.list(SESSIONS.path()))["items"]:
                    await _delete(api, SESSIONS.path(None, item["metadata"]["name"]))
                for item in (await api.list(ATTACHMENTS.path()))["items"]:
                    await _delete(api, ATTACHMENTS.path(item["metadata"]["namespace"], item["metadata"]["name"]))
        except NotFound:
            return
        await stop_all_agents(api, namespace)


async def remove_crds(kubeconfig: str | None, context: str | None) -> None:
    """Remove the kinds Session and Attachment."""
    async with open_cluster(kubeconfig, context) as (_, api):
        for plural in (ATTACHMENTS.plural, SESSIONS.plural):
            with rights("to remove tpd's kinds"):
                await _delete(api, _CRDS.path(None, f"{plural}.tpd.dev"))


async def _delete(api: ApiClient, path: str) -> None:
    try:
        await api.delete(path)
    except NotFound:
        pass
