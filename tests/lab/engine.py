"""The Docker engine: the one that is there, else Debian's, started and stopped by the lab."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.lab import machine
from tests.lab.progress import Step
from tests.lab.shell import LabError, output, run, succeeds, wait_until
from tests.lab.spec import HERE, Layout
from tests.lab.store import read_json, remember, write_json, write_whole

DOCKERD_PID = Path("/var/run/docker.pid")
PID_FILES = {
    DOCKERD_PID: "dockerd",
    Path("/var/run/docker/containerd/containerd.pid"): "containerd",
}
START_SECONDS = 60


def answers() -> bool:
    """Tell whether the docker command reaches an engine."""
    return shutil.which("docker") is not None and succeeds("docker", "version", "--format", "{{.Server.Version}}")


def ensure(layout: Layout, step: Step) -> None:
    """Leave a working engine with the compose and buildx plugins behind.

    Raises:
        LabError: the engine cannot be installed or does not start.
    """
    mine = bool(read_json(layout.state).get("engine"))
    if not answers():
        machine.install(layout, "docker.io", "iptables", "nftables")
        if shutil.which("docker") is None:
            machine.install(layout, "docker-cli")
        _start(layout)
        step.say("Debian's docker.io, started")
    else:
        step.say("running" if mine else "found here, left alone")
    compose, buildx = machine.has_compose_and_buildx()
    lacking = [name for name, there in (("docker-compose", compose), ("docker-buildx", buildx)) if not there]
    if lacking:
        machine.install_newer(layout, *lacking)


def stop(layout: Layout) -> bool:
    """Stop the engine if the lab started it; tell whether it was running."""
    if not read_json(layout.state).get("engine"):
        return False
    running = answers()
    if machine.has_systemd():
        run("systemctl", "stop", "docker.socket", "docker")
    elif pid := _living(DOCKERD_PID, "dockerd"):
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not Path(f"/proc/{pid}").exists() or _zombie(pid), "the engine ends", START_SECONDS)
    _make_root_private(layout)
    remember(layout, engine=False)
    return running


def wrapper(layout: Layout) -> Path:
    """Return where the runtime wrapper lies; it is needed only where `machine.lacks_sys_resource()`."""
    return layout.engine / "runc-compat"


def configuration(wrapper_path: Path | None) -> dict[str, object]:
    """Return the daemon.json for the lab's engine, with the runtime wrapper where one is needed."""
    value: dict[str, object] = {"features": {"buildkit": True}}
    if wrapper_path is not None:
        value |= {"default-runtime": "compat", "runtimes": {"compat": {"path": str(wrapper_path)}}}
    return value


def _start(layout: Layout) -> None:
    compat = machine.lacks_sys_resource()
    if compat:
        write_whole(wrapper(layout), (HERE / "node/runc-compat").read_bytes(), 0o755)
    config = layout.engine / "daemon.json"
    write_json(config, configuration(wrapper(layout) if compat else None))
    _share_root(layout)
    if machine.has_systemd():
        run("systemctl", "start", "docker")
        remember(layout, engine=True)
        wait_until(answers, "the engine answers", START_SECONDS)
        return
    for path, name in PID_FILES.items():
        if path.exists() and not _living(path, name):
            path.unlink()
    if _living(DOCKERD_PID, "dockerd"):
        # Of an interrupted run, still busy starting.
        wait_until(answers, "the engine answers", START_SECONDS)
        return
    remember(layout, engine=True)
    path = layout.engine / "dockerd.log"
    with path.open("ab") as log:
        process = subprocess.Popen(
            ["dockerd", "--config-file", config],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
    await_start(process, answers, path)


def await_start(process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path) -> None:
    """Wait until an engine that was just started answers.

    Raises:
        LabError: it ended, or does not answer in time; the message has the end of its log.
    """

    def started() -> bool:
        if process.poll() is not None:
            lines = log.read_text(errors="replace").splitlines()[-5:]
            raise LabError("the engine ended at once:\n" + "\n".join(lines), f"all of it is in {log}")
        return ready()

    wait_until(started, f"the engine answers (its log is {log})", START_SECONDS)


def _share_root(layout: Layout) -> None:
    """Make mounts propagate between host and containers, as distributions with systemd do."""
    if output("findmnt", "-n", "-o", "PROPAGATION", "/") == "private":
        run("mount", "--make-rshared", "/")
        remember(layout, shared_root=True)


def _make_root_private(layout: Layout) -> None:
    if read_json(layout.state).get("shared_root"):
        run("mount", "--make-rprivate", "/")
        remember(layout, shared_root=False)


def _living(pid_file: Path, name: str) -> int | None:
    """Return the process id in `pid_file` if that process runs and is called `name`; after a crash it may not be."""
    try:
        pid = int(pid_file.read_text())
        return pid if Path(f"/proc/{pid}/comm").read_text().strip() == name and not _zombie(pid) else None
    except (OSError, ValueError):
        return None


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def info(field: str) -> str:
    """Return one field of `docker version`, for example `.Server.Version`."""
    return output("docker", "version", "--format", "{{" + field + "}}")


def inspect(kind: str, name: str) -> dict[str, object] | None:
    """Return what `docker KIND inspect NAME` says, or nothing if there is no such object."""
    try:
        found = json.loads(output("docker", kind, "inspect", name))
    except LabError:
        return None
    return dict(found[0])
