"""The host: its Debian mirror, its packages, what it lacks."""

import os
import threading
from functools import cache
from pathlib import Path

from tests.lab.shell import LabError, output, run, succeeds
from tests.lab.spec import SUITE, Layout
from tests.lab.store import read_json, remember, write_whole

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# What the namespace tests run on the host.
TOOLS = ("iproute2", "iputils-ping", "nftables", "openssh-sftp-server", "sshfs", "util-linux")
CAP_SYS_RESOURCE = 24
NONINTERACTIVE = {"DEBIAN_FRONTEND": "noninteractive"}
MACHINE_TRUST = Path("/etc/ssl/certs/ca-certificates.crt")


def require_root() -> None:
    """Raise LabError unless this process may install packages and change the firewall."""
    if os.geteuid() != 0:
        raise LabError("the lab needs root: it installs packages, starts an engine and adds firewall rules", "use sudo")


def lacks_sys_resource() -> bool:
    """Tell whether the kernel refuses CAP_SYS_RESOURCE here, so that privileged containers need the wrapper."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return not int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1
    return False


def has_systemd() -> bool:
    """Tell whether systemd runs this machine and so starts its services."""
    return Path("/run/systemd/system").is_dir()


def mirror_of(targets: str) -> str:
    """Pick the Debian mirror out of `apt-get indextargets` lines `SITE|CODENAME|ORIGIN|COMPONENT`.

    Raises:
        LabError: no line is Debian's own main archive.
    """
    for line in targets.splitlines():
        site, codename, origin, component = line.split("|")
        if origin == "Debian" and component == "main" and "-" not in codename:
            return site
    raise LabError("apt knows no Debian archive", "the lab runs on Debian with `apt-get update` done")


_apt_lock = threading.Lock()


@cache
def _refresh(log: Path) -> None:
    """Fetch the package lists, once per process: a list of last week names packages that are gone."""
    run("apt-get", "update", env=NONINTERACTIVE, log=log)


@cache
def mirror() -> str:
    """Return the address of the Debian archive that the host's apt uses."""
    form = "$(SITE)|$(CODENAME)|$(ORIGIN)|$(COMPONENT)"
    query = ("apt-get", "indextargets", "--format", form, "Created-By: Packages")
    found = output(*query)
    if not any(line.split("|")[2] == "Debian" for line in found.splitlines()):
        run("apt-get", "update", env=NONINTERACTIVE)
        found = output(*query)
    return mirror_of(found)


def installed(package: str) -> bool:
    """Tell whether a Debian package is installed."""
    try:
        return output("dpkg-query", "-W", "-f", "${db:Status-Status}", package) == "installed"
    except LabError:
        return False


def install(layout: Layout, *packages: str) -> list[str]:
    """Install those of `packages` that are missing and remember what came in, dependencies included."""
    missing = [package for package in packages if not installed(package)]
    if not missing:
        return []
    with _apt_lock:
        before = _package_names()
        log = layout.logs / "packages.log"
        _refresh(log)
        run("apt-get", "install", "-y", "--no-install-recommends", *missing, env=NONINTERACTIVE, log=log)
        remember(layout, packages=sorted(_package_names() - before))
    return missing


def install_newer(layout: Layout, *packages: str) -> list[str]:
    """Install packages from `SUITE` that the host's own release lacks, leaving its apt configuration alone."""
    missing = [package for package in packages if not installed(package)]
    if missing:
        with _apt_lock:
            _install_newer(layout, missing)
    return missing


def _install_newer(layout: Layout, missing: list[str]) -> None:
    sources = layout.apt / "sources.list"
    archives = layout.apt / "archives"
    for directory in (layout.apt / "lists/partial", archives / "partial"):
        directory.mkdir(parents=True, exist_ok=True)
    write_whole(sources, f"deb [signed-by={KEYRING}] {mirror()} {SUITE} main\n".encode())
    options = [
        f"Dir::Etc::SourceList={sources}",
        "Dir::Etc::SourceParts=/dev/null",
        f"Dir::State::Lists={layout.apt / 'lists'}",
        f"Dir::Cache::archives={archives}",
        "Dir::Cache::pkgcache=",
        "Dir::Cache::srcpkgcache=",
        "APT::Sandbox::User=root",
    ]
    apt = ["apt-get", *(argument for option in options for argument in ("-o", option))]
    log = layout.logs / "packages.log"
    run(*apt, "update", log=log)
    for package in missing:
        run(*apt, "download", package, cwd=archives, log=log)
    run("dpkg", "-i", *[next(archives.glob(f"{package}_*.deb")) for package in missing], env=NONINTERACTIVE, log=log)
    remember(layout, packages=missing)


def remove_packages(layout: Layout) -> tuple[list[str], list[str]]:
    """Purge the packages that the lab installed and that are still there.

    Returns:
        What was removed, and what was kept because something that came later depends on it.
    """
    mine = [package for package in read_json(layout.state).get("packages", []) if installed(package)]
    kept: list[str] = []
    while mine and (foreign := removals(output("apt-get", "purge", "--simulate", *mine)) - set(mine)):
        needed = _dependencies(foreign) & set(mine)
        if not needed:
            return [], [*mine, *kept]
        kept += sorted(needed)
        mine = [package for package in mine if package not in needed]
    if mine:
        run("apt-get", "purge", "-y", *mine, env=NONINTERACTIVE)
    return mine, kept


def removals(simulation: str) -> set[str]:
    """Read the packages that `apt-get purge --simulate` would remove out of what it prints."""
    lines = (line.split() for line in simulation.splitlines())
    return {words[1] for words in lines if len(words) > 1 and words[0] in ("Remv", "Purg")}


def _dependencies(packages: set[str]) -> set[str]:
    options = ("--recurse", "--no-recommends", "--no-suggests", "--no-enhances", "--no-breaks", "--no-conflicts")
    lines = output("apt-cache", "depends", "--installed", "--no-replaces", *options, *packages).splitlines()
    return {line.split()[-1].strip("<>") for line in lines}


def has_compose_and_buildx() -> tuple[bool, bool]:
    """Tell which of the two CLI plugins the docker command finds."""
    return succeeds("docker", "compose", "version"), succeeds("docker", "buildx", "version")


def _package_names() -> set[str]:
    lines = output("dpkg-query", "-W", "-f", "${Package}|${db:Status-Status}\n").splitlines()
    return {line.split("|")[0] for line in lines if line.endswith("|installed")}
