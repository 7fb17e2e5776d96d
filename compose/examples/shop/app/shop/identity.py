"""Who and where this process is: what makes visible which side of an intercept answered."""

import hashlib
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

#: Where a Kubernetes manifest puts the things that `orders` reads; listed by /whoami.
WATCHED_FOLDERS = (Path("/etc/shop"), Path("/data"), Path("/var/run/secrets"))
MAX_FILES = 200


@dataclass(frozen=True, slots=True)
class Place:
    """One running service.

    Attributes:
        service: Name of the service, such as ``orders``.
        origin: Free label of where it runs, such as ``cluster`` or ``laptop``.
        hostname: Name of the pod or container.
        address: Its own IP address, or an empty text when the host name does not resolve.
    """

    service: str
    origin: str
    hostname: str
    address: str

    @classmethod
    def here(cls, service: str, environ: Mapping[str, str]) -> "Place":
        """Describes this process; the label is ``ORIGIN``."""
        hostname = socket.gethostname()
        try:
            # Not POD_IP: a laptop that stands in for a pod has that variable too.
            address = socket.gethostbyname(hostname)
        except OSError:
            address = ""
        return cls(service, environ.get("ORIGIN", "somewhere"), hostname, address)

    @property
    def signature(self) -> str:
        """Short text for logs, the journal and the ``X-Answered-By`` header."""
        return f"{self.origin}/{self.hostname}"


def fingerprint(secret: str) -> str:
    """Names a secret without telling it: the first 8 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(secret.encode()).hexdigest()[:8]


def read_text(path: Path) -> str | None:
    """Reads a small text file; None when it is not there or may not be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return None


def files_seen(folders: tuple[Path, ...] = WATCHED_FOLDERS) -> dict[str, int]:
    """Lists the files in some folders with their sizes in bytes, at most `MAX_FILES` of them.

    Kubernetes keeps each version of a ConfigMap or Secret in a dated folder behind a link;
    only the names that an application would open are listed.
    """
    found: dict[str, int] = {}
    for path in _walk(folders):
        if len(found) == MAX_FILES:
            break
        try:
            found[str(path)] = path.stat().st_size
        except OSError:
            continue
    return found


def _walk(folders: tuple[Path, ...]) -> Iterator[Path]:
    for folder in folders:
        for parent, folders_below, names in os.walk(folder):
            folders_below[:] = sorted(name for name in folders_below if not name.startswith(".."))
            yield from (Path(parent, name) for name in sorted(names) if not name.startswith(".."))
