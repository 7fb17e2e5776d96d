"""Leaving a cluster as tpd found it."""

from __future__ import annotations

from tpd.kube.access import open_cluster, rights
from tpd.kube.agents import stop_all_agents
from tpd_core.kube import ATTACHMENTS, SESSIONS, ApiClient, NotFound
from tpd_core.kube.paths import Resource

_CRDS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions")


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
