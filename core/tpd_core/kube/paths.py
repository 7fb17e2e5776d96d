"""Where kinds live in the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object.

    Attributes:
        group_version: "v1" for the core group, else "group/version".
        plural: As in paths, e.g. "pods".
    """

    group_version: str
    plural: str

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of the collection, object or subresource; without a namespace, that of all namespaces."""
        parts = ["", "apis" if "/" in self.group_version else "api", self.group_version]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part is not None]
        return "/".join(parts)


API_VERSION: Final = "tpd.dev/v1alpha1"
SESSIONS: Final = Resource(API_VERSION, "sessions")
ATTACHMENTS: Final = Resource(API_VERSION, "attachments")

PODS: Final = Resource("v1", "pods")
NODES: Final = Resource("v1", "nodes")
NAMESPACES: Final = Resource("v1", "namespaces")
SERVICES: Final = Resource("v1", "services")
SECRETS: Final = Resource("v1", "secrets")
CONFIG_MAPS: Final = Resource("v1", "configmaps")
SERVICE_ACCOUNTS: Final = Resource("v1", "serviceaccounts")
DEPLOYMENTS: Final = Resource("apps/v1", "deployments")
STATEFUL_SETS: Final = Resource("apps/v1", "statefulsets")
DAEMON_SETS: Final = Resource("apps/v1", "daemonsets")
REPLICA_SETS: Final = Resource("apps/v1", "replicasets")
LEASES: Final = Resource("coordination.k8s.io/v1", "leases")
SERVICE_CIDRS: Final = Resource("networking.k8s.io/v1", "servicecidrs")
SUBJECT_ACCESS_REVIEWS: Final = Resource("authorization.k8s.io/v1", "subjectaccessreviews")
SELF_SUBJECT_ACCESS_REVIEWS: Final = Resource("authorization.k8s.io/v1", "selfsubjectaccessreviews")
SELF_SUBJECT_REVIEWS: Final = Resource("authentication.k8s.io/v1", "selfsubjectreviews")

WORKLOADS: Final = {
    "Deployment": DEPLOYMENTS,
    "StatefulSet": STATEFUL_SETS,
    "DaemonSet": DAEMON_SETS,
    "ReplicaSet": REPLICA_SETS,
    "Pod": PODS,
}
"""Kinds that an attachment's workload may have."""
