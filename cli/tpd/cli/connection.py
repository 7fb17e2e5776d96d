"""`tpd connect`, `tpd intercept` and `tpd leave`."""

from __future__ import annotations

from typing import Annotated

import typer

from tpd.cli.common import Context, Kubeconfig, ManagerNamespace, Namespace, OutputFormat, command
from tpd.cli.report import Format, Reporter
from tpd.cli.run import Registry, Tag, Transports, transport_kinds
from tpd.kube.names import MANAGER_NAMESPACE


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("connect")(connect)
    app.command("intercept", context_settings={"allow_interspersed_args": True})(intercept)
    app.command("leave")(leave)


@command
async def connect(
    name: Annotated[str, typer.Option("--name", help="Name of the connection")] = "default",
    namespace: Namespace = None,
    publish: Annotated[
        list[str] | None, typer.Option("--publish", "-p", help="Publish a port, as for docker run (repeatable)")
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option("--network", help="Join another docker network too (repeatable)")
    ] = None,
    transport: Transports = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    manager_namespace: ManagerNamespace = MANAGER_NAMESPACE,
    registry: Registry = None,
    tag: Tag = None,
    output: OutputFormat = Format.TEXT,
) -> int:
    """Connect to a cluster without an app: containers may join, `tpd intercept` takes workloads' places."""
    from tpd.run.connect import connect as carry_out
    from tpd.run.options import ClusterOptions, ImageOptions

    return await carry_out(
        name,
        ClusterOptions(kubeconfig, context, manager_namespace, namespace),
        ImageOptions(registry, tag),
        [f"--publish={port}" for port in publish or ()],
        tuple(network or ()),
        transport_kinds(transport),
        Reporter(output),
    )


@command
async def intercept(
    workload: Annotated[str, typer.Argument(help="The workload, as in orders or deployment/orders")],
    argv: Annotated[list[str] | None, typer.Argument(help="docker run ...", metavar="[-- COMMAND]")] = None,
    port: Annotated[
        list[str] | None,
        typer.Option("--port", "-p", help="LOCAL[:REMOTE] (repeatable) [default: the workload's only port]"),
    ] = None,
    use: Annotated[str | None, typer.Option("--use", help="Name of the connection [default: the only one]")] = None,
    namespace: Namespace = None,
    container: Annotated[str | None, typer.Option("--container", help="Container of the workload's pods")] = None,
    env_file: Annotated[
        str | None, typer.Option("--env-file", "-e", help="Write the workload's environment there, for docker run")
    ] = None,
    registry: Registry = None,
    tag: Tag = None,
    output: OutputFormat = Format.TEXT,
) -> int:
    """Take a workload's place on a connection, with a container that joins it."""
    from tpd.compose.spec import merge_specs, parse_intercept
    from tpd.run.intercept import connection
    from tpd.run.intercept import intercept as carry_out
    from tpd.run.options import ImageOptions

    texts = [f"{workload}:{pair}" for pair in port or ()] or [workload]
    (spec,) = merge_specs(parse_intercept(text) for text in texts)
    _, record = connection(use)
    return await carry_out(
        record, spec, namespace, container, env_file, argv or [], ImageOptions(registry, tag), Reporter(output)
    )


@command
async def leave(
    workload: Annotated[str, typer.Argument(help="The workload, or the attachment's name")],
    use: Annotated[
        str | None, typer.Option("--use", help="Name of the run or connection [default: the one that has it]")
    ] = None,
    namespace: Namespace = None,
) -> int:
    """End an intercept and keep the rest."""
    from tpd.run.leave import find_held, give_back

    report = Reporter()
    held = await find_held(workload, namespace, use)
    with report.step(f"giving {held.workload} in {held.namespace} back"):
        await give_back(held)
    return 0
