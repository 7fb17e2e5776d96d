"""Images that no registry is needed for: Debian by mmdebstrap, and single static programs."""

import io
import os
import tarfile
from pathlib import Path

from tests.lab import engine, machine
from tests.lab.progress import Progress
from tests.lab.shell import run
from tests.lab.spec import (
    BASE_IMAGE,
    COREDNS,
    COREDNS_IMAGE,
    HERE,
    LABEL,
    LOCAL_PATH,
    LOCAL_PATH_IMAGE,
    NODE_IMAGE,
    PAUSE_IMAGE,
    SUITE,
    Layout,
)
from tests.lab.store import digest, workspace

NODE_PACKAGES = (
    *("containerd", "containernetworking-plugins", "etcd-server", "runc"),
    *("conntrack", "ethtool", "iproute2", "iptables", "iputils-ping", "kmod", "nftables", "socat"),
    *("ca-certificates", "curl", "jq", "mount", "openssl", "procps", "python3-minimal", "util-linux"),
)
UNUSED = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")


def ensure(layout: Layout, progress: Progress) -> None:
    """Leave the Debian bases in the engine; build or import only what is missing."""
    _debian(layout, progress, BASE_IMAGE, ())
    _debian(layout, progress, NODE_IMAGE, NODE_PACKAGES)


def ensure_static(layout: Layout) -> None:
    """Leave the images of pause, CoreDNS and the volume provisioner in the engine; needs the Go programs."""
    coredns = layout.program("coredns", COREDNS) / "coredns"
    provisioner = layout.program("local-path-provisioner", LOCAL_PATH) / "local-path-provisioner"
    _static(COREDNS_IMAGE, coredns, COREDNS)
    _static(LOCAL_PATH_IMAGE, provisioner, LOCAL_PATH)
    mark = digest(HERE / "node/pause.c")
    if not _has(PAUSE_IMAGE, mark):
        with workspace(layout, "pause") as work:
            machine.install(layout, "gcc", "libc6-dev")
            run("gcc", "-static", "-Os", "-s", "-o", work / "pause", HERE / "node/pause.c")
            _static(PAUSE_IMAGE, work / "pause", mark)


def _debian(layout: Layout, progress: Progress, image: str, packages: tuple[str, ...]) -> None:
    mark = digest(SUITE, *packages, *UNUSED)
    if _has(image, mark):
        return
    archive = layout.bases / f"{image.replace('/', '-').replace(':', '-')}-{mark}.tar"
    with progress.step(f"image {image}") as step:
        if archive.exists():
            step.say("from the cache")
        else:
            _bootstrap(layout, archive, packages)
        run("docker", "import", "-c", f"LABEL {LABEL}={mark}", "-c", 'CMD ["bash"]', archive, image)


def _bootstrap(layout: Layout, archive: Path, packages: tuple[str, ...]) -> None:
    machine.install(layout, "mmdebstrap", "debian-archive-keyring")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with workspace(layout, "debian") as work:
        part = work / "root.tar"
        # In a mount namespace of its own, so that a killed run leaves no mounts behind in the cache.
        run(
            *("unshare", "--mount", "--propagation", "private"),
            *("mmdebstrap", "--format=tar", "--variant=minbase"),
            *([f"--include={','.join(packages)}"] if packages else []),
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in UNUSED),
            *(SUITE, part, machine.mirror()),
            env={"TMPDIR": str(work)},
            log=layout.logs / "mmdebstrap.log",
        )
        part.rename(archive)


def _static(image: str, program: Path, mark: str) -> None:
    """Make an image of one static program, which is its entry point."""
    if _has(image, mark):
        return
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.add(program, arcname=program.name)
    changes = ["-c", f'ENTRYPOINT ["/{program.name}"]', "-c", f"LABEL {LABEL}={mark}"]
    run("docker", "import", *changes, "-", image, stdin=data.getvalue())


def _has(image: str, mark: str) -> bool:
    config = (engine.inspect("image", image) or {}).get("Config")
    return isinstance(config, dict) and (config.get("Labels") or {}).get(LABEL) == mark


def trust_bundle() -> Path | None:
    """Return the certificates that this machine trusts, for builds that fetch packages through its proxy."""
    path = Path(os.environ.get("SSL_CERT_FILE") or machine.MACHINE_TRUST)
    return path if path.is_file() else None
