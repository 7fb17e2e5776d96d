"""`tpd version`."""

from __future__ import annotations

from typing import Annotated

import typer

from tpd.cli.common import Context, Kubeconfig, ManagerNamespace, OutputFormat, command
from tpd.cli.report import Format
from tpd.kube.names import MANAGER_NAMESPACE


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("version")(version)


def show_client(wanted: bool) -> None:
    """The option `--version`."""
    if wanted:
        from tpd.version import client_version

        typer.echo(client_version())
        raise typer.Exit


@command
async def version(
    client: Annotated[bool, typer.Option("--client", help="Only the client's version; asks no cluster")] = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    manager_namespace: ManagerNamespace = MANAGER_NAMESPACE,
    output: OutputFormat = Format.TEXT,
) -> int:
    """Show the versions of tpd and of its manager in the cluster."""
    import json

    from tpd.version import client_version

    status = 0
    versions: dict[str, str | None] = {"client": client_version()}
    if not client:
        from tpd.kube.access import open_cluster
        from tpd.kube.manager import manager_version
        from tpd_core.errors import TpdError

        try:
            async with open_cluster(kubeconfig, context) as (_, api):
                versions["manager"] = await manager_version(api, manager_namespace)
        except TpdError as error:
            versions["manager"] = None
            versions["problem"] = error.message
            status = error.category.exit_code
    if output is Format.JSON:
        typer.echo(json.dumps(versions))
        return status
    typer.echo(f"client:  {versions['client']}")
    if not client:
        typer.echo(
            f"manager: {versions['manager'] or 'unknown (' + str(versions.get('problem', 'not installed')) + ')'}"
        )
    return status
