"""The manager's own end-to-end tests: a daemon of few lines against the real API server, manager and agents."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.e2e.support.cluster import Cluster, Namespace
from tests.e2e.support.linkclient import Session, api, open_session
from tpd_core.kube import ApiClient


@pytest.fixture
async def kube(cluster: Cluster, manager: None) -> AsyncIterator[ApiClient]:
    async with api(cluster.kubeconfig) as client:
        yield client


@pytest.fixture
async def session(kube: ApiClient) -> AsyncIterator[Session]:
    made = await open_session(kube)
    yield made
    await made.delete()


@pytest.fixture
def developer(cluster: Cluster, namespace: Namespace) -> str:
    """A user who may use tpd in the test's namespace, but not exec into its pods."""
    name = f"{namespace.name}-developer"
    space = cluster.get("namespace", namespace.name)["metadata"]
    # gone with the test's namespace
    owner = {"apiVersion": "v1", "kind": "Namespace", "name": space["name"], "uid": space["uid"]}
    subject = {"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"}
    role = {"kind": "ClusterRole", "name": "tpd-client", "apiGroup": "rbac.authorization.k8s.io"}
    cluster.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name, "ownerReferences": [owner]},
            "roleRef": role,
            "subjects": [subject],
        }
    )
    return name
