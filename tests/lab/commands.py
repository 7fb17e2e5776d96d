"""What `python -m tests.lab COMMAND` does."""

import os
import shlex
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.lab import account, bases, binaries, cluster, engine, guards, images, machine, rootless, sample, traces
from tests.lab.progress import Progress
from tests.lab.shell import LabError, output
from tests.lab.spec import (
    BASE_IMAGE,
    COREDNS_IMAGE,
    LOCAL_PATH_IMAGE,
    NETWORK,
    NODE,
    NODE_IMAGE,
    PAUSE_IMAGE,
    POD_CIDR,
    SERVICE_CIDR,
    Layout,
)
from tests.lab.store import exclusive, read_json, remove_tree, sweep, write_json

LAB_IMAGES = (BASE_IMAGE, NODE_IMAGE, COREDNS_IMAGE, LOCAL_PATH_IMAGE, PAUSE_IMAGE)
ENGINE_DATA = ("/var/lib/docker", "/var/lib/containerd")


class Background:
    """A function in a thread of its own, which does not keep the program alive when something else fails."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:
            self._failure = error

    def result(self) -> None:
        """Wait for the end; raise what the function raised."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure


def up(layout: Layout, progress: Progress, *, with_rootless: bool) -> None:
    """Leave engine, cluster and sample application running; build and install what is missing."""
    machine.require_root()
    with exclusive(progress.line):
        _up(layout, progress, with_rootless=with_rootless)
    progress.line(progress.table())


def down(layout: Layout, progress: Progress) -> None:
    """Stop what the lab started: cluster, rootless engine, firewall rules, engine."""
    machine.require_root()
    with exclusive(progress.line):
        _down(layout, progress)


def reset(layout: Layout, progress: Progress) -> None:
    """Replace the cluster by a clean one."""
    machine.require_root()
    with exclusive(progress.line):
        if engine.answers():
            with progress.step("remove the node"):
                cluster.remove()
        _up(layout, progress, with_rootless=False)
    progress.line(progress.table())


def purge(layout: Layout, progress: Progress) -> None:
    """Remove everything that the lab ever brought to this machine."""
    machine.require_root()
    with exclusive(progress.line):
        state = read_json(layout.state)
        if engine.answers():
            with progress.step("remove cluster and images"):
                cluster.remove()
                cluster.remove_network()
                images.remove([*LAB_IMAGES, *(image.name for image in images.catalogue())])
        _down(layout, progress)
        with progress.step("remove the rootless engine's user"):
            rootless.purge(layout)
        own_engine = "docker.io" in state.get("packages", []) and not engine.answers()
        if own_engine:
            traces.remove()
        with progress.step("remove packages") as step:
            removed, kept = machine.remove_packages(layout)
            because = f"; kept, since others need them: {' '.join(kept)}" if kept else ""
            step.say(f"{len(removed)} packages{because}")
        with progress.step("remove caches"):
            if own_engine and not machine.installed("docker.io"):
                for path in ENGINE_DATA:
                    shutil.rmtree(path, ignore_errors=True)
            if layout.root.exists():
                remove_tree(layout.root)
    progress.line(progress.table())


def show_status(layout: Layout, progress: Progress) -> bool:
    """Print what runs and what the guards counted; tell whether everything runs."""
    machine.require_root()
    rows: list[tuple[str, bool, str]] = []
    alive = engine.answers()
    rows.append(("engine", alive, engine.info(".Server.Version") if alive else "does not answer"))
    node = alive and cluster.running()
    rows.append(("node", node, f"{NODE} {cluster.address()} on network {NETWORK}" if node else "not running"))
    system = node and cluster.ready(layout)
    rows.append(("cluster", system, f"kubeconfig {layout.kubeconfig}" if system else "not ready"))
    shop = system and sample.ready(layout)
    rows.append(("sample app", shop, f"namespace {sample.NAMESPACE}" if shop else "not ready"))
    counts = ", ".join(f"{cidr}: {count}" for cidr, count in guards.leaks().items())
    rows.append(("guards", guards.installed(), f"refused packets {counts}" if counts else "not installed"))
    for name, good, text in rows:
        progress.line(f"  {'up  ' if good else 'DOWN'}  {name:<16} {text}")
    if rootless.installed(layout):
        running = rootless.answers()
        progress.line(f"  {'up  ' if running else 'DOWN'}  {'rootless engine':<16} {rootless.docker_host()}")
    return all(good for _, good, _ in rows)


def tools(layout: Layout) -> None:
    """Install the programs that the namespace tests run on the host."""
    machine.require_root()
    machine.install(layout, *machine.TOOLS)


def build_and_load(layout: Layout, progress: Progress, names: list[str]) -> None:
    """Build the images that changed and load them into the node and the rootless engine."""
    machine.require_root()
    with exclusive(progress.line):
        if not engine.answers():
            raise LabError("no engine answers", "make lab-up")
        images.ensure(layout, progress, names)
    progress.line(progress.table())


def as_user(layout: Layout, words: list[str]) -> None:
    """Replace this process by `words`, run as the rootless engine's user with the project installed.

    Raises:
        LabError: there is no rootless engine.
    """
    machine.require_root()
    if not rootless.answers():
        raise LabError("no rootless engine runs", "make lab-up ROOTLESS=1")
    account.install_project(layout)
    account.give_cluster(layout)
    line = [*account.command(rootless.docker_host()), *words]
    os.execvp(line[0], line)


def environment(layout: Layout) -> dict[str, Any]:
    """Return how to reach everything, as the last `up` found it.

    Raises:
        LabError: there was no `up`.
    """
    value = read_json(layout.environment)
    if not value:
        raise LabError("the lab is not up", "make lab-up")
    return value


def shell_exports(value: dict[str, Any]) -> str:
    """Return shell commands that make docker, kubectl and helm use the lab."""
    lines = [f"export KUBECONFIG={shlex.quote(value['kubeconfig'])}"]
    folders = ":".join(dict.fromkeys(str(Path(value[name]).parent) for name in ("kubectl", "helm")))
    lines.append(f"export PATH={shlex.quote(folders)}:$PATH")
    lines.append(f"export BASE={shlex.quote(value['base_image'])}")
    return "\n".join(lines)


def _up(layout: Layout, progress: Progress, *, with_rootless: bool) -> None:
    sweep(layout)
    programs = Background(lambda: binaries.ensure(layout, progress))
    with progress.step("engine") as step:
        engine.ensure(layout, step)
    guards.ensure()
    bases.ensure(layout, progress)
    shop = images.build(layout, progress, ["shop"]) if images.SHOP.is_dir() else []
    programs.result()
    bases.ensure_static(layout)
    cluster.save_images(layout, images.outside(images.LAPTOP_ONLY, [image.name for image in images.catalogue()]))
    for image in shop:
        cluster.save(layout, image.name)
    cluster.ensure(layout, progress)
    if with_rootless:
        rootless.ensure(layout, progress)
    if account.exists():
        account.give_cluster(layout)
    images.load(layout, progress, [BASE_IMAGE, *(image.name for image in shop)])
    sample.ensure(layout, progress)
    write_json(layout.environment, _environment(layout))


def _down(layout: Layout, progress: Progress) -> None:
    layout.environment.unlink(missing_ok=True)
    with progress.step("stop the rootless engine") as step:
        step.say("stopped" if rootless.stop(layout) else "was not running")
    with progress.step("stop the cluster") as step:
        step.say("removed" if engine.answers() and cluster.remove() else "was not running")
    layout.kubeconfig.unlink(missing_ok=True)
    with progress.step("remove the guards"):
        if shutil.which("iptables"):
            guards.remove()
    with progress.step("stop the engine") as step:
        step.say("stopped" if engine.stop(layout) else "not the lab's, left alone")


def _environment(layout: Layout) -> dict[str, Any]:
    return {
        "docker_host": output("docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"),
        "kubeconfig": str(layout.kubeconfig),
        "kubectl": str(layout.kubectl),
        "helm": str(layout.helm),
        "network": NETWORK,
        "node": NODE,
        "node_ip": cluster.address(),
        "service_cidr": SERVICE_CIDR,
        "pod_cidr": POD_CIDR,
        "base_image": BASE_IMAGE,
        "trust_bundle": str(bases.trust_bundle() or ""),
        "rootless": rootless.environment() if rootless.answers() else None,
    }
