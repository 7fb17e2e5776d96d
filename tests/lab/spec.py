"""What the lab is made of: versions, names, addresses and where things lie."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

KUBERNETES = "v1.35.4"
COREDNS = "v1.14.7"
HELM = "v3.21.4"
LOCAL_PATH = "v0.0.30"
SUITE = "trixie"

NETWORK = "tpd-lab"
# Outside the pools that engines take networks from, so that no network of a rootless engine can hide the node.
SUBNET = "10.77.0.0/24"
SUBNET_FOR_CONTAINERS = "10.77.0.0/25"
ROOTLESS_ADDRESS = "10.77.0.250/24"
NODE = "tpd-lab-node"
LABEL = "tpd-lab"

SERVICE_CIDR = "10.96.0.0/16"
SERVICE_IP = "10.96.0.1"
DNS_IP = "10.96.0.10"
POD_CIDR = "10.244.0.0/16"

BASE_IMAGE = f"tpd-lab/debian:{SUITE}-slim"
NODE_IMAGE = f"tpd-lab/node:{SUITE}"
PAUSE_IMAGE = "tpd-lab/pause:1"
COREDNS_IMAGE = "tpd-lab/coredns:1"
LOCAL_PATH_IMAGE = "tpd-lab/local-path-provisioner:1"


def kubernetes_version() -> str:
    """Return the Kubernetes version to run: `K8S_VERSION`, else the tested one."""
    return os.environ.get("K8S_VERSION") or KUBERNETES


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the lab keeps what it builds and what it remembers; everything is under `root`."""

    root: Path

    @classmethod
    def default(cls) -> "Layout":
        """Return the layout below `$XDG_CACHE_HOME` (default ~/.cache)."""
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        return cls(Path(cache) / "tpd-lab")

    @property
    def binaries(self) -> Path:
        """Directories of built Go programs, one per name and version."""
        return self.root / "bin"

    @property
    def go(self) -> Path:
        """Go's module and build caches: the lab's own, so that a purge takes them and leaves the user's."""
        return self.root / "go"

    @property
    def bases(self) -> Path:
        """Root file systems made by mmdebstrap, one per content hash."""
        return self.root / "base"

    @property
    def images(self) -> Path:
        """`docker save` archives that every new node imports; mounted into it."""
        return self.root / "images"

    @property
    def node_files(self) -> Path:
        """The start script and the runtime wrapper, mounted into the node."""
        return self.root / "node"

    @property
    def engine(self) -> Path:
        """Configuration and log of the engine that the lab starts itself."""
        return self.root / "engine"

    @property
    def rootless(self) -> Path:
        """Configuration and log of the rootless engine."""
        return self.root / "rootless"

    @property
    def apt(self) -> Path:
        """Lists and archives of the packages that come from a newer Debian than the host's."""
        return self.root / "apt"

    @property
    def scratch(self) -> Path:
        """Half-done work; whatever is found here at the start is a leftover."""
        return self.root / "scratch"

    @property
    def logs(self) -> Path:
        """Output of long steps, one file per step."""
        return self.root / "logs"

    @property
    def kubeconfig(self) -> Path:
        """The cluster administrator's kubeconfig."""
        return self.root / "kubeconfig"

    @property
    def environment(self) -> Path:
        """JSON file that tells tests and scripts how to reach everything."""
        return self.root / "env.json"

    @property
    def built(self) -> Path:
        """JSON file that says from which inputs each image was built."""
        return self.root / "built.json"

    @property
    def state(self) -> Path:
        """JSON file of what the lab changed on this machine."""
        return self.root / "state.json"

    def program(self, name: str, version: str) -> Path:
        """Return the directory of the programs `name` at `version`."""
        return self.binaries / f"{name}-{version}-{platform.machine()}"

    @property
    def kubectl(self) -> Path:
        """The kubectl that matches the cluster."""
        return self.program("kubernetes", kubernetes_version()) / "kubectl"

    @property
    def helm(self) -> Path:
        """The helm that the lab built."""
        return self.program("helm", HELM) / "helm"
