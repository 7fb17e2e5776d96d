"""A second engine, run by an ordinary user, in a network namespace that reaches the node and nothing else."""

import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

from tests.lab import account, engine, machine
from tests.lab.progress import Progress
from tests.lab.shell import LabError, output, run, succeeds
from tests.lab.spec import NETWORK, ROOTLESS_ADDRESS, Layout
from tests.lab.store import read_json, remember

NAMESPACE = "tpd-lab-rootless"
OUTSIDE, INSIDE = "tpdlabr0", "tpdlabr1"
PACKAGES = ("rootlesskit", "slirp4netns", "uidmap")
SCRIPTS = ("/usr/share/docker.io/contrib/dockerd-rootless.sh", "/usr/bin/dockerd-rootless.sh")
DEVICES = ("/dev/net/tun", "/dev/fuse")


def docker_host() -> str:
    """Return the DOCKER_HOST of the rootless engine."""
    return f"unix://{account.runtime_directory()}/docker.sock" if account.exists() else ""


def answers() -> bool:
    """Tell whether the rootless engine runs."""
    return account.exists() and succeeds("docker", "--host", docker_host(), "version")


def installed(layout: Layout) -> bool:
    """Tell whether `up --rootless` was run here."""
    return bool(read_json(layout.state).get("rootless"))


def ensure(layout: Layout, progress: Progress) -> None:
    """Leave a running rootless engine behind.

    Raises:
        LabError: it does not start.
    """
    if answers() and _connected():
        return
    with progress.step("rootless engine") as step:
        stop(layout)
        machine.install(layout, *PACKAGES)
        account.ensure(layout)
        remember(layout, rootless=True)
        for device in DEVICES:
            _open_device(layout, Path(device))
        _make_namespace()
        _start(layout)
        step.say(docker_host())


def stop(layout: Layout) -> bool:
    """Stop the rootless engine and whatever its user left running; tell whether it was running."""
    if not account.exists():
        return False
    was = answers()
    account.end_processes()
    for name in ("docker.pid", "docker.sock", "docker", "dockerd-rootless"):
        path = account.runtime_directory() / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if _namespace_exists():
        run("ip", "netns", "delete", NAMESPACE)
    succeeds("ip", "link", "delete", OUTSIDE)
    return was


def purge(layout: Layout) -> None:
    """Remove user, data and device permissions that `ensure` added."""
    stop(layout)
    account.remove(layout)
    for device, mode in read_json(layout.state).get("device_modes", {}).items():
        if Path(device).exists():
            Path(device).chmod(mode)


def environment() -> dict[str, Any]:
    """Return how an ordinary user reaches engine and cluster.

    `exec` is the beginning of a command line that runs the rest as that user, without any capability.
    """
    return {
        "docker_host": docker_host(),
        "user": account.USER,
        "uid": account.entry().pw_uid,
        "home": account.entry().pw_dir,
        "kubeconfig": str(account.kubeconfig()),
        "tpd": str(account.virtual_environment() / "bin/tpd"),
        "exec": account.command(docker_host()),
    }


def _start(layout: Layout) -> None:
    script = next((path for path in SCRIPTS if Path(path).exists()), None)
    if script is None:
        raise LabError("no dockerd-rootless.sh", "Debian's docker.io has it")
    person = account.entry()
    layout.rootless.mkdir(parents=True, exist_ok=True)
    settings = {
        "HOME": person.pw_dir,
        "USER": person.pw_name,
        "XDG_RUNTIME_DIR": str(account.runtime_directory()),
        "TMPDIR": person.pw_dir,
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
    }
    with (layout.rootless / "dockerd.log").open("ab") as log:
        process = subprocess.Popen(
            [
                *("nsenter", f"--net=/run/netns/{NAMESPACE}", "--"),
                *("setpriv", f"--reuid={person.pw_uid}", f"--regid={person.pw_gid}", "--init-groups"),
                *(script, "--iptables=true"),
            ],
            env=settings,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
    engine.await_start(process, answers, layout.rootless / "dockerd.log")


def _make_namespace() -> None:
    """Make a namespace whose only way out is a port of the cluster network's bridge: no default route."""
    network = output("docker", "network", "inspect", "--format", "{{.Id}}", NETWORK)
    run("ip", "netns", "add", NAMESPACE)
    run("ip", "link", "add", OUTSIDE, "type", "veth", "peer", "name", INSIDE, "netns", NAMESPACE)
    run("ip", "link", "set", OUTSIDE, "master", f"br-{network[:12]}", "up")
    run("ip", "-n", NAMESPACE, "link", "set", "lo", "up")
    run("ip", "-n", NAMESPACE, "address", "add", ROOTLESS_ADDRESS, "dev", INSIDE)
    run("ip", "-n", NAMESPACE, "link", "set", INSIDE, "up")


def _namespace_exists() -> bool:
    return Path("/run/netns", NAMESPACE).exists()


def _connected() -> bool:
    """Tell whether the namespace still has its port; a re-made cluster network takes it away."""
    return _namespace_exists() and "master" in output("ip", "-o", "link", "show", OUTSIDE)


def _open_device(layout: Layout, device: Path) -> None:
    mode = stat.S_IMODE(device.stat().st_mode)
    if mode != 0o666:
        modes = {str(device): mode, **read_json(layout.state).get("device_modes", {})}
        remember(layout, device_modes=modes)
        device.chmod(0o666)
