"""The ordinary user of the rootless engine, with its own installation of the project's command line."""

import contextlib
import os
import pwd
import shutil
import signal
from pathlib import Path

from tests.lab.shell import LabError, run, succeeds, wait_until
from tests.lab.spec import REPOSITORY, Layout
from tests.lab.store import digest, read_json, remember, write_whole

USER = "tpdlab"
SUBORDINATE_IDS = 65536
PYTHON = Path("/usr/bin/python3")
END_SECONDS = 20


def exists() -> bool:
    """Tell whether the user exists."""
    return any(person.pw_name == USER for person in pwd.getpwall())


def entry() -> pwd.struct_passwd:
    """Return the user's entry in the password database."""
    return pwd.getpwnam(USER)


def runtime_directory() -> Path:
    """Return the user's XDG_RUNTIME_DIR."""
    return Path(f"/run/user/{entry().pw_uid}")


def kubeconfig() -> Path:
    """Return the user's own copy of the cluster's kubeconfig."""
    return Path(entry().pw_dir) / "kubeconfig"


def virtual_environment() -> Path:
    """Return where the user's installation of the project is."""
    return Path(entry().pw_dir) / "tpd"


def ensure(layout: Layout) -> None:
    """Leave the user with subordinate ids, home and runtime directory behind."""
    if not exists():
        run("useradd", "--create-home", "--shell", "/bin/bash", USER)
        remember(layout, user=USER)
    for option, file in (("--add-subuids", "/etc/subuid"), ("--add-subgids", "/etc/subgid")):
        lines = Path(file).read_text().splitlines() if Path(file).exists() else []
        if not any(line.startswith(f"{USER}:") for line in lines):
            first = free_range(lines)
            run("usermod", option, f"{first}-{first + SUBORDINATE_IDS - 1}", USER)
    runtime = runtime_directory()
    runtime.mkdir(parents=True, exist_ok=True)
    os.chown(runtime, entry().pw_uid, entry().pw_gid)
    runtime.chmod(0o700)


def free_range(lines: list[str]) -> int:
    """Return the first subordinate id after all those that lines `NAME:FIRST:COUNT` give away."""
    ends = [int(line.split(":")[1]) + int(line.split(":")[2]) for line in lines if line.count(":") == 2]
    return max([100000, *ends])


def give_cluster(layout: Layout) -> None:
    """Give the user kubeconfig, kubectl and helm, where the user can read them."""
    write_whole(kubeconfig(), layout.kubeconfig.read_bytes(), 0o600)
    os.chown(kubeconfig(), entry().pw_uid, entry().pw_gid)
    for program in (layout.kubectl, layout.helm):
        target = Path(entry().pw_dir) / "bin" / program.name
        target.parent.mkdir(exist_ok=True)
        if not target.exists() or target.stat().st_size != program.stat().st_size:
            shutil.copy(program, target)


def install_project(layout: Layout) -> None:
    """Install the project for the user, out of the checkout; does nothing if it is installed as it is."""
    uv = REPOSITORY / ".venv/bin/uv"
    place = virtual_environment()
    mark = place / "installed"
    requirements = digest(REPOSITORY / "pyproject.toml")
    wanted = digest(requirements, *(REPOSITORY / name for name in ("core", "cli", "cluster")))
    have = mark.read_text().split() if mark.exists() else []
    if have == [requirements, wanted]:
        return
    log = layout.logs / "user.log"
    mark.unlink(missing_ok=True)
    fresh = have[:1] != [requirements]
    if fresh:
        run(uv, "venv", "--clear", "--python", PYTHON, place, log=log)
    install = (uv, "pip", "install", "--python", place / "bin/python", "--link-mode", "copy")
    only = () if fresh else ("--no-deps",)
    run(*install, *only, "--reinstall-package", "tpd-k8s", REPOSITORY, log=log)
    write_whole(mark, f"{requirements} {wanted}\n".encode())


def command(docker_host: str) -> list[str]:
    """Return the beginning of a command line that runs the rest as the user: no capability, none to be had."""
    person = entry()
    path = f"{virtual_environment()}/bin:{person.pw_dir}/bin:/usr/local/bin:/usr/bin:/bin"
    return [
        *("setpriv", f"--reuid={person.pw_uid}", f"--regid={person.pw_gid}", "--init-groups"),
        *("--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"),
        *("env", "--ignore-environment", f"HOME={person.pw_dir}", f"USER={USER}", "LANG=C.UTF-8", "TERM=xterm"),
        *(f"PATH={path}", f"XDG_RUNTIME_DIR={runtime_directory()}", f"DOCKER_HOST={docker_host}"),
        f"KUBECONFIG={kubeconfig()}",
    ]


def end_processes() -> None:
    """End every process of the user and of its containers."""
    for number, seconds in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, END_SECONDS)):
        for pid in _processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        try:
            wait_until(lambda: not _processes(), f"the processes of {USER} end", seconds)
        except LabError:
            if number == signal.SIGKILL:
                raise
        else:
            return


def remove(layout: Layout) -> None:
    """Remove the user with everything that is theirs, if the lab added the user."""
    if exists() and read_json(layout.state).get("user") == USER:
        runtime = runtime_directory()
        shutil.rmtree(runtime, ignore_errors=True)
        shutil.rmtree(entry().pw_dir, ignore_errors=True)
        succeeds("userdel", "--remove", USER)
    remember(layout, user="")


def _processes() -> list[int]:
    """Return the processes whose real user is the user or one of its subordinate ids."""
    lines = Path("/etc/subuid").read_text().splitlines()
    ranges = [(int(first), int(count)) for name, first, count in (line.split(":") for line in lines) if name == USER]
    mine = entry().pw_uid
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            status = dict(
                line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line
            )
            uid = int(status["Uid"].split()[0])
            if status["State"][0] != "Z" and (uid == mine or any(a <= uid < a + n for a, n in ranges)):
                found.append(int(process.name))
    return found
