"""`tpd uninstall`."""

from __future__ import annotations

from typing import Annotated

import typer

from tpd.cli.common import Context, Kubeconfig, ManagerNamespace, Namespace, command
from tpd.cli.report import Reporter
from tpd.kube.names import MANAGER_NAMESPACE


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("uninstall")(uninstall)


@command
async def uninstall(
    workloads: Annotated[list[str] | None, typer.Argument(help="Workloads whose agents to end")] = None,
    all_agents: Annotated[bool, typer.Option("--all-agents", help="End every agent of the cluster")] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    manager_namespace: ManagerNamespace = MANAGER_NAMESPACE,
) -> int:
    """End idle agents: those of some workloads (needs pods/exec there), or all (needs rights on tpd's own namespace).

    The agents' containers end; their entries stay in the pods' specs until the pods are replaced, as Kubernetes has it
    for ephemeral containers.
    """
    from tpd.compose.spec import parse_intercept
    from tpd.kube.access import open_cluster
    from tpd.kube.agents import stop_agents_of, stop_all_agents
    from tpd_core.errors import UserError

    if bool(workloads) == all_agents:
        raise UserError("tpd uninstall takes either workloads or --all-agents")
    report = Reporter()
    async with open_cluster(kubeconfig, context) as (login, api):
        if all_agents:
            with report.step("ending all agents"):
                count = await stop_all_agents(api, manager_namespace)
            report.say(f"ended: {count} agents", "uninstalled", agents=count)
            return 0
        for text in workloads or ():
            spec = parse_intercept(text)
            with report.step(f"ending agents of {spec.workload}"):
                count = await stop_agents_of(login, api, namespace or login.namespace, spec)
            report.say(f"ended: {count} agents", "uninstalled", workload=spec.workload, agents=count)
    return 0
