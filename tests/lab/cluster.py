"""The cluster: one node in a container, made anew whenever none is running."""

from collections.abc import Iterable
from pathlib import Path

from tests.lab import engine, machine
from tests.lab.progress import Progress
from tests.lab.shell import LabError, output, run, succeeds, wait_until
from tests.lab.spec import (
    BASE_IMAGE,
    COREDNS_IMAGE,
    DNS_IP,
    HERE,
    LABEL,
    LOCAL_PATH_IMAGE,
    NETWORK,
    NODE,
    NODE_IMAGE,
    PAUSE_IMAGE,
    POD_CIDR,
    SERVICE_CIDR,
    SERVICE_IP,
    SUBNET,
    SUBNET_FOR_CONTAINERS,
    Layout,
    kubernetes_version,
)
from tests.lab.store import write_whole

READY_SECONDS = 90
SYSTEM_IMAGES = (PAUSE_IMAGE, COREDNS_IMAGE, LOCAL_PATH_IMAGE, BASE_IMAGE)
DEPLOYMENTS = (("kube-system", "coredns"), ("local-path-storage", "local-path-provisioner"))


def running() -> bool:
    """Tell whether the node's container runs and has the Kubernetes version that is asked for."""
    found = engine.inspect("container", NODE)
    if found is None:
        return False
    state, config = found["State"], found["Config"]
    assert isinstance(state, dict)
    assert isinstance(config, dict)
    return bool(state["Running"]) and config["Labels"].get(LABEL) == kubernetes_version()


def ready(layout: Layout) -> bool:
    """Tell whether the API server answers and the node can run pods."""
    form = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
    try:
        return output(*kubectl(layout, "get", "node", NODE, "--output", form, "--request-timeout=5s")) == "True"
    except LabError:
        return False


def address() -> str:
    """Return the node's address on the lab's network; NodePorts are there.

    Raises:
        LabError: no node is running.
    """
    form = '{{(index .NetworkSettings.Networks "' + NETWORK + '").IPAddress}}'
    found = output("docker", "inspect", "--format", form, NODE)
    if not found:
        raise LabError("the node is not running", "make lab-up")
    return found


def ensure_network() -> None:
    """Leave the cluster's network behind: containers on it reach each other and nothing else."""
    if engine.inspect("network", NETWORK) is None:
        addresses = ("--subnet", SUBNET, "--ip-range", SUBNET_FOR_CONTAINERS)
        run("docker", "network", "create", "--internal", "--label", LABEL, *addresses, NETWORK)


def ensure(layout: Layout, progress: Progress) -> None:
    """Leave a Ready cluster with DNS and a default StorageClass behind.

    Raises:
        LabError: it does not become Ready in time.
    """
    ensure_network()
    fresh = not running()
    if fresh or not ready(layout):
        with progress.step("node") as step:
            if fresh:
                _start(layout)
            _await_ready()
            step.say(f"Kubernetes {kubernetes_version()}, {address()}")
    if fresh or not layout.kubeconfig.exists():
        content = output("docker", "exec", NODE, "cat", "/etc/kubernetes/admin.conf")
        write_whole(layout.kubeconfig, content.encode(), 0o600)
    if fresh or not succeeds(*kubectl(layout, "-n", "local-path-storage", "get", "deployment/local-path-provisioner")):
        with progress.step("DNS and volumes"):
            _apply_system(layout)


def remove() -> bool:
    """Remove the node with its data; tell whether there was one."""
    there = engine.inspect("container", NODE) is not None
    if there:
        run("docker", "rm", "--force", "--volumes", NODE)
    return there


def remove_network() -> None:
    """Remove the cluster's network, disconnecting what is still on it."""
    found = engine.inspect("network", NETWORK)
    if found is None:
        return
    containers = found.get("Containers")
    for container in containers if isinstance(containers, dict) else {}:
        run("docker", "network", "disconnect", "--force", NETWORK, container)
    run("docker", "network", "rm", NETWORK)


def kubectl(layout: Layout, *args: str | Path) -> tuple[str | Path, ...]:
    """Return a kubectl command line for this cluster."""
    return (layout.kubectl, "--kubeconfig", layout.kubeconfig, *args)


def save_images(layout: Layout, own: Iterable[str]) -> None:
    """Put the images that every cluster needs where the node finds them, and drop archives of unknown ones.

    Args:
        layout: the cache.
        own: the project's images; those that have an archive keep it.
    """
    known = {archive(layout, image).stem for image in (*SYSTEM_IMAGES, *own)}
    for file in layout.images.glob("*"):
        if file.stem not in known or file.suffix not in (".tar", ".id"):
            file.unlink()
    for image in SYSTEM_IMAGES:
        save(layout, image)


def archive(layout: Layout, image: str) -> Path:
    """Return where the archive of `image` lies."""
    return layout.images / (image.replace("/", "_").replace(":", "_") + ".tar")


def save(layout: Layout, image: str) -> Path:
    """Save an image for the node unless the archive holds it as it is; return the archive."""
    path = archive(layout, image)
    mark = path.with_suffix(".id")
    identity = output("docker", "image", "inspect", "--format", "{{.Id}}", image)
    if not (path.exists() and mark.exists() and mark.read_text() == identity):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        run("docker", "save", "--output", part, image)
        part.replace(path)
        write_whole(mark, identity.encode())
    return path


def loaded() -> dict[str, str]:
    """Return the image id that the node has of each archive, by the archive's name without suffix."""
    script = "cd /run/loaded 2>/dev/null && grep -H '' *.id || true"
    lines = output("docker", "exec", NODE, "sh", "-c", script).splitlines()
    return {name.removesuffix(".id"): identity for name, _, identity in (line.partition(":") for line in lines)}


def load(archive: Path) -> None:
    """Import an archive out of the image directory into the running node."""
    run("docker", "exec", NODE, "/opt/lab/load.sh", f"/images/{archive.name}")


def renew(layout: Layout, image: str) -> None:
    """End what runs an older build of `tpd-manager` or `tpd-agent` behind the same tag."""
    tpd = kubectl(layout, "-n", "tpd")
    if image == "tpd-manager" and succeeds(*tpd, "get", "statefulset/tpd-manager"):
        run(*tpd, "rollout", "restart", "statefulset/tpd-manager")
        run(*tpd, "rollout", "status", "statefulset/tpd-manager", f"--timeout={READY_SECONDS}s")
    if image == "tpd-agent" and succeeds(*tpd, "get", "configmap/tpd-agents"):
        run(*tpd, "annotate", "--overwrite", "configmap/tpd-agents", "tpd.dev/stop-agents=*")


def _start(layout: Layout) -> None:
    remove()
    layout.kubeconfig.unlink(missing_ok=True)
    # New files rather than changed ones: an older node may still have the directory mounted.
    layout.node_files.mkdir(parents=True, exist_ok=True)
    for file in ("start.sh", "load.sh", "runc-compat"):
        write_whole(layout.node_files / file, (HERE / "node" / file).read_bytes(), 0o755)
    programs = layout.kubectl.parent
    settings = {
        "RUNC_COMPAT": "1" if machine.lacks_sys_resource() else "0",
        "SERVICE_CIDR": SERVICE_CIDR,
        "SERVICE_IP": SERVICE_IP,
        "POD_CIDR": POD_CIDR,
        "DNS_IP": DNS_IP,
        "KUBECONFIG": "/etc/kubernetes/admin.conf",
        "PATH": "/opt/kubernetes:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }
    run(
        *("docker", "run", "--detach", "--name", NODE, "--hostname", NODE, "--privileged"),
        *("--network", NETWORK, "--label", f"{LABEL}={kubernetes_version()}"),
        *("--tmpfs", "/run", "--tmpfs", "/tmp:exec"),
        *(argument for path in ("containerd", "etcd", "kubelet") for argument in ("--volume", f"/var/lib/{path}")),
        *("--volume", f"{layout.images}:/images:ro"),
        *("--volume", f"{programs}:/opt/kubernetes:ro"),
        *("--volume", f"{layout.node_files}:/opt/lab:ro"),
        *(argument for name, value in settings.items() for argument in ("--env", f"{name}={value}")),
        *(NODE_IMAGE, "/opt/lab/start.sh"),
    )


def _await_ready() -> None:
    query = ("docker", "exec", NODE, "kubectl", "get", "node", NODE, "--output")
    form = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'

    def ready() -> bool:
        if not running():
            logs = output("docker", "logs", "--tail", "20", NODE)
            raise LabError(f"the node ended by itself: {logs}", f"docker start {NODE}; logs are in /var/log/kubernetes")
        try:
            return output(*query, form) == "True"
        except LabError:
            return False

    wait_until(ready, "the node becomes Ready", READY_SECONDS)
    wait_until(
        lambda: succeeds("docker", "exec", NODE, "test", "-e", "/run/images-imported"),
        "the node has its images",
        READY_SECONDS,
    )


def _apply_system(layout: Layout) -> None:
    run(*kubectl(layout, "apply", "-f", HERE / "manifests"))
    for namespace, name in DEPLOYMENTS:
        run(*kubectl(layout, "-n", namespace, "rollout", "status", f"deployment/{name}", f"--timeout={READY_SECONDS}s"))
