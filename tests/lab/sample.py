"""The sample application in the cluster: applied once per content, waited for until it is Ready."""

import json
from typing import Any

from tests.lab import cluster, images
from tests.lab.progress import Progress
from tests.lab.shell import LabError, output, run, succeeds
from tests.lab.spec import Layout
from tests.lab.store import digest

NAMESPACE = "shop"
MARK = "tpd-lab/applied"
READY_SECONDS = 120


def ensure(layout: Layout, progress: Progress) -> None:
    """Apply the manifests if they, or the images, changed, and wait until every workload is Ready."""
    manifests = images.SHOP / "k8s"
    if not manifests.is_dir():
        return
    shop = images.choose(images.catalogue(), ["shop"])
    mark = digest(manifests, *[cluster.archive(layout, image.name).with_suffix(".id") for image in shop])
    applied = _applied(layout)
    if applied == mark and not waiting_for(_workloads(layout)):
        return
    with progress.step("sample app in the cluster"):
        run(*cluster.kubectl(layout, "apply", "-f", manifests))
        if applied not in ("", mark):
            run(*cluster.kubectl(layout, "-n", NAMESPACE, "rollout", "restart", "deployment", "statefulset"))
        for item in _workloads(layout)["items"]:
            kind, name = item["kind"].lower(), item["metadata"]["name"]
            timeout = f"--timeout={READY_SECONDS}s"
            run(*cluster.kubectl(layout, "-n", NAMESPACE, "rollout", "status", f"{kind}/{name}", timeout))
        run(*cluster.kubectl(layout, "annotate", "--overwrite", "namespace", NAMESPACE, f"{MARK}={mark}"))


def ready(layout: Layout) -> bool:
    """Tell whether the sample application is applied and Ready."""
    if not succeeds(*cluster.kubectl(layout, "get", "namespace", NAMESPACE)):
        return False
    return not waiting_for(_workloads(layout))


def waiting_for(workloads: dict[str, Any]) -> list[str]:
    """Return the names of those workloads of a Kubernetes list that are not fully Ready at their newest revision."""

    def settled(item: dict[str, Any]) -> bool:
        status, wanted = item.get("status", {}), item["spec"].get("replicas", 1)
        seen = status.get("observedGeneration", 0) >= item["metadata"].get("generation", 0)
        counts = [status.get(key, 0) for key in ("readyReplicas", "updatedReplicas")]
        return seen and counts == [wanted, wanted]

    return [item["metadata"]["name"] for item in workloads["items"] if not settled(item)]


def _workloads(layout: Layout) -> dict[str, Any]:
    found = output(*cluster.kubectl(layout, "-n", NAMESPACE, "get", "deployment,statefulset", "--output", "json"))
    value: dict[str, Any] = json.loads(found)
    return value


def _applied(layout: Layout) -> str:
    path = "jsonpath={.metadata.annotations." + MARK.replace(".", "\\.") + "}"
    try:
        return output(*cluster.kubectl(layout, "get", "namespace", NAMESPACE, "--output", path))
    except LabError:
        return ""
