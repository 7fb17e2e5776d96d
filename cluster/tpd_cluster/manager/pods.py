"""What a pod's object says, as far as attachments need it. Pure."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from tpd_cluster.manager.model import MountSpec, Object

AGENT_PREFIX: Final = "tpd-agent-"
PEEK_PREFIX: Final = "tpd-peek-"
TOKEN_VOLUME_PREFIX: Final = "kube-api-access-"  # noqa: S105 - the name of a volume

_MESH_PROXIES = frozenset(("istio-proxy", "linkerd-proxy", "kuma-sidecar", "consul-dataplane"))


def controller_of(item: Object) -> tuple[str, str, str] | None:
    """Kind, name and UID of the owner that controls an object."""
    for owner in item["metadata"].get("ownerReferences") or ():
        if owner.get("controller"):
            return owner["kind"], owner["name"], owner["uid"]
    return None


def container_of(pod: Object, name: str) -> Object | None:
    """A container's spec; init containers that keep running (native sidecars) count too."""
    for container in containers_of(pod):
        if container["name"] == name:
            return container
    return None


def containers_of(pod: Object) -> Iterator[Object]:
    """Containers that run together: the ordinary ones, then native sidecars."""
    yield from pod["spec"]["containers"]
    for container in pod["spec"].get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            yield container


def refusal(pod: Object) -> str | None:
    """Why this pod can never have an agent, or None."""
    spec = pod["spec"]
    if spec.get("hostNetwork"):
        return "it uses the node's network (hostNetwork): an agent would change the node's own rules"
    if (spec.get("os") or {}).get("name") == "windows" or (spec.get("nodeSelector") or {}).get(
        "kubernetes.io/os"
    ) == "windows":
        return "it runs on Windows"
    for container in containers_of(pod):
        if container["name"] in _MESH_PROXIES:
            return f"it is in a service mesh ({container['name']}): what arrives is for the proxy to decrypt"
    if "kubernetes.io/config.mirror" in (pod["metadata"].get("annotations") or {}):
        return "it is a static pod, whose spec only its node can change"
    return None


def is_leaving(pod: Object) -> bool:
    """Terminating or finished: nothing can be started in it."""
    return bool(pod["metadata"].get("deletionTimestamp")) or pod["status"].get("phase") in ("Succeeded", "Failed")


def is_placed(pod: Object) -> bool:
    """A node has it, so that an ephemeral container will be started."""
    return bool(pod["spec"].get("nodeName"))


def ip_of(pod: Object) -> str:
    """The pod's first address, empty while it has none."""
    return pod["status"].get("podIP") or ""


# -- ports and probes ----------------------------------------------------------------------------------------------
def probes_of(pod: Object) -> list[dict[str, Any]]:
    """All network probes of the pod's containers, with named ports resolved."""
    found: list[dict[str, Any]] = []
    for container in containers_of(pod):
        for field in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = container.get(field)
            described = _describe(container, probe) if probe else None
            if described is not None and described not in found:
                found.append(described)
    return found


def _describe(container: Object, probe: Object) -> dict[str, Any] | None:
    for field, kind in (("httpGet", "http"), ("tcpSocket", "tcp"), ("grpc", "grpc")):
        action = probe.get(field)
        if action is None or action.get("host"):
            continue  # a probe of another host never reaches this pod
        port = _port_number(container, action["port"])
        if port is None:
            return None
        described: dict[str, Any] = {"container": container["name"], "kind": kind, "port": port}
        if kind == "http":
            described |= {
                "path": action.get("path") or "/",
                "scheme": action.get("scheme") or "HTTP",
                "headers": [[header["name"], header.get("value", "")] for header in action.get("httpHeaders") or ()],
            }
        elif kind == "grpc":
            described["service"] = action.get("service") or ""
        return described
    return None


def _port_number(container: Object, port: int | str) -> int | None:
    if isinstance(port, int):
        return port
    for declared in container.get("ports") or ():
        if declared.get("name") == port:
            return int(declared["containerPort"])
    return int(port) if port.isdigit() else None


# -- volumes -------------------------------------------------------------------------------------------------------
def mounts_of(pod: Object, container: Object) -> tuple[MountSpec, ...]:
    """What the container mounts, service-account tokens that were added by the API server apart."""
    values = _known_values(pod, container)
    mounts = []
    for mount in container.get("volumeMounts") or ():
        if mount["name"].startswith(TOKEN_VOLUME_PREFIX):
            continue
        sub_path = mount.get("subPath") or _expand(mount.get("subPathExpr") or "", values)
        mounts.append(MountSpec(mount["mountPath"], mount["name"], sub_path, bool(mount.get("readOnly"))))
    return tuple(mounts)


def agent_volume_mounts(pod: Object) -> list[dict[str, Any]]:
    """Mounts for the agent: every volume that a container of the pod mounts, whole (sub-paths are not allowed)."""
    read_only: dict[str, bool] = {}
    for container in containers_of(pod):
        for mount in container.get("volumeMounts") or ():
            name = mount["name"]
            if not name.startswith(TOKEN_VOLUME_PREFIX):
                read_only[name] = read_only.get(name, True) and bool(mount.get("readOnly"))
    return [
        {"name": name, "mountPath": f"/tpd/volumes/{name}", **({"readOnly": True} if only else {})}
        for name, only in sorted(read_only.items())
    ]


_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)")


def _expand(text: str, values: Mapping[str, str]) -> str:
    """Kubernetes' own expansion: `$(NAME)`, and `$$` for a dollar; unknown names stay as they are."""

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        return "$" if name is None else values.get(name, match.group(0))

    return _REFERENCE.sub(replace, text)


def _known_values(pod: Object, container: Object) -> dict[str, str]:
    """Values of `env` that the pod's object alone tells: literals and the pod's own fields."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod["status"]
    fields = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.podIP": status.get("podIP", ""),
        "status.hostIP": status.get("hostIP", ""),
    }
    for kind in ("labels", "annotations"):
        for key, value in (metadata.get(kind) or {}).items():
            fields[f"metadata.{kind}['{key}']"] = value
    values: dict[str, str] = {}
    for entry in container.get("env") or ():
        field = ((entry.get("valueFrom") or {}).get("fieldRef") or {}).get("fieldPath")
        if field is not None:
            if field in fields:
                values[entry["name"]] = fields[field]
        elif "valueFrom" not in entry:
            values[entry["name"]] = _expand(entry.get("value") or "", values)
    return values


def env_names_of(container: Object) -> list[str]:
    """Names that the container's `env` declares, in order, once each."""
    return list(dict.fromkeys(entry["name"] for entry in container.get("env") or ()))


# -- users ---------------------------------------------------------------------------------------------------------
def user_of(pod: Object, container: Object) -> tuple[int | None, int | None]:
    """User and group that the spec gives the container's process; None where the image decides."""
    own = container.get("securityContext") or {}
    common = pod["spec"].get("securityContext") or {}
    uid = own.get("runAsUser", common.get("runAsUser"))
    gid = own.get("runAsGroup", common.get("runAsGroup"))
    return uid, gid


# -- agents --------------------------------------------------------------------------------------------------------
class Life(Enum):
    """What the kubelet says about an ephemeral container."""

    UNKNOWN = "unknown"  # nothing yet
    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Ephemeral:
    """One of tpd's ephemeral containers in a pod.

    Attributes:
        environment: Its own literal variables.
        life: Where it stands.
        since: Unix seconds: start for a running one, end for an ended one, else 0.
        exit_code: Of an ended one.
        words: The kubelet's reason and message.
    """

    name: str
    environment: Mapping[str, str]
    life: Life
    since: float = 0.0
    exit_code: int = 0
    words: str = ""

    @property
    def injected(self) -> float:
        """Unix seconds of the patch that added it; 0 if it does not say."""
        value = self.environment.get("TPD_INJECTED", "")
        return float(value) if value.isdigit() else 0.0


def ephemerals_of(pod: Object, prefix: str) -> list[Ephemeral]:
    """tpd's ephemeral containers with a name that begins so, oldest first."""
    statuses = {status["name"]: status for status in pod["status"].get("ephemeralContainerStatuses") or ()}
    return [
        _ephemeral(container, statuses.get(container["name"]))
        for container in pod["spec"].get("ephemeralContainers") or ()
        if container["name"].startswith(prefix)
    ]


def _ephemeral(container: Object, status: Object | None) -> Ephemeral:
    environment = {entry["name"]: entry.get("value") or "" for entry in container.get("env") or ()}
    name = container["name"]
    state = (status or {}).get("state") or {}
    if "running" in state:
        return Ephemeral(name, environment, Life.RUNNING, timestamp(state["running"].get("startedAt")))
    if "terminated" in state:
        ended = state["terminated"]
        words = (ended.get("message") or "").strip() or ended.get("reason") or ""
        code = int(ended.get("exitCode", 1))
        return Ephemeral(name, environment, Life.ENDED, timestamp(ended.get("finishedAt")), code, words)
    if "waiting" in state:
        waiting = state["waiting"]
        words = ": ".join(part for part in (waiting.get("reason"), waiting.get("message")) if part)
        return Ephemeral(name, environment, Life.WAITING, words=words)
    return Ephemeral(name, environment, Life.UNKNOWN)


def timestamp(text: str | None) -> float:
    """Unix seconds of an RFC 3339 time, 0 for none."""
    if not text:
        return 0.0
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
