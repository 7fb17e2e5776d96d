"""Files of the cache: what the lab remembers, content hashes, results that appear whole or not at all."""

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab.shell import LabError
from tests.lab.spec import Layout

# One lab per machine, wherever its cache is: containers and firewall rules have fixed names.
LOCK = Path("/run/tpd-lab.lock")


def write_whole(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.chmod(mode)
    part.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`; an empty one if it is missing or was cut short."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: dict[str, Any], mode: int = 0o644) -> None:
    """Write a JSON object with `write_whole`."""
    write_whole(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode(), mode)


def remember(layout: Layout, **facts: Any) -> None:
    """Add to what the lab changed on this machine; lists grow, other values are replaced."""
    state = read_json(layout.state)
    for key, value in facts.items():
        if isinstance(value, list):
            state[key] = sorted({*state.get(key, []), *value})
        else:
            state[key] = value
    write_json(layout.state, state)


def digest(*parts: str | bytes | Path) -> str:
    """Return 12 hex digits that change when any of the strings, or the content of any file or tree, changes."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            for file in _files(part):
                total.update(str(file.relative_to(part) if file != part else file.name).encode() + b"\0")
                total.update(hashlib.sha256(file.read_bytes()).digest())
        else:
            data = part.encode() if isinstance(part, str) else part
            total.update(hashlib.sha256(data).digest())
    return total.hexdigest()[:12]


def _files(root: Path) -> Iterable[Path]:
    if root.is_file():
        return [root]
    return sorted(
        file
        for file in root.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith(".")
    )


@contextmanager
def workspace(layout: Layout, name: str) -> Iterator[Path]:
    """Give a directory for half-done work on the cache's own file system, so that results can be renamed out."""
    layout.scratch.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix=name + "-", dir=layout.scratch))
    try:
        yield path
    finally:
        remove_tree(path)


def remove_tree(path: Path) -> None:
    """Remove a directory; never descends into something mounted inside it.

    Raises:
        LabError: something is still mounted there.
    """
    real = str(path.resolve())
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    inside = [mount for mount in mounts if mount == real or mount.startswith(real + "/")]
    if inside:
        raise LabError(f"{inside[0]} is still mounted, so {path} is not removed", f"umount {inside[0]}")
    shutil.rmtree(path, ignore_errors=True)


def sweep(layout: Layout) -> None:
    """Remove what an earlier run left half done."""
    if layout.scratch.is_dir():
        remove_tree(layout.scratch)


@contextmanager
def exclusive(tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the lab's lock, waiting for another lab command to end; the kernel releases it if this process dies."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("waiting for another lab command to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
