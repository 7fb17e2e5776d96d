"""Leaving: idle agents end, and the cluster is as it was found. Runs last: it takes the manager away."""

from __future__ import annotations

import pytest

from tests.e2e.support.cluster import Cluster, Namespace
from tests.e2e.support.process import until
from tests.e2e.support.project import Project

# Written by the cluster itself at all times, and not about what exists.
NOT_STATE = {"bindings", "events", "events.events.k8s.io", "componentstatuses", "leases.coordination.k8s.io"}


def of_tpd(cluster: Cluster) -> list[str]:
    """Every object of the cluster that carries tpd's label or name."""
    kinds = cluster.kubectl("api-resources", "--verbs=list", "--output=name").split()
    wanted = ",".join(sorted(set(kinds) - NOT_STATE))
    columns = "custom-columns=K:.kind,NS:.metadata.namespace,N:.metadata.name,L:.metadata.labels"
    lines = cluster.kubectl("get", wanted, "-A", "--no-headers", "-o", columns, check=False).splitlines()
    ours = []
    for line in lines:
        kind, namespace, name, labels = line.split(maxsplit=3)
        if name.startswith("tpd-lab-node") or (kind, namespace) == ("CSINode", "<none>"):
            continue
        if namespace == "tpd" or name == "tpd" or "tpd" in name.split(".") or "managed-by:tpd" in labels:
            ours.append(f"{kind} {namespace}/{name}")
    return sorted(ours)


@pytest.mark.last
def test_uninstall_leaves_the_cluster_as_found(cluster: Cluster, namespace: Namespace, project: Project) -> None:
    namespace.deploy("orders")
    project.echo("orders")
    argv = ("--intercept", "orders", "-n", namespace.name, "--", "docker", "compose", "up")
    with project.run(*argv) as running:
        namespace.await_origin("orders", "laptop", timeout=90)
        running.stop()

    def running_agents() -> list[str]:
        statuses = namespace.pods("orders")[0]["status"].get("ephemeralContainerStatuses", [])
        return [one["name"] for one in statuses if "running" in one["state"]]

    assert len(running_agents()) == 1
    assert of_tpd(cluster)
    project.laptop.tpd("uninstall", "--all-agents")
    until(running_agents, lambda names: names == [], timeout=20, what="the idle agent has ended")
    project.laptop.tpd("helm", "uninstall", timeout=180)
    until(lambda: of_tpd(cluster), lambda left: left == [], timeout=60, what="nothing of tpd is left in the cluster")
    assert namespace.origin("orders") == "cluster"
    assert namespace.restarts() == 0
