"""The main job: the local container is the cluster's workload."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.support.cluster import Cluster, Namespace
from tests.e2e.support.process import run, until
from tests.e2e.support.project import Project
from tests.lab.guards import leaks
from tests.lab.spec import NETWORK, NODE

LISTENING = r"listening on 8080"


@contextmanager
def blocked_on_node(*ports: int) -> Iterator[None]:
    """Containers cannot reach these ports of the node; the host still can."""
    subnet = run(["docker", "network", "inspect", NETWORK, "-f", "{{(index .IPAM.Config 0).Subnet}}"]).stdout.strip()
    host = next(ipaddress.ip_network(subnet).hosts())
    wanted = ", ".join(str(port) for port in ports)
    rules = (
        "add table inet e2e_block\n"
        "add chain inet e2e_block pre { type filter hook prerouting priority raw; }\n"
        f"add rule inet e2e_block pre iifname eth0 ip saddr != {host} tcp dport {{ {wanted} }} drop\n"
    )
    run(["docker", "exec", "-i", NODE, "nft", "-f", "-"], input=rules)
    try:
        yield
    finally:
        run(["docker", "exec", NODE, "nft", "delete", "table", "inet", "e2e_block"])


def node_port(cluster: Cluster) -> int:
    service = next(
        item for item in cluster.get("-n", "tpd", "services")["items"] if item["spec"].get("type") == "NodePort"
    )
    return int(service["spec"]["ports"][0]["nodePort"])


def check_everything(namespace: Namespace, project: Project) -> None:
    """Traffic in, caller's address, environment, names and TCP out, volumes read and written both ways."""
    caller = namespace.address("caller")
    namespace.await_origin("orders", "laptop")
    answer = namespace.ask("http://orders/")
    assert answer["peer"] == caller

    assert namespace.look("orders", "env", "GREETING") == "hello $HOME and 'quotes'"
    assert namespace.look("orders", "env", "FROM_SECRET") == "s3cret$and`more`"
    assert namespace.look("orders", "env", "FROM_MAP") == "mapped"
    assert namespace.look("orders", "env", "POD_ADDRESS") == namespace.pods("orders")[0]["status"]["podIP"]
    assert namespace.look("orders", "env", "ORIGIN") == "laptop", "the compose file's own environment wins"

    for name in ("stock", f"stock.{namespace.name}", f"stock.{namespace.name}.svc.cluster.local"):
        assert namespace.look("orders", "get", f"http://{name}/")["origin"] == "cluster", name
    pod = namespace.pods("stock")[0]["status"]["podIP"]
    assert namespace.look("orders", "get", f"http://{pod}:8080/")["origin"] == "cluster"

    assert namespace.look("orders", "file", "/etc/secret/password") == "s3cret$and`more`"
    assert namespace.look("orders", "file", "/etc/app/app.conf") == "colour=blue\n"
    assert namespace.look("orders", "file", "/etc/app.conf") == "colour=blue\n"
    first = namespace.look("orders", "first", "")
    assert first == {"/etc/secret/password": "s3cret$and`more`", "/data/before": "there"}

    written = namespace.ask("http://orders/file?/data/from-laptop", method="PUT", body="from the laptop")
    assert written == {"written": len("from the laptop")}
    in_pod = ["exec", "deploy/orders", "-c", "app", "--"]
    until(
        lambda: namespace.kubectl(*in_pod, "cat", "/data/from-laptop", check=False),
        lambda text: text == "from the laptop",
        timeout=3,
        what="the pod sees the laptop's write",
    )
    namespace.kubectl(*in_pod, "sh", "-c", "echo -n from the pod >/data/from-pod")
    until(
        lambda: namespace.look("orders", "file", "/data/from-pod"),
        lambda text: text == "from the pod",
        timeout=3,
        what="the laptop sees the pod's write",
    )
    read = "print(open('/mnt/orders/data/before').read())"
    assert project.exec("other", read) == "there", "a second container mounts the session's volume"


@pytest.fixture
def orders(namespace: Namespace) -> Namespace:
    namespace.deploy("stock")
    namespace.deploy("orders", volume=True)
    namespace.kubectl("exec", "deploy/orders", "--", "sh", "-c", "echo -n there >/data/before")
    return namespace


@pytest.fixture
def shop(project: Project) -> Project:
    project.echo("orders", environment={"LOOK_AT": "/etc/secret/password,/data/before"})
    project.echo("other", volumes=["tpd-volumes:/mnt"])
    project.top["volumes"] = {"tpd-volumes": {}}
    project.write()
    return project


@pytest.mark.parametrize("transport", ["api-server", "endpoint", "relay"])
def test_main_job(
    transport: str, cluster: Cluster, orders: Namespace, shop: Project, nothing_left: Callable[[], None]
) -> None:
    pods = {pod["metadata"]["uid"] for pod in orders.pods("orders")}
    blocked = {"api-server": [node_port(cluster)], "endpoint": [6443], "relay": [node_port(cluster), 6443]}
    with (
        blocked_on_node(*blocked[transport]),
        shop.run("--intercept", "orders", "-n", orders.name, "--", "docker", "compose", "up") as running,
    ):
        running.expect(f"orders.*{LISTENING}")
        check_everything(orders, shop)
        status = json.loads(shop.laptop.tpd("status", "--format", "json").stdout)
        assert [seat["transport"] for run_ in status["runs"] for seat in run_["seats"]] == [transport]
        attachments = orders.kubectl("get", "attachments")
        assert "orders" in attachments
        assert running.stop() in (0, 130)
        assert "s3cret" not in running.output
    assert orders.origin("orders") == "cluster"
    assert {pod["metadata"]["uid"] for pod in orders.pods("orders")} == pods
    assert orders.restarts() == 0
    shop.compose("down", "--volumes")
    nothing_left()


def test_steady_stream_loses_nothing(orders: Namespace, shop: Project) -> None:
    up = ("--intercept", "orders", "-n", orders.name, "--", "docker", "compose", "up")
    with orders.steady("http://orders/") as steady:
        with shop.run(*up) as running:
            orders.await_origin("orders", "laptop", timeout=90)
            with orders.steady("http://orders/", rate=20) as during:
                for _ in range(5):
                    assert orders.origin("orders") == "laptop"
                running.stop()
                orders.await_origin("orders", "cluster")
                assert [why for why in during.end()["failures"] if why.startswith("fresh")] == []
        result = steady.end()
    assert result["failures"] == []
    assert result["fresh"]["laptop"] > 0
    assert result["fresh"]["cluster"] > 0
    assert list(result["kept"]) == ["cluster"], "a connection from before stays with the original container"


def test_daemon_has_named_capabilities_only(orders: Namespace, shop: Project) -> None:
    with shop.run("--intercept", "orders", "-n", orders.name, "--", "docker", "compose", "up") as running:
        running.expect(f"orders.*{LISTENING}")
        daemon = shop.laptop.inspect(shop.container("tpd-daemon"))
        config = daemon["HostConfig"]
        assert config["Privileged"] is False
        assert [name.removeprefix("CAP_") for name in config["CapDrop"]] == ["ALL"]
        assert sorted(name.removeprefix("CAP_") for name in config["CapAdd"]) == ["NET_ADMIN", "SYS_ADMIN"]
        assert not [mount for mount in daemon["Mounts"] if "docker.sock" in mount.get("Source", "")]


def test_no_packet_leaks(orders: Namespace, shop: Project) -> None:
    """Cluster addresses are refused on the host: whatever answered came through the link."""
    with shop.run("--intercept", "orders", "-n", orders.name, "--", "docker", "compose", "up") as running:
        running.expect(f"orders.*{LISTENING}")
        orders.await_origin("orders", "laptop")
        before = leaks()
        for _ in range(5):
            assert orders.look("orders", "get", "http://stock/")["origin"] == "cluster"
        assert leaks() == before
