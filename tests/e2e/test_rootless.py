"""The main job on a rootless engine, as an ordinary user without any capability."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.support.cluster import Cluster, Namespace
from tests.e2e.support.process import Followed, run, until
from tests.e2e.support.project import Laptop, Project
from tests.lab import account, rootless
from tests.lab.spec import Layout

pytestmark = pytest.mark.rootless

LISTENING = r"listening on 8080"
WAY = r"attached after start: this engine does not propagate mounts"
VOLUMES = ("/data", "/etc/app", "/etc/app.conf", "/etc/secret")


class Person(Laptop):
    """The lab's ordinary user: `account.command` sets the environment and drops every capability."""

    def __init__(self, state: Path) -> None:
        super().__init__(dict(os.environ), "tpd")
        self.prefix = [*account.command(rootless.docker_host()), f"XDG_STATE_HOME={state}", "NO_COLOR=1"]

    def argv(self, *args: str) -> list[str]:
        return [*self.prefix, *args]

    def tpd_argv(self, *args: str) -> list[str]:
        return self.argv("tpd", *args)

    def docker(self, *args: str, check: bool = True, cwd: Path | None = None, timeout: float = 120) -> str:
        return str(run(self.argv("docker", *args), check=check, cwd=cwd, timeout=timeout).stdout)


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory of the user's own."""
    path = Path(tempfile.mkdtemp(prefix="e2e-", dir=account.entry().pw_dir))
    give(path)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def laptop(cluster: Cluster, manager: None, home: Path) -> Iterator[Laptop]:
    if not rootless.answers():
        pytest.fail("the rootless engine does not run: make lab-up ROOTLESS=1")
    layout = Layout.default()
    account.install_project(layout)
    account.give_cluster(layout)
    person = Person(home / "state")
    yield person
    person.tpd("quit", check=False)


@pytest.fixture
def project(laptop: Laptop, home: Path, label: str) -> Iterator[Project]:
    directory = home / "project"
    directory.mkdir()
    project = Project(laptop, directory, f"e2e-{label}")
    project.echo("orders")
    project.echo("other")  # `up` ends with the last container, also when that is only being restarted
    give(home)
    yield project
    project.remove()


@pytest.fixture
def orders(namespace: Namespace) -> Namespace:
    namespace.deploy("stock")
    namespace.deploy("orders", volume=True)
    namespace.kubectl("exec", "deploy/orders", "--", "sh", "-c", "echo -n there >/data/before")
    return namespace


@pytest.fixture
def nothing_left_here(laptop: Laptop, home: Path, orders: Namespace) -> Callable[[], None]:
    before = laptop.docker("volume", "ls", "-q", "--filter", "label=dev.tpd")

    def check() -> None:
        assert laptop.docker("ps", "-aq", "--filter", "label=dev.tpd") == ""
        assert laptop.docker("volume", "ls", "-q", "--filter", "label=dev.tpd") == before
        assert laptop.docker("network", "ls", "-q", "--filter", "label=dev.tpd") == ""
        assert orders.get("attachments.tpd.dev")["items"] == []
        assert json.loads(laptop.tpd("status", "--format", "json").stdout) == {"runs": []}
        assert not [path for path in (home / "state").rglob("*") if path.is_file()]

    return check


def give(path: Path) -> None:
    """Make it the user's own, with all that is in it."""
    person = account.entry()
    for one in (path, *path.rglob("*")):
        os.chown(one, person.pw_uid, person.pw_gid)


def capabilities(process: Followed, name: str) -> set[str]:
    """CapEff and CapBnd of the processes below a command of ours whose command line has `name` in it."""
    found = set()
    for one in Path("/proc").glob("[0-9]*"):
        try:
            status = (one / "status").read_text()
            words = (one / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            same = os.getsid(int(one.name)) == process.process.pid
        except OSError:
            continue
        if same and name in words:
            found |= set(re.findall(r"^Cap(?:Eff|Prm|Bnd):\s*(\w+)$", status, re.M))
            assert f"Uid:\t{account.entry().pw_uid}\t" in status
    return found


def tpd_mounts(project: Project) -> list[str]:
    """What tpd has mounted in the app's container."""
    table = project.exec("orders", "print(open('/proc/self/mountinfo').read())")
    return sorted(line.split()[4] for line in table.splitlines() if " - fuse.tpd " in line)


def await_volumes(orders: Namespace, project: Project) -> None:
    """The volumes are there a moment after the start."""
    until(
        lambda: tpd_mounts(project), lambda paths: set(VOLUMES) <= set(paths), timeout=20, what="volumes are attached"
    )
    assert orders.look("orders", "file", "/etc/secret/password") == "s3cret$and`more`"
    assert orders.look("orders", "file", "/etc/app.conf") == "colour=blue\n"
    assert orders.look("orders", "file", "/data/before") == "there"


def check_volumes(orders: Namespace, name: str) -> None:
    """A write on either side is seen on the other."""
    written = orders.ask(f"http://orders/file?/data/laptop-{name}", method="PUT", body="from the laptop")
    assert written == {"written": len("from the laptop")}
    in_pod = ["exec", "deploy/orders", "-c", "app", "--"]
    until(
        lambda: orders.kubectl(*in_pod, "cat", f"/data/laptop-{name}", check=False),
        lambda text: text == "from the laptop",
        timeout=3,
        what="the pod sees the laptop's write",
    )
    orders.kubectl(*in_pod, "sh", "-c", f"echo -n from the pod >/data/pod-{name}")
    until(
        lambda: orders.look("orders", "file", f"/data/pod-{name}"),
        lambda text: text == "from the pod",
        timeout=3,
        what="the laptop sees the pod's write",
    )
    refused = orders.ask("http://orders/file?/etc/secret/password", method="PUT", body="x")
    assert "Read-only" in refused["error"], refused


def check_network(orders: Namespace) -> None:
    """Traffic in with the caller's address, the environment, names and connections out."""
    assert orders.ask("http://orders/")["peer"] == orders.address("caller")
    assert orders.look("orders", "env", "FROM_SECRET") == "s3cret$and`more`"
    assert orders.look("orders", "env", "FROM_MAP") == "mapped"
    assert orders.look("orders", "env", "ORIGIN") == "laptop", "the compose file's own environment wins"
    for name in (
        "stock",
        f"stock.{orders.name}.svc.cluster.local",
        orders.pods("stock")[0]["status"]["podIP"] + ":8080",
    ):
        assert orders.look("orders", "get", f"http://{name}/")["origin"] == "cluster", name


def volume_views(laptop: Laptop) -> list[dict[str, Any]]:
    runs = json.loads(laptop.tpd("status", "--format", "json").stdout)["runs"]
    return [
        volume for one in runs for seat in one["seats"] for item in seat["attachments"] for volume in item["volumes"]
    ]


def test_main_job(orders: Namespace, project: Project, nothing_left_here: Callable[[], None]) -> None:
    pods = {pod["metadata"]["uid"] for pod in orders.pods("orders")}
    with project.run("--intercept", "orders", "-n", orders.name, "--", "docker", "compose", "up") as running:
        running.expect(rf"volume /data: mounted \({WAY}\)")
        running.expect(f"orders.*{LISTENING}")
        assert capabilities(running, "tpd") == {"0" * 16}
        orders.await_origin("orders", "laptop")
        check_network(orders)
        await_volumes(orders, project)
        check_volumes(orders, "first")

        views = volume_views(project.laptop)
        assert {view["path"] for view in views} >= set(VOLUMES)
        assert {(view["mounted"], view["way"], view["problem"]) for view in views} == {(True, "attached", None)}
        assert re.search(rf"volume /data: mounted \({WAY}\)", project.laptop.tpd("status").stdout)

        before = tpd_mounts(project)
        project.laptop.docker("restart", "-t", "1", project.container("orders"))
        orders.await_origin("orders", "laptop")
        await_volumes(orders, project)
        check_volumes(orders, "second")
        assert tpd_mounts(project) == before, "each is attached once"
        assert project.laptop.docker("ps", "-aq", "--filter", "label=dev.tpd.role=mounts") == ""

        assert running.stop() in (0, 130)
        assert "warning" not in running.output, running.output
        assert "s3cret" not in running.output
    assert orders.origin("orders") == "cluster"
    assert {pod["metadata"]["uid"] for pod in orders.pods("orders")} == pods
    assert orders.restarts() == 0
    project.compose("down", "--volumes")
    nothing_left_here()


def test_detached(orders: Namespace, project: Project, nothing_left_here: Callable[[], None]) -> None:
    """The watcher attaches volumes too; a workload that is given back leaves no dead mount in the app."""
    project.services["orders"]["volumes"] += ["./own:/etc/app", "tpd-volumes:/mnt"]
    project.top["volumes"] = {"tpd-volumes": {}}
    (project.directory / "own").mkdir()
    project.write()
    give(project.directory)
    with project.run("--intercept", "orders", "-n", orders.name, "--", "docker", "compose", "up", "-d") as starting:
        assert starting.wait(90) == 0, starting.output
    assert "tpd-volumes stays empty in orders" in starting.output
    assert "yours is mounted there" in starting.output
    paths = ["/data", "/etc/app.conf", "/etc/secret"]
    assert set(paths) <= set(tpd_mounts(project)), "attached before the command ends"
    assert "/etc/app" not in tpd_mounts(project), "the user's own mount wins"
    before = tpd_mounts(project)

    project.laptop.docker("restart", "-t", "1", project.container("orders"))
    until(lambda: tpd_mounts(project), lambda found: found == before, timeout=20, what="attached by the watcher")
    orders.await_origin("orders", "laptop")
    check_volumes(orders, "watched")

    project.laptop.tpd("leave", "orders")
    until(lambda: tpd_mounts(project), lambda found: found == [], timeout=20, what="nothing is left in the app")
    assert orders.origin("orders") == "cluster"
    project.laptop.tpd("quit")
    project.compose("down", "--volumes")
    nothing_left_here()


def test_a_new_daemon_brings_the_volumes_back(orders: Namespace, project: Project) -> None:
    with project.run("--intercept", "orders", "-n", orders.name, "--", "docker", "compose", "up") as running:
        running.expect(f"orders.*{LISTENING}")
        orders.await_origin("orders", "laptop")
        await_volumes(orders, project)
        before = tpd_mounts(project)
        project.laptop.docker("kill", project.container("tpd-daemon"))
        running.expect("engaged again")
        orders.await_origin("orders", "laptop")
        until(
            lambda: orders.look("orders", "file", "/data/before"),
            lambda text: text == "there",
            timeout=20,
            what="the volume is there again",
        )
        assert tpd_mounts(project) == before, "nothing dead lies below"
        running.stop()


def test_docker_run(orders: Namespace, project: Project, nothing_left_here: Callable[[], None]) -> None:
    name = f"{project.name}-app"
    script = f"{project.directory / 'echo.py'}:/srv/echo.py:ro"
    app = ["docker", "run", "--rm", "--name", name, "-e", "ORIGIN=laptop", "-v", script, "--entrypoint", "python3"]
    with project.run(
        "--intercept", "orders", "-n", orders.name, "--", *app, "tpd-shop-app:1", "/srv/echo.py"
    ) as running:
        running.expect(rf"volume /data: mounted \({WAY}\)")
        running.expect(LISTENING)
        orders.await_origin("orders", "laptop")
        until(
            lambda: project.laptop.docker("exec", name, "cat", "/data/before", check=False),
            lambda text: text == "there",
            timeout=20,
            what="the volume is attached",
        )
        check_volumes(orders, "run")
        running.stop()
        assert "warning" not in running.output, running.output
    assert orders.origin("orders") == "cluster"
    nothing_left_here()
