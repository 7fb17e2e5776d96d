"""The app container restarted and recreated under an intercept, two services at once, other children than `up`."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.e2e.support.cluster import IMAGE, Namespace
from tests.e2e.support.process import until
from tests.e2e.support.project import Project

LISTENING = r"listening on 8080"


@pytest.fixture
def orders(namespace: Namespace) -> Namespace:
    namespace.deploy("orders")
    return namespace


def test_app_restarted_and_recreated(orders: Namespace, project: Project) -> None:
    project.echo("orders")
    with project.run("--intercept", "orders", "-n", orders.name, "--", "docker", "compose", "up", "-d") as running:
        assert running.wait() == 0, running.output
    orders.await_origin("orders", "laptop")
    first = project.container("orders")
    project.laptop.docker("restart", first)
    orders.await_origin("orders", "laptop")
    assert orders.look("orders", "env", "FROM_MAP") == "mapped"
    project.laptop.docker("kill", first)
    orders.await_origin("orders", "cluster")
    project.laptop.docker("start", first)
    orders.await_origin("orders", "laptop")
    assert orders.restarts() == 0
    assert project.laptop.tpd("quit").returncode == 0
    orders.await_origin("orders", "cluster")


def test_two_services_at_once(orders: Namespace, project: Project, nothing_left: Callable[[], None]) -> None:
    orders.deploy("stock")
    project.echo("orders")
    project.echo("stock")
    argv = ("--intercept", "orders", "--intercept", "stock", "-n", orders.name, "--", "docker", "compose", "up")
    with project.run(*argv) as running:
        orders.await_origin("orders", "laptop", timeout=90)
        orders.await_origin("stock", "laptop", timeout=30)
        hosts = {orders.ask(f"http://{name}/")["hostname"] for name in ("orders", "stock")}
        assert len(hosts) == 2
        running.stop()
    assert orders.origin("orders") == "cluster"
    assert orders.origin("stock") == "cluster"
    nothing_left()


def test_detached_run_has_a_watcher_until_the_project_is_gone(
    orders: Namespace, project: Project, nothing_left: Callable[[], None]
) -> None:
    project.echo("orders")
    with project.run(
        "--intercept", "orders", "-n", orders.name, "--", "docker", "compose", "up", "-d", "--wait"
    ) as running:
        assert running.wait() == 0, running.output
    orders.await_origin("orders", "laptop")
    status = json.loads(project.laptop.tpd("status", "--format", "json").stdout)
    assert [(run["detached"], run["pid"] is not None) for run in status["runs"]] == [(True, True)]
    project.compose("down", "--remove-orphans")
    orders.await_origin("orders", "cluster")
    until(
        lambda: json.loads(project.laptop.tpd("status", "--format", "json").stdout)["runs"],
        lambda runs: runs == [],
        what="the watcher ends with the project",
    )
    nothing_left()


def test_docker_run(orders: Namespace, project: Project, nothing_left: Callable[[], None]) -> None:
    project.echo("unused")
    child = [
        "docker",
        "run",
        "--rm",
        "-e",
        "ORIGIN=laptop",
        "-v",
        f"{project.directory}:/srv:ro",
        "--entrypoint",
        "python3",
    ]
    with project.run("--intercept", "orders", "-n", orders.name, "--", *child, IMAGE, "/srv/echo.py") as running:
        running.expect(LISTENING)
        orders.await_origin("orders", "laptop")
        assert orders.look("orders", "env", "FROM_SECRET") == "s3cret$and`more`"
        assert orders.look("orders", "file", "/etc/secret/password") == "s3cret$and`more`"
        running.stop()
    assert orders.origin("orders") == "cluster"
    nothing_left()


def test_new_pods_are_taken_too(orders: Namespace, project: Project) -> None:
    project.echo("orders")
    with project.run("--intercept", "orders", "-n", orders.name, "--", "docker", "compose", "up") as running:
        running.expect(f"orders.*{LISTENING}")
        orders.await_origin("orders", "laptop")
        orders.kubectl("scale", "deployment/orders", "--replicas=2")
        orders.kubectl("rollout", "status", "deployment/orders", "--timeout=60s")
        until(
            lambda: [orders.ask(f"http://{pod['status']['podIP']}:8080/")["origin"] for pod in orders.pods("orders")],
            lambda origins: origins == ["laptop", "laptop"],
            timeout=40,
            what="both replicas answered by the laptop",
        )
