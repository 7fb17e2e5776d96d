"""`tpd run`."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from tpd.cli.common import Context, Kubeconfig, ManagerNamespace, Namespace, OutputFormat, command
from tpd.cli.report import Format, Reporter
from tpd.kube.names import MANAGER_NAMESPACE


class Transport(enum.StrEnum):
    """How the link's bytes reach the cluster."""

    ENDPOINT = "endpoint"
    API_SERVER = "api-server"
    RELAY = "relay"


Registry = Annotated[
    str | None,
    typer.Option("--registry", help="Registry prefix of the anchor's and daemon's images", envvar="TPD_REGISTRY"),
]
Tag = Annotated[
    str | None, typer.Option("--tag", help="Tag of these images [default: tpd's version]", envvar="TPD_TAG")
]
Transports = Annotated[
    list[Transport] | None,
    typer.Option("--transport", help="Only these ways to the cluster, in this order (repeatable) [default: all]"),
]
Mount = Annotated[bool, typer.Option("--mount/--no-mount", help="Give the app the workload's volumes")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run", context_settings={"allow_interspersed_args": False})(run)


@command
async def run(
    argv: Annotated[list[str], typer.Argument(help="docker compose ... or docker run ...", metavar="-- COMMAND")],
    intercept: Annotated[
        list[str] | None,
        typer.Option("--intercept", "-i", help="Take a workload's place: W[=SERVICE][:LOCAL[:REMOTE]] (repeatable)"),
    ] = None,
    namespace: Namespace = None,
    remote: Annotated[
        list[str] | None,
        typer.Option("--remote", help="Compose services to use from the cluster: NAME[,NAME...] or all (repeatable)"),
    ] = None,
    mount: Mount = True,
    container: Annotated[
        str | None, typer.Option("--container", help="Container of the workload's pods [default: the port's]")
    ] = None,
    transport: Transports = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    manager_namespace: ManagerNamespace = MANAGER_NAMESPACE,
    registry: Registry = None,
    tag: Tag = None,
    output: OutputFormat = Format.TEXT,
) -> int:
    """Run `docker compose` or `docker run` so that a container takes a workload's place in the cluster."""
    from tpd.run.main import run as carry_out
    from tpd.run.options import ClusterOptions, ImageOptions, RunOptions

    options = RunOptions(
        cluster=ClusterOptions(kubeconfig, context, manager_namespace, namespace),
        images=ImageOptions(registry, tag),
        intercepts=tuple(intercept or ()),
        remote=tuple(name for names in remote or () for name in names.split(",") if name),
        mount=mount,
        transports=transport_kinds(transport),
        container=container,
        argv=tuple(argv),
    )
    report = Reporter(output)
    status = await carry_out(options, report)
    if output is Format.JSON:
        report.event("ended", exit_code=status)
    return status


def transport_kinds(chosen: list[Transport] | None) -> tuple[int, ...]:
    """The control protocol's numbers."""
    from tpd_core.proto import control_pb2

    kinds = {
        Transport.ENDPOINT: control_pb2.TRANSPORT_ENDPOINT,
        Transport.API_SERVER: control_pb2.TRANSPORT_API_SERVER,
        Transport.RELAY: control_pb2.TRANSPORT_RELAY,
    }
    return tuple(int(kinds[item]) for item in chosen or ())
