"""The project's own images: built from its Dockerfiles on the lab's base, brought to the node and the engines."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.lab import bases, cluster, rootless
from tests.lab.progress import Progress
from tests.lab.shell import LabError, output, run, succeeds
from tests.lab.spec import BASE_IMAGE, REPOSITORY, Layout
from tests.lab.store import digest, read_json, workspace, write_json

SHOP = REPOSITORY / "compose/examples/shop"
# Where an image of the product runs; what is not named here runs on both sides.
CLUSTER_ONLY = ("tpd-agent", "tpd-manager")
LAPTOP_ONLY = ("tpd-anchor", "tpd-daemon")
SOURCES = ("core", "cli", "cluster", "pyproject.toml", ".dockerignore")


@dataclass(frozen=True, slots=True)
class Image:
    """One image to build.

    Attributes:
        name: name and tag.
        group: "product" or "shop".
        context: directory that the build may copy from.
        dockerfile: what to build.
        inputs: files and trees whose content decides whether it must be built again.
    """

    name: str
    group: str
    context: Path
    dockerfile: Path
    inputs: tuple[Path, ...]

    def called(self, name: str) -> bool:
        """Tell whether a user who says `name` means this image: its group, tpd-agent:0.1.0, tpd-agent or agent."""
        short = self.name.split(":")[0]
        return name in (self.group, self.name, short, short.removeprefix("tpd-"), short.removeprefix("tpd-shop-"))


def version(pyproject: str) -> str:
    """Read the project's version out of the text of its pyproject.toml."""
    found = re.search(r'^version = "([^"]+)"', pyproject, re.MULTILINE)
    if found is None:
        raise LabError("pyproject.toml has no version")
    return found.group(1)


def catalogue() -> list[Image]:
    """Return every image that the repository can build now."""
    tag = version((REPOSITORY / "pyproject.toml").read_text())
    sources = tuple(REPOSITORY / name for name in SOURCES if (REPOSITORY / name).exists())
    product = [
        Image(f"tpd-{file.parent.name}:{tag}", "product", REPOSITORY, file, (file.parent, *sources))
        for file in sorted((REPOSITORY / "images").glob("*/Dockerfile"))
    ]
    listed = (SHOP / "images.txt").read_text() if (SHOP / "images.txt").exists() else ""
    shop = [
        Image(name, "shop", SHOP / folder, SHOP / folder / "Dockerfile", (SHOP / folder,))
        for name, folder in parse_list(listed)
    ]
    return product + shop


def parse_list(text: str) -> list[tuple[str, str]]:
    """Read lines `NAME:TAG FOLDER`; `#` begins a comment."""
    lines = (line.split("#")[0].split() for line in text.splitlines())
    return [(line[0], line[1]) for line in lines if line]


def choose(images: Sequence[Image], names: Sequence[str]) -> list[Image]:
    """Return the images that `names` mean, all of them without names.

    Raises:
        LabError: a name means none.
    """
    for name in names:
        if not any(image.called(name) for image in images):
            known = ", ".join(image.name for image in images) or "none yet"
            raise LabError(f"no image is called {name!r}", f"images: {known}; groups: product, shop")
    return [image for image in images if not names or any(image.called(name) for name in names)]


def ensure(layout: Layout, progress: Progress, names: Sequence[str] = ()) -> list[Image]:
    """Build what changed and load it wherever it is missing; return the images."""
    chosen = build(layout, progress, names)
    load(layout, progress, [image.name for image in chosen])
    return chosen


def build(layout: Layout, progress: Progress, names: Sequence[str] = ()) -> list[Image]:
    """Build those of the chosen images whose inputs changed since they were last built."""
    chosen = choose(catalogue(), names)
    marks = {image.name: digest(BASE_IMAGE, _identity(BASE_IMAGE), image.dockerfile, *image.inputs) for image in chosen}
    built = read_json(layout.built)
    stale = [image for image in chosen if built.get(image.name) != f"{marks[image.name]} {_identity(image.name)}"]
    if stale:
        with ThreadPoolExecutor(max_workers=2) as pool:
            for done in [pool.submit(_build, layout, progress, image) for image in stale]:
                done.result()
        built |= {image.name: f"{marks[image.name]} {_identity(image.name)}" for image in stale}
        write_json(layout.built, built)
    return chosen


def load(layout: Layout, progress: Progress, names: Sequence[str]) -> None:
    """Bring images to the node and to the rootless engine, as far as those run and do not have them yet."""
    if cluster.running():
        known = cluster.loaded()
        for name in outside(LAPTOP_ONLY, names):
            archive = cluster.save(layout, name)
            if known.get(archive.stem) != archive.with_suffix(".id").read_text():
                with progress.step(f"load {name} into the node"):
                    cluster.load(archive)
                    cluster.renew(layout, name.split(":")[0])
    if rootless.answers():
        host = rootless.docker_host()
        for name in outside(CLUSTER_ONLY, names):
            if _identity(name, host) != _identity(name):
                with progress.step(f"load {name} into the rootless engine"), workspace(layout, "load") as work:
                    run("docker", "save", "--output", work / "image.tar", name)
                    run("docker", "--host", host, "load", "--input", work / "image.tar")


def outside(elsewhere: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return those of `names` (with tags) that are not called as one of `elsewhere` (without)."""
    return [name for name in names if name.split(":")[0] not in elsewhere]


def _build(layout: Layout, progress: Progress, image: Image) -> None:
    before = _identity(image.name)
    trust = bases.trust_bundle()
    with progress.step(f"image {image.name}") as step:
        run(
            *("docker", "build", "--network", "host", "--build-arg", f"BASE={BASE_IMAGE}"),
            *(("--secret", f"id=ca,src={trust}") if trust else ()),
            *("--progress", "plain", "--tag", image.name, "--file", image.dockerfile, image.context),
            env={"DOCKER_BUILDKIT": "1"},
            log=layout.logs / f"build-{image.name.split(':')[0]}.log",
        )
        after = _identity(image.name)
        if before and before != after:
            # The old one has lost its name; it stays only while a container uses it.
            succeeds("docker", "image", "rm", before)
        step.say("unchanged" if before == after else "new")


def _identity(image: str, host: str | None = None) -> str:
    """Return the id of an image in an engine, or nothing if it is not there."""
    where = ("--host", host) if host else ()
    try:
        return output("docker", *where, "image", "inspect", "--format", "{{.Id}}", image)
    except LabError:
        return ""


def remove(images: Sequence[str]) -> None:
    """Remove images from the engine, as far as no container uses them."""
    there = [image for image in images if _identity(image)]
    if there:
        succeeds("docker", "image", "rm", *there)
