"""Building, pushing and loading images with the `docker` program."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tpd.engine.docker import docker_program
from tpd.images.names import ImageNames
from tpd_core.errors import EngineError, UserError

_CLUSTER_TOOLS = {
    "kind": ("kind", ("load", "docker-image", "{image}", "--name", "{name}")),
    "k3d": ("k3d", ("image", "import", "{image}", "--cluster", "{name}")),
    "minikube": ("minikube", ("image", "load", "{image}", "--profile", "{name}")),
}


def source_directory(given: str | None) -> Path:
    """The checkout that images are built from.

    Raises:
        UserError: There is none.
    """
    candidates = [Path(given)] if given else [Path.cwd(), *Path(__file__).resolve().parents]
    for candidate in candidates:
        if (candidate / "images" / "daemon" / "Dockerfile").is_file():
            return candidate
    raise UserError(
        f"there is no checkout of tpd at {given or Path.cwd()}: images/daemon/Dockerfile is missing",
        hint="Images are built from tpd's source: name its directory with --source.",
    )


def build(
    part: str, names: ImageNames, source: Path, *, base: str | None, ca: str | None, options: Sequence[str] = ()
) -> str:
    """Build one image; returns its name.

    Args:
        base: The base image; None takes the Dockerfile's.
        ca: A CA bundle that downloads during the build need.
        options: Further options of `docker build`.

    Raises:
        EngineError: The build failed.
    """
    image = names.full(part)
    argv = [docker_program(), "build", "--file", str(source / "images" / part / "Dockerfile"), "--tag", image]
    if base:
        argv += ["--build-arg", f"BASE={base}"]
    if ca:
        argv += ["--secret", f"id=ca,src={ca}"]
    _run([*argv, *options, str(source)], f"build {image}")
    return image


def push(image: str, built_as: str) -> None:
    """Push one image to its registry.

    Args:
        image: Its name there.
        built_as: Its name without the registry, which it gets this one from where it has only that.

    Raises:
        EngineError: The push failed.
    """
    if not _there(image) and _there(built_as):
        _run([docker_program(), "tag", built_as, image], f"tag {image}")
    _run([docker_program(), "push", image], f"push {image}")


def load(images: Sequence[str], target: str) -> None:
    """Bring images into a node's image store.

    Args:
        target: "kind[:CLUSTER]", "k3d[:CLUSTER]", "minikube[:PROFILE]", or the name of a container that runs
            containerd for a kubelet.

    Raises:
        UserError: The tool that the target needs is not installed.
        EngineError: Loading failed.
    """
    kind, _, name = target.partition(":")
    if kind in _CLUSTER_TOOLS:
        program, form = _CLUSTER_TOOLS[kind]
        path = shutil.which(program)
        if path is None:
            raise UserError(f"the program {program!r} was not found on the PATH; loading into {target!r} needs it")
        defaults = {"kind": "kind", "k3d": "k3s-default", "minikube": "minikube"}
        for image in images:
            words = [word.format(image=image, name=name or defaults[kind]) for word in form]
            _run([path, *words], f"load {image} into {target}")
        return
    _load_containerd(images, target)


def _load_containerd(images: Sequence[str], node: str) -> None:
    docker = docker_program()
    # One stream for all: layers that images share travel once.
    with subprocess.Popen([docker, "save", *images], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as save:
        done = subprocess.run(
            [docker, "exec", "-i", node, "ctr", "-n", "k8s.io", "images", "import", "-"],
            stdin=save.stdout,
            capture_output=True,
            text=True,
            check=False,
        )
        if save.stdout is not None:
            save.stdout.close()
        complaint = save.stderr.read().decode(errors="replace").strip() if save.stderr is not None else ""
    if save.returncode != 0 and complaint:
        raise EngineError(
            f"the engine cannot save {', '.join(images)}: {complaint}", hint="Build them first: `tpd images build`."
        )
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise EngineError(
            f"the images could not be loaded into container {node!r}: {words[-1] if words else done.returncode}",
            hint="The target is kind, k3d, minikube, or the name of a container that runs containerd.",
        )


def _there(image: str) -> bool:
    argv = [docker_program(), "image", "inspect", image]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def _run(argv: Sequence[str], what: str) -> None:
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        lines = done.stdout.strip().splitlines()
        hint = "\n".join(lines[-15:])
        if "build" in argv and any(word in hint for word in ("no such host", "i/o timeout", "dial tcp")):
            hint += "\nIs there no way to the base image's registry? --base names another base image."
        raise EngineError(f"could not {what}: exit status {done.returncode}", hint=hint)
