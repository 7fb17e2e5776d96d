"""The lab as fixtures: cluster, a namespace and a compose project per test, the laptop's user."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.e2e.support.cluster import Cluster, Namespace
from tests.e2e.support.process import run
from tests.e2e.support.project import TPD, Laptop, Project, clean_environment
from tests.lab.spec import Layout

pytestmark = pytest.mark.e2e


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(300))
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


def show_cluster(namespace: Namespace) -> None:
    """What the cluster has to say about a failed test: events, and the agents' and the manager's last words."""
    print(namespace.kubectl("get", "events", "--sort-by=.lastTimestamp", check=False))
    for pod in namespace.get("pods")["items"]:
        for one in pod["spec"].get("ephemeralContainers", []):
            print(f"--- {pod['metadata']['name']} {one['name']}")
            print(namespace.kubectl("logs", pod["metadata"]["name"], "-c", one["name"], "--tail=40", check=False))
    print(namespace.cluster.kubectl("-n", "tpd", "logs", "-l", "app.kubernetes.io/name=tpd", "--tail=40", check=False))


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    layout = Layout.default()
    if not layout.kubeconfig.exists():
        pytest.fail("the lab is not up: make lab-up")
    return Cluster(str(layout.kubectl), str(layout.kubeconfig))


@pytest.fixture(scope="session")
def manager(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    """tpd is installed in the cluster, from this checkout's chart."""
    environment = clean_environment(
        KUBECONFIG=cluster.kubeconfig, XDG_STATE_HOME=str(tmp_path_factory.mktemp("state")), PATH=lab_path()
    )
    run([TPD, "helm", "upgrade", "--set", "endpoint.type=NodePort"], env=environment, timeout=180)


def lab_path() -> str:
    layout = Layout.default()
    return os.pathsep.join([str(layout.kubectl.parent), str(layout.helm.parent), os.environ["PATH"]])


@pytest.fixture
def label(request: pytest.FixtureRequest) -> str:
    """A short unique name for whatever a test makes."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower()).strip("-")[:24].strip("-")
    return f"{name}-{secrets.token_hex(2)}"


@pytest.fixture
def namespace(request: pytest.FixtureRequest, cluster: Cluster, label: str) -> Iterator[Namespace]:
    name = f"e2e-{label}"
    cluster.kubectl("create", "namespace", name)
    space = Namespace(cluster, name)
    try:
        space.start_caller()
        yield space
    finally:
        if request.node.stash.get(FAILED, False):
            show_cluster(space)
        cluster.kubectl("delete", "namespace", name, "--wait=false", check=False)


@pytest.fixture
def laptop(cluster: Cluster, manager: None, tmp_path: Path) -> Iterator[Laptop]:
    user = Laptop(
        clean_environment(
            KUBECONFIG=cluster.kubeconfig, XDG_STATE_HOME=str(tmp_path / "state"), PATH=lab_path(), NO_COLOR="1"
        )
    )
    yield user
    user.tpd("quit", check=False)


@pytest.fixture
def make_project(laptop: Laptop, tmp_path: Path, label: str) -> Iterator[Callable[[], Project]]:
    made: list[Project] = []

    def make() -> Project:
        directory = tmp_path / f"project{len(made)}"
        directory.mkdir()
        made.append(Project(laptop, directory, f"e2e-{label}{len(made) or ''}"))
        return made[-1]

    yield make
    for project in made:
        project.remove()


@pytest.fixture
def project(make_project: Callable[[], Project]) -> Project:
    return make_project()


@pytest.fixture
def nothing_left(project: Project, namespace: Namespace) -> Callable[[], None]:
    """Asserts that a run has left nothing behind, on the laptop and in the cluster."""

    def check() -> None:
        assert not any(project.left_behind().values()), project.left_behind()
        state = Path(project.laptop.environment["XDG_STATE_HOME"]) / "tpd"
        # What was found out about the engine is kept for the next run.
        kept = [path for path in state.rglob("*") if path.is_file() and path.parent.name != "propagates"]
        assert kept == []
        assert namespace.get("attachments.tpd.dev")["items"] == []
        records = json.loads(project.laptop.tpd("status", "--format", "json").stdout)["runs"]
        assert records == []

    return check
