"""The Session object: one daemon's identity in the cluster, made with the user's own rights."""

from __future__ import annotations

import datetime
import getpass
import re
import secrets
import socket
from dataclasses import dataclass
from typing import Any

from tpd.kube.access import rights
from tpd.kube.names import LINK_ACCOUNT
from tpd_core.errors import BugError, ClusterError, from_category
from tpd_core.kube import SESSIONS, ApiClient, NotFound
from tpd_core.kube.client import wait_for
from tpd_core.kube.paths import API_VERSION, SELF_SUBJECT_REVIEWS, SERVICE_ACCOUNTS

MANAGED = {"app.kubernetes.io/managed-by": "tpd"}

TOKEN_SECONDS = 12 * 3600  # asked for; the cluster may grant less


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the API server says that we are."""

    user: str
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Session:
    """A session that the manager has accepted.

    Attributes:
        certificate: PEM chain for the daemon's key.
        ca: PEM of the manager's CA.
        endpoints: (host, port) where the router can be reached from outside.
        pods: The manager's pods, for port-forwards.
        port: The router's port in them.
    """

    name: str
    uid: str
    certificate: bytes
    ca: bytes
    endpoints: tuple[tuple[str, int], ...]
    manager_namespace: str
    pods: tuple[str, ...]
    port: int


@dataclass(frozen=True, slots=True)
class LinkToken:
    """A token that may only port-forward to the manager's pods; `expires` in Unix seconds."""

    token: str
    expires: int


class ManagerMissingError(ClusterError):
    """tpd is not installed in the cluster."""

    def __init__(self, server: str, namespace: str, reason: str) -> None:
        super().__init__(
            f"tpd's manager is not installed in namespace {namespace!r} of {server}: {reason}",
            hint="Install it with `tpd helm install` (once per cluster, by somebody with administrator's rights), "
            "or name its namespace with --manager-namespace.",
        )


def session_name() -> str:
    """A new name: who and where, for people; random, for uniqueness."""
    try:
        who = getpass.getuser()
    except (KeyError, OSError):
        who = "user"
    words = "-".join((who, socket.gethostname().split(".")[0])).lower()
    return f"{re.sub(r'[^a-z0-9]+', '-', words).strip('-')[:40] or 'tpd'}-{secrets.token_hex(3)}"


async def who_am_i(client: ApiClient) -> Identity:
    """Ask the API server for the login's user name and groups.

    Raises:
        RightsError: The login is not accepted.
        NetworkError: The server cannot be reached.
    """
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    with rights("to learn the user's name"):
        answer = await client.create(SELF_SUBJECT_REVIEWS.path(), body)
    info = answer["status"]["userInfo"]
    return Identity(info["username"], tuple(info.get("groups") or ()))


async def require_manager(client: ApiClient, namespace: str) -> LinkToken:
    """Check that tpd is installed before anything is made, by getting the link's token.

    Raises:
        ManagerMissingError: Its API or its service account is not there.
        RightsError: The user may not use it.
    """
    try:
        await client.get(f"/apis/{API_VERSION}")
    except NotFound as error:
        raise ManagerMissingError(client.base_url, namespace, "the cluster does not know its API") from error
    return await link_token(client, namespace)


async def create_session(
    client: ApiClient, name: str, identity: Identity, request: bytes, *, version: str, host: str, timeout: float = 20.0
) -> Session:
    """Create the object and wait until the manager has signed the daemon's certificate.

    Args:
        request: The daemon's certificate request, PEM.
        timeout: Seconds.

    Raises:
        ClusterError: Refused, or no manager answered in time.
    """
    body: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": "Session",
        "metadata": {"name": name, "labels": MANAGED},
        "spec": {
            "user": identity.user,
            "groups": list(identity.groups),
            "request": request.decode(),
            "client": {"version": version, "host": host},
        },
    }
    with rights("to open a session"):
        created = await client.create(SESSIONS.path(), body)
    try:
        ready = await wait_for(client, SESSIONS.path(), name, done=_decided, timeout=timeout)
    except TimeoutError:
        await delete_session(client, name)
        raise ClusterError(
            f"tpd's manager did not answer session {name!r} within {timeout:.0f} s",
            hint="Is it running? `kubectl get pods -n tpd` (or the namespace it was installed in) shows it.",
        ) from None
    status = (ready or {}).get("status", {})
    if ready is None:
        raise ClusterError(f"session {name!r} was deleted while it was being opened")
    if status.get("phase") == "Refused":
        await delete_session(client, name)
        problem = status.get("problem") or {}
        raise from_category(
            problem.get("category", "cluster"),
            problem.get("message", "the manager refused the session"),
            problem.get("hint", ""),
        )
    manager = status.get("manager") or {}
    try:
        return Session(
            name=name,
            uid=created["metadata"]["uid"],
            certificate=status["certificate"].encode(),
            ca=status["ca"].encode(),
            endpoints=tuple((item["host"], int(item["port"])) for item in status.get("endpoints") or ()),
            manager_namespace=manager["namespace"],
            pods=tuple(manager["pods"]),
            port=int(manager["port"]),
        )
    except KeyError as error:
        await delete_session(client, name)
        raise BugError(f"the status of session {name!r} lacks {error}") from error


async def link_token(client: ApiClient, namespace: str) -> LinkToken:
    """A token for the daemon's port-forwards, with the longest life that the cluster grants.

    Raises:
        RightsError: The user may not ask for one.
        ManagerMissingError: The service account is not there.
    """
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": TOKEN_SECONDS},
    }
    try:
        with rights("to get the link's token"):
            answer = await client.create(SERVICE_ACCOUNTS.path(namespace, LINK_ACCOUNT, "token"), body)
    except NotFound as error:
        reason = f"there is no service account {LINK_ACCOUNT!r}"
        raise ManagerMissingError(client.base_url, namespace, reason) from error
    status = answer["status"]
    expires = datetime.datetime.fromisoformat(status["expirationTimestamp"].replace("Z", "+00:00"))
    return LinkToken(status["token"], int(expires.timestamp()))


async def delete_session(client: ApiClient, name: str) -> bool:
    """Delete the object (its attachments go with it); False when it was not there."""
    try:
        await client.delete(SESSIONS.path(None, name))
    except NotFound:
        return False
    return True


def _decided(item: dict[str, Any] | None) -> bool:
    return item is None or item.get("status", {}).get("phase") in ("Ready", "Refused")
