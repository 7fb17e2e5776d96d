"""`tpd images build|push|load|list`."""

from __future__ import annotations

from typing import Annotated

import typer

from tpd.cli.common import command
from tpd.cli.report import Reporter

Registry = Annotated[
    str | None,
    typer.Option("--registry", help="Registry prefix, as in registry.example.com/tools", envvar="TPD_REGISTRY"),
]
Tag = Annotated[str | None, typer.Option("--tag", help="Tag [default: tpd's version]", envvar="TPD_TAG")]
Parts = Annotated[list[str] | None, typer.Argument(help="manager, agent, daemon, anchor [default: all that apply]")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Build tpd's images and bring them to a registry or a node.", no_args_is_help=True)
    group.command("build")(build)
    group.command("push")(push)
    group.command("load")(load)
    group.command("list")(list_names)
    app.add_typer(group, name="images")


@command
def build(
    parts: Parts = None,
    base: Annotated[str | None, typer.Option("--base", help="Base image [default: the Dockerfile's]")] = None,
    registry: Registry = None,
    tag: Tag = None,
    source: Annotated[str | None, typer.Option("--source", help="A checkout of tpd's source")] = None,
    ca: Annotated[str | None, typer.Option("--ca", help="CA bundle that downloads during the build need")] = None,
    network: Annotated[str | None, typer.Option("--network", help="Network of the build, as for docker build")] = None,
) -> int:
    """Build the images with the container engine."""
    from tpd.images import build as builder
    from tpd.images.names import ALL, image_names

    report = Reporter()
    names = image_names(registry, tag)
    directory = builder.source_directory(source)
    options = ("--network", network) if network else ()
    for part in _parts(parts, ALL):
        with report.step(f"building {names.full(part)}"):
            builder.build(part, names, directory, base=base, ca=ca, options=options)
    return 0


@command
def push(parts: Parts = None, registry: Registry = None, tag: Tag = None) -> int:
    """Push the images to their registry."""
    from tpd.images import build as builder
    from tpd.images.names import ALL, image_names

    report = Reporter()
    names = image_names(registry, tag)
    for part in _parts(parts, ALL):
        with report.step(f"pushing {names.full(part)}"):
            builder.push(names.full(part), image_names(None, tag).full(part))
    return 0


@command
def load(
    target: Annotated[
        str, typer.Option("--into", help="kind[:NAME], k3d[:NAME], minikube[:NAME], or a container with containerd")
    ],
    parts: Parts = None,
    registry: Registry = None,
    tag: Tag = None,
) -> int:
    """Load the cluster's images (manager and agent) into a node that has no registry."""
    from tpd.images import build as builder
    from tpd.images.names import CLUSTER, image_names

    report = Reporter()
    names = image_names(registry, tag)
    images = [names.full(part) for part in _parts(parts, CLUSTER)]
    with report.step(f"loading {', '.join(images)} into {target}"):
        builder.load(images, target)
    return 0


@command
def list_names(registry: Registry = None, tag: Tag = None) -> int:
    """Print the images' names."""
    from tpd.images.names import ALL, image_names

    names = image_names(registry, tag)
    for part in ALL:
        typer.echo(names.full(part))
    return 0


def _parts(given: list[str] | None, default: tuple[str, ...]) -> list[str]:
    from tpd.images.names import ALL
    from tpd_core.errors import UserError

    for part in given or ():
        if part not in ALL:
            raise UserError(f"tpd has no image {part!r}", hint=f"It has: {', '.join(ALL)}.")
    return list(given or default)
