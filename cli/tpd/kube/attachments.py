"""Attachment objects: what is taken, from which workload, by which session."""

from __future__ import annotations

from typing import Any

from tpd.kube.access import rights
from tpd.kube.session import MANAGED
from tpd.kube.targets import Target, TargetPort
from tpd_core.kube import ATTACHMENTS, ApiClient, NotFound
from tpd_core.kube.paths import API_VERSION


def attachment_body(session: str, uid: str, user: str, target: Target, *, mount: bool) -> dict[str, Any]:
    """The object to create.

    Args:
        session: The owning Session object's name.
        uid: Its UID.
    """
    return {
        "apiVersion": API_VERSION,
        "kind": "Attachment",
        "metadata": {
            "name": f"{target.name[:180].rstrip('-.')}-{session}",
            "labels": MANAGED,
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": "Session",
                    "name": session,
                    "uid": uid,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": {
            "session": session,
            "user": user,
            "workload": {"kind": target.kind, "name": target.name},
            "container": target.container,
            "mode": "intercept",
            "ports": [
                {
                    "name": port.name,
                    "protocol": "TCP",
                    "containerPort": port.number,
                    "localPort": local,
                    "match": [{"all": {}}],
                }
                for port, local in target.ports
            ],
            "mount": mount,
        },
    }


def target_of(item: dict[str, Any]) -> Target:
    """What an existing object attaches."""
    spec = item["spec"]
    return Target(
        spec["workload"]["kind"],
        spec["workload"]["name"],
        item["metadata"]["namespace"],
        spec["container"],
        tuple(
            (TargetPort(port.get("name") or "", int(port["containerPort"])), int(port["localPort"]))
            for port in spec["ports"]
        ),
    )


async def create_attachment(client: ApiClient, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
    """Create the object with the user's own rights.

    Raises:
        RightsError: The user may not attach in this namespace.
    """
    with rights(f"to attach to {body['spec']['workload']['name']!r} in namespace {namespace!r}"):
        return await client.create(ATTACHMENTS.path(namespace), body)


async def delete_attachment(client: ApiClient, namespace: str, name: str) -> bool:
    """Delete the object; False when it was not there."""
    try:
        await client.delete(ATTACHMENTS.path(namespace, name))
    except NotFound:
        return False
    return True


async def list_attachments(client: ApiClient, namespace: str | None) -> list[dict[str, Any]]:
    """Attachments of one namespace, or of all; none where tpd is not installed."""
    try:
        with rights("to list attachments"):
            listing = await client.list(ATTACHMENTS.path(namespace))
    except NotFound:
        return []
    return list(listing["items"])
