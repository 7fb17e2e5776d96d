"""Objects as the API server would hand them out, for the manager's unit tests."""

from __future__ import annotations

import copy
from typing import Any

from tpd_cluster.manager.model import AgentRecord, Attachment

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z
STAMP = "2027-01-15T07:59:50Z"  # ten seconds before NOW

CONTAINER: dict[str, Any] = {
    "name": "app",
    "image": "example/app:1",
    "env": [
        {"name": "PLAIN", "value": "costs $$5 for $(POD)"},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
    ],
    "envFrom": [{"configMapRef": {"name": "c"}}, {"prefix": "X_", "secretRef": {"name": "s"}}],
    "ports": [{"name": "http", "containerPort": 8080}],
    "readinessProbe": {
        "httpGet": {"path": "/ready", "port": "http", "httpHeaders": [{"name": "X-Probe", "value": "yes"}]}
    },
    "livenessProbe": {"tcpSocket": {"port": 8080}},
    "volumeMounts": [
        {"name": "data", "mountPath": "/data"},
        {"name": "config", "mountPath": "/etc/app.conf", "subPath": "app.conf", "readOnly": True},
        {"name": "data", "mountPath": "/logs", "subPathExpr": "logs/$(POD)"},
        {"name": "kube-api-access-x1", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": True},
    ],
}

POD: dict[str, Any] = {
    "metadata": {
        "name": "orders-1-a",
        "namespace": "shop",
        "uid": "pod-1",
        "creationTimestamp": STAMP,
        "resourceVersion": "1",
        "ownerReferences": [{"kind": "ReplicaSet", "name": "orders-1", "uid": "rs-1", "controller": True}],
    },
    "spec": {"nodeName": "n1", "containers": [CONTAINER], "securityContext": {"fsGroup": 2000}},
    "status": {"phase": "Running", "podIP": "10.244.0.9", "hostIP": "10.77.0.2"},
}


def pod(name: str = "orders-1-a", uid: str = "pod-1", **changes: Any) -> dict[str, Any]:
    """A pod of Deployment orders; `changes` replace parts of its spec or status by their names."""
    made = copy.deepcopy(POD)
    made["metadata"] |= {"name": name, "uid": uid}
    for key, value in changes.items():
        made["status" if key in ("phase", "podIP", "ephemeralContainerStatuses") else "spec"][key] = value
    return made


def with_agent(
    made: dict[str, Any],
    name: str = "tpd-agent-00001",
    *,
    state: dict[str, Any] | None = None,
    injected: float = NOW - 5,
    peek_for: str = "app",
) -> dict[str, Any]:
    """The pod with an agent in it, and a peek; `state` as in the kubelet's status, None for no status yet."""
    made = copy.deepcopy(made)
    entries = made["spec"].setdefault("ephemeralContainers", [])
    env = [{"name": "TPD_INJECTED", "value": str(int(injected))}, {"name": "TPD_PEEK_TOKEN", "value": "t-" + name}]
    entries.append({"name": name, "env": env})
    peek_env = [{"name": "TPD_PEEK_TOKEN", "value": "t-" + name}, {"name": "TPD_PEEK_CONTAINER", "value": peek_for}]
    entries.append({"name": name.replace("agent", "peek"), "env": peek_env})
    if state is not None:
        statuses = made["status"].setdefault("ephemeralContainerStatuses", [])
        statuses.append({"name": name, "state": state})
    return made


def record(container: str = "tpd-agent-00001", **changes: Any) -> AgentRecord:
    fields: dict[str, Any] = {
        "namespace": "shop",
        "pod": "orders-1-a",
        "ip": "10.244.0.9",
        "port": 40000,
        "container": container,
        "version": "0.1.0",
        "key": "00",
        "enrolled": int(NOW),
    }
    return AgentRecord(**{**fields, **changes})


def attachment_object(name: str = "orders-x", uid: str = "att-1", **spec: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "session": "ada-1",
        "user": "ada",
        "workload": {"kind": "Deployment", "name": "orders"},
        "container": "app",
        "mode": "intercept",
        "ports": [{"name": "http", "protocol": "TCP", "containerPort": 8080, "localPort": 9090}],
    }
    return {
        "metadata": {"name": name, "namespace": "shop", "uid": uid, "creationTimestamp": STAMP, "resourceVersion": "1"},
        "spec": {**fields, **spec},
    }


def attachment(name: str = "orders-x", uid: str = "att-1", **spec: Any) -> Attachment:
    return Attachment.of(attachment_object(name, uid, **spec))
