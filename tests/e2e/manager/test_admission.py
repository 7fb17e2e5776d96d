"""Who may say what about whom: the API server's own answers."""

from __future__ import annotations

import pytest

from tests.e2e.support.cluster import Cluster, Namespace
from tests.e2e.support.linkclient import Key, Session, api, open_session, session_body
from tpd_core.kube import ATTACHMENTS, SESSIONS, ApiClient, ApiError, Forbidden, Invalid, NotFound


async def test_nobody_makes_a_session_for_somebody_else(kube: ApiClient) -> None:
    with pytest.raises(Forbidden, match=r"spec\.user is eve, but the request is made by admin"):
        await kube.create(SESSIONS.path(), session_body("eve", [], Key().request))


async def test_nobody_takes_a_group_that_is_not_theirs(kube: ApiClient) -> None:
    with pytest.raises(Forbidden, match=r"spec\.groups"):
        await kube.create(SESSIONS.path(), session_body("admin", ["admins-of-something-else"], Key().request))


async def test_a_spec_is_for_ever(kube: ApiClient, session: Session) -> None:
    with pytest.raises(Invalid, match="spec cannot be changed"):
        await kube.patch(SESSIONS.path(name=session.name), {"spec": {"user": "eve"}})


async def test_an_impersonated_user_is_who_counts(
    cluster: Cluster, namespace: Namespace, developer: str, manager: None
) -> None:
    async with api(cluster.kubeconfig, as_user=developer) as client:
        session = await open_session(client)
        assert session.user == developer
        await session.delete()


async def test_an_attachment_says_the_truth_about_its_user(
    kube: ApiClient, session: Session, namespace: Namespace
) -> None:
    session.user = "eve"
    with pytest.raises(Forbidden, match=r"spec\.user is eve"):
        await session.attach(namespace.name, "orders")


@pytest.mark.parametrize("status", ["sessions", "attachments"])
async def test_developers_cannot_write_a_status(
    cluster: Cluster, namespace: Namespace, developer: str, manager: None, status: str
) -> None:
    resource = SESSIONS if status == "sessions" else ATTACHMENTS
    path = resource.path(None if status == "sessions" else namespace.name, "x", "status")
    async with api(cluster.kubeconfig, as_user=developer) as client:
        with pytest.raises((Forbidden, NotFound)) as caught:
            await client.patch(path, {"status": {"phase": "Ready"}})
        assert isinstance(caught.value, Forbidden)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mode": "replace"}, "spec.mode"),
        ({"ports": []}, "spec.ports"),
        ({"ports": [{"containerPort": 8080, "localPort": 0}]}, "localPort"),
        ({"ports": [{"containerPort": 1, "localPort": 1, "match": [{"header": "x"}]}]}, "all"),
    ],
)
async def test_the_schema_refuses(
    kube: ApiClient, session: Session, namespace: Namespace, change: dict[str, object], words: str
) -> None:
    body = {
        "apiVersion": "tpd.dev/v1alpha1",
        "kind": "Attachment",
        "metadata": {"name": "x"},
        "spec": {
            "session": session.name,
            "user": session.user,
            "workload": {"kind": "Deployment", "name": "orders"},
            "container": "app",
            "mode": "intercept",
            "ports": [{"containerPort": 8080, "localPort": 8080}],
            **change,
        },
    }
    with pytest.raises(ApiError, match=words) as caught:
        await kube.create(ATTACHMENTS.path(namespace.name), body)
    assert caught.value.status == 422
