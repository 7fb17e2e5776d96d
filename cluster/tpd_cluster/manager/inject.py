"""The patch that brings agent and peek container into a running pod. Pure.

Agents get everything by environment: command lines would be expanded by the kubelet, and a shell is nowhere near. An
ephemeral container has no resources, ports or probes; it inherits the pod's user and group, so both are set.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tpd_cluster.manager import pods
from tpd_cluster.manager.model import Object

_SECCOMP = {"type": "RuntimeDefault"}
_NODE_IP = {"fieldRef": {"fieldPath": "status.hostIP"}}


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """What every agent is given.

    Attributes:
        enroll: Where the manager's router is, "ip:port", in order of preference.
        ca: PEM.
        idle_timeout: Seconds without a link after which an agent ends.
    """

    image: str
    pull_policy: str
    enroll: tuple[str, ...]
    ca: str
    idle_timeout: int
    log: str = "info"


def agent_container(
    pod: Object, *, name: str, ticket: str, token: str, injected: int, settings: AgentSettings
) -> dict[str, Any]:
    """The long-lived one: outside the app's process namespace, so that it survives the app's restarts.

    Args:
        name: "tpd-agent-" and random.
        ticket: For enrolment.
        token: What its peek containers show it.
        injected: Unix seconds.
    """
    metadata = pod["metadata"]
    containers = []
    for container in pods.containers_of(pod):
        uid, gid = pods.user_of(pod, container)
        containers.append({"name": container["name"], "uid": uid, "gid": gid, "image": container.get("image", "")})
    environment = {
        "TPD_POD_UID": metadata["uid"],
        "TPD_POD_NAME": metadata["name"],
        "TPD_POD_NAMESPACE": metadata["namespace"],
        "TPD_CONTAINER": name,
        "TPD_ENROLL": ",".join(settings.enroll),
        "TPD_TICKET": ticket,
        "TPD_INJECTED": str(injected),
        "TPD_CA": settings.ca,
        "TPD_IDLE_TIMEOUT": str(settings.idle_timeout),
        "TPD_PROBES": _json(pods.probes_of(pod)),
        "TPD_CONTAINERS": _json(containers),
        "TPD_PEEK_TOKEN": token,
        "TPD_LOG": settings.log,
    }
    return {
        "name": name,
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        "env": [*_literal(environment), {"name": "TPD_NODE_IP", "valueFrom": _NODE_IP}],
        "volumeMounts": pods.agent_volume_mounts(pod),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": False,
            "allowPrivilegeEscalation": False,
            # writable: the file server needs the app's user in /etc/passwd
            "readOnlyRootFilesystem": False,
            # the redirect; and the app's user and group for the file server
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "SETGID", "SETUID"]},
            "seccompProfile": _SECCOMP,
        },
    }


def peek_container(pod: Object, container: Object, *, name: str, token: str, settings: AgentSettings) -> dict[str, Any]:
    """The short-lived one: reads the environment of the app's process, hands it to the agent and ends.

    It carries copies of the app container's own declarations, so that the kubelet resolves them for it as well.
    """
    own = {
        "TPD_PEEK_TOKEN": token,
        "TPD_PEEK_CONTAINER": container["name"],
        "TPD_PEEK_POD_UID": pod["metadata"]["uid"],
        "TPD_PEEK_NAMES": _json(pods.env_names_of(container)),
        "TPD_PEEK_PREFIXES": _json([source.get("prefix") or "" for source in container.get("envFrom") or ()]),
        "TPD_LOG": settings.log,
    }
    return {
        "name": name,
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        # absolute and isolated: the copied variables may be PATH, PYTHONPATH or PYTHONHOME
        "command": ["/usr/bin/python3", "-I", "-S", "/opt/tpd/tpd_cluster/agent/peek.py"],
        "targetContainerName": container["name"],
        "env": [_copy(entry, container["name"]) for entry in container.get("env") or ()] + _literal(own),
        "envFrom": list(container.get("envFrom") or ()),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": _peek_security(pod, container),
    }


def patch(*containers: dict[str, Any]) -> dict[str, Any]:
    """A strategic merge patch for `pods/NAME/ephemeralcontainers` that adds them."""
    return {"spec": {"ephemeralContainers": list(containers)}}


def _peek_security(pod: Object, container: Object) -> dict[str, Any]:
    """The least that can read another process's environment.

    The kernel wants the same user and group, or SYS_PTRACE; and the file is the process's user's, or DAC_READ_SEARCH.
    A root app has capabilities that the reader lacks, so there SYS_PTRACE is needed too.
    """
    uid, gid = pods.user_of(pod, container)
    common = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "seccompProfile": _SECCOMP}
    if uid is not None and uid != 0 and gid is not None:
        return {
            "runAsUser": uid,
            "runAsGroup": gid,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            **common,
        }
    added = ["SYS_PTRACE"] if uid == 0 else ["DAC_READ_SEARCH", "SYS_PTRACE"]
    return {
        "runAsUser": 0,
        "runAsGroup": 0,
        "runAsNonRoot": False,
        "capabilities": {"drop": ["ALL"], "add": added},
        **common,
    }


def _copy(entry: Object, container: str) -> dict[str, Any]:
    """A declaration as it is; a reference to "this container's" resources names the app's."""
    source = (entry.get("valueFrom") or {}).get("resourceFieldRef")
    if source is None or source.get("containerName"):
        return dict(entry)
    return {**entry, "valueFrom": {"resourceFieldRef": {**source, "containerName": container}}}


def _literal(values: dict[str, str]) -> list[dict[str, str]]:
    """Variables whose values the kubelet leaves alone: it would expand `$(NAME)`."""
    return [{"name": name, "value": value.replace("$", "$$")} for name, value in values.items()]


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
