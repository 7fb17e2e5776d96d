"""What users get wrong: one clear message with the value and the fix, an exit status, nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.e2e.support.cluster import Cluster, Namespace
from tests.e2e.support.process import until
from tests.e2e.support.project import Project

USER, CONFIG, CLUSTER, NETWORK, ENGINE = 2, 3, 4, 5, 6
UP = ("--", "docker", "compose", "up")


@pytest.fixture
def orders(namespace: Namespace, project: Project) -> Namespace:
    project.echo("orders")
    return namespace


def fails(project: Project, *args: str, status: int, words: list[str], **environment: str) -> str:
    """`tpd run ARGS` ends with `status`, says all of `words`, and shows no traceback."""
    done = project.laptop.tpd("run", *args, check=False, cwd=project.directory, env=environment)
    text = str(done.stdout + done.stderr)
    assert done.returncode == status, text
    for word in words:
        assert word in text, text
    assert "Traceback" not in text
    return text


def test_workload_not_found(orders: Namespace, project: Project, nothing_left: Callable[[], None]) -> None:
    orders.deploy("orders")
    words = ["ordesr", orders.name, "orders"]
    fails(project, "--intercept", "ordesr=orders", "-n", orders.name, *UP, status=CLUSTER, words=words)
    nothing_left()


def test_port_ambiguous(orders: Namespace, project: Project, nothing_left: Callable[[], None]) -> None:
    orders.deploy("orders", ports={"http": 8080, "metrics": 9090})
    words = ["http", "8080", "metrics", "9090", "orders:"]
    fails(project, "--intercept", "orders", "-n", orders.name, *UP, status=USER, words=words)
    nothing_left()


def test_child_fails(orders: Namespace, project: Project, nothing_left: Callable[[], None]) -> None:
    orders.deploy("orders")
    project.services["orders"]["entrypoint"] = ["sh", "-c", "exit 7"]
    project.write()
    argv = ["--intercept", "orders", "-n", orders.name, *UP, "--exit-code-from", "orders"]
    fails(project, *argv, status=7, words=[])
    assert orders.origin("orders") == "cluster"
    nothing_left()


def test_cluster_unreachable(orders: Namespace, project: Project) -> None:
    config = yaml.safe_load(Path(project.laptop.environment["KUBECONFIG"]).read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    path = project.directory / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    fails(project, "--intercept", "orders", *UP, status=NETWORK, words=["127.0.0.1:1"], KUBECONFIG=str(path))
    assert not any(project.left_behind().values())


def test_context_unknown(orders: Namespace, project: Project) -> None:
    fails(project, "--context", "nowhere", "--intercept", "orders", *UP, status=CONFIG, words=["nowhere", "tpd-lab"])


def test_no_manager(orders: Namespace, project: Project, nothing_left: Callable[[], None]) -> None:
    orders.deploy("orders")
    argv = ["--manager-namespace", "elsewhere", "--intercept", "orders", "-n", orders.name, *UP]
    fails(project, *argv, status=CLUSTER, words=["elsewhere", "tpd helm install"])
    nothing_left()


def test_no_engine(orders: Namespace, project: Project) -> None:
    argv = ["--intercept", "orders", "-n", orders.name, *UP]
    fails(project, *argv, status=ENGINE, words=["/nowhere.sock"], DOCKER_HOST="unix:///nowhere.sock")


def test_no_rights(cluster: Cluster, orders: Namespace, project: Project, nothing_left: Callable[[], None]) -> None:
    """A user who may look but not attach."""
    orders.deploy("orders")
    orders.kubectl("create", "serviceaccount", "reader")
    orders.kubectl("create", "rolebinding", "reader", "--clusterrole=view", f"--serviceaccount={orders.name}:reader")
    token = orders.kubectl("create", "token", "reader").strip()
    config = yaml.safe_load(Path(cluster.kubeconfig).read_text())
    config["users"][0]["user"] = {"token": token}
    path = project.directory / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    argv = ["--intercept", "orders", "-n", orders.name, *UP]
    fails(project, *argv, status=CLUSTER, words=["reader", "serviceaccounts/token", "tpd-client"], KUBECONFIG=str(path))
    nothing_left()


def test_host_command_refused(orders: Namespace, project: Project) -> None:
    fails(project, "--intercept", "orders", "--", "npm", "start", status=USER, words=["npm", "docker compose"])


def test_scaling_refused(orders: Namespace, project: Project, nothing_left: Callable[[], None]) -> None:
    orders.deploy("orders")
    argv = ["--intercept", "orders", "-n", orders.name, *UP, "--scale", "orders=2"]
    fails(project, *argv, status=USER, words=["orders", "scale"])
    nothing_left()


def test_broken_compose_file(orders: Namespace, project: Project) -> None:
    (project.directory / "docker-compose.yaml").write_text("services: [")
    done = project.laptop.tpd("run", "--intercept", "orders", *UP, check=False, cwd=project.directory)
    assert done.returncode != 0
    assert "compose project" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_uninstall_ends_idle_agents(orders: Namespace, project: Project) -> None:
    orders.deploy("orders")
    with project.run("--intercept", "orders", "-n", orders.name, *UP) as running:
        orders.await_origin("orders", "laptop", timeout=90)
        running.stop()

    def agents() -> list[str]:
        statuses = orders.pods("orders")[0]["status"].get("ephemeralContainerStatuses", [])
        return [one["name"] for one in statuses if one["name"].startswith("tpd-agent") and "running" in one["state"]]

    assert len(agents()) == 1
    project.laptop.tpd("uninstall", "orders", "-n", orders.name)
    until(agents, lambda names: names == [], timeout=20, what="the agent has ended")
    assert orders.restarts() == 0
