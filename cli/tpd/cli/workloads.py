"""`tpd list`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tpd.cli.common import Context, Kubeconfig, Namespace, OutputFormat, command
from tpd.cli.report import Format


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("list")(list_workloads)


@command
async def list_workloads(
    namespace: Namespace = None,
    every: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Look in all namespaces")] = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: OutputFormat = Format.TEXT,
) -> int:
    """List workloads that can be intercepted, with their ports, and who intercepts them."""
    import asyncio
    import json

    from tpd.kube.access import open_cluster
    from tpd.kube.attachments import list_attachments
    from tpd.kube.workloads import list_workloads as find

    async with open_cluster(kubeconfig, context) as (login, api):
        where = None if every else namespace or login.namespace
        found, attachments = await asyncio.gather(find(api, where), list_attachments(api, where))
    rows = [_row(item, attachments) for item in found]
    if output is Format.JSON:
        typer.echo(json.dumps({"workloads": rows}, indent=1))
        return 0
    if not rows:
        typer.echo(f"no workloads in {'any namespace' if where is None else f'namespace {where}'}")
        return 0
    table = [["NAMESPACE"] * every + ["WORKLOAD", "PORTS", "INTERCEPTED BY"]]
    for row in rows:
        by = ", ".join(f"{item['user']} (port {item['ports']}, {item['phase']})" for item in row["attachments"])
        ports = ", ".join(str(port) for port in row["ports"]) or "-"
        table.append([row["namespace"]] * every + [row["workload"], ports, by or "-"])
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0


def _row(item: dict[str, Any], attachments: list[dict[str, Any]]) -> dict[str, Any]:
    from tpd.kube.targets import pod_template

    meta = item["metadata"]
    mine = [
        attachment
        for attachment in attachments
        if attachment["metadata"]["namespace"] == meta["namespace"]
        and attachment["spec"]["workload"] == {"kind": item["kind"], "name": meta["name"]}
    ]
    containers = pod_template(item).get("spec", {}).get("containers") or []
    return {
        "namespace": meta["namespace"],
        "workload": f"{item['kind'].lower()}/{meta['name']}",
        "ports": [
            port["containerPort"]
            for container in containers
            for port in container.get("ports") or ()
            if port.get("protocol", "TCP") == "TCP"
        ],
        "attachments": [
            {
                "name": attachment["metadata"]["name"],
                "user": attachment["spec"]["user"],
                "session": attachment["spec"]["session"],
                "ports": ", ".join(str(port["containerPort"]) for port in attachment["spec"]["ports"]),
                "phase": attachment.get("status", {}).get("phase", "Pending"),
            }
            for attachment in mine
        ],
    }
