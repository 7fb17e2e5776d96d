"""`tpd helm install|upgrade|uninstall|version`."""

from __future__ import annotations

from typing import Annotated

import typer

from tpd.cli.common import Context, Kubeconfig, ManagerNamespace, command
from tpd.cli.report import Reporter
from tpd.kube.names import MANAGER_NAMESPACE, RELEASE

Set = Annotated[list[str] | None, typer.Option("--set", help="A chart value, KEY=VALUE (repeatable)")]
Values = Annotated[list[str] | None, typer.Option("--values", "-f", help="A file of chart values (repeatable)")]
CreateNamespace = Annotated[
    bool, typer.Option("--create-namespace/--no-create-namespace", help="Create the manager's namespace")
]
Timeout = Annotated[int, typer.Option("--timeout", help="Seconds to wait until the manager is ready")]
Registry = Annotated[
    str | None,
    typer.Option(
        "--registry", help="Registry prefix of tpd's images, as in registry.example.com/tools", envvar="TPD_REGISTRY"
    ),
]
Tag = Annotated[
    str | None, typer.Option("--tag", help="Tag of tpd's images [default: tpd's version]", envvar="TPD_TAG")
]
PullPolicy = Annotated[str | None, typer.Option("--pull-policy", help="Always, IfNotPresent or Never")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Install tpd's manager into a cluster.", no_args_is_help=True)
    group.command("install")(install)
    group.command("upgrade")(upgrade)
    group.command("uninstall")(uninstall)
    group.command("version")(version)
    app.add_typer(group, name="helm")


@command
def install(
    values: Values = None,
    settings: Set = None,
    registry: Registry = None,
    tag: Tag = None,
    pull_policy: PullPolicy = None,
    create_namespace: CreateNamespace = True,
    timeout: Timeout = 180,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    manager_namespace: ManagerNamespace = MANAGER_NAMESPACE,
) -> int:
    """Install the manager and wait until it is ready."""
    _apply(
        ["install"],
        create_namespace,
        _settings(settings, registry, tag, pull_policy),
        values,
        timeout,
        context,
        kubeconfig,
        manager_namespace,
    )
    return 0


@command
def upgrade(
    values: Values = None,
    settings: Set = None,
    registry: Registry = None,
    tag: Tag = None,
    pull_policy: PullPolicy = None,
    reuse_values: Annotated[bool, typer.Option("--reuse-values", help="Start from the release's own values")] = False,
    timeout: Timeout = 180,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    manager_namespace: ManagerNamespace = MANAGER_NAMESPACE,
) -> int:
    """Upgrade the manager (install it where it is missing) and wait until it is ready."""
    _apply(
        ["upgrade", "--install", *(["--reuse-values"] if reuse_values else [])],
        True,
        _settings(settings, registry, tag, pull_policy),
        values,
        timeout,
        context,
        kubeconfig,
        manager_namespace,
    )
    return 0


@command
def uninstall(
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    manager_namespace: ManagerNamespace = MANAGER_NAMESPACE,
) -> int:
    """End every session and agent, then remove the manager and all that the chart made."""
    import asyncio

    from tpd.helm.binary import Helm, find_helm
    from tpd.helm.cluster import clear_cluster, remove_crds, remove_namespace

    report = Reporter()
    helm = Helm(find_helm(), kubeconfig, context, manager_namespace)
    helm.run(["status", RELEASE])
    with report.step("ending sessions and agents"):
        asyncio.run(clear_cluster(kubeconfig, context, manager_namespace))
    with report.step(f"removing the manager from namespace {manager_namespace}"):
        helm.run(["uninstall", RELEASE, "--wait"])
        asyncio.run(remove_crds(kubeconfig, context))
        if not asyncio.run(remove_namespace(kubeconfig, context, manager_namespace)):
            report.note(f"namespace {manager_namespace} stays: tpd did not make it")
    return 0


@command
def version(
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    manager_namespace: ManagerNamespace = MANAGER_NAMESPACE,
) -> int:
    """Show the installed release."""
    import json

    from tpd.helm.binary import Helm, find_helm

    helm = Helm(find_helm(), kubeconfig, context, manager_namespace)
    releases = json.loads(helm.run(["list", "--filter", f"^{RELEASE}$", "--output", "json"]))
    if not releases:
        typer.echo(f"not installed in namespace {manager_namespace}")
        return 0
    release = releases[0]
    typer.echo(
        f"{release['name']} {release['app_version']} (chart {release['chart']}), {release['status']}, "
        f"revision {release['revision']}"
    )
    return 0


def _settings(settings: list[str] | None, registry: str | None, tag: str | None, policy: str | None) -> list[str]:
    chosen = []
    if registry is not None:
        chosen.append(f"registry={registry.rstrip('/')}/" if registry else "registry=")
    for part in ("manager", "agent"):
        if tag is not None:
            chosen.append(f"{part}.image.tag={tag}")
        if policy is not None:
            chosen.append(f"{part}.image.pullPolicy={policy}")
    return chosen + list(settings or ())


def _apply(
    arguments: list[str],
    create_namespace: bool,
    settings: list[str],
    values: list[str] | None,
    timeout: int,
    context: str | None,
    kubeconfig: str | None,
    namespace: str,
) -> None:
    import asyncio

    from tpd.helm.binary import Helm, chart, find_helm
    from tpd.helm.cluster import make_namespace

    report = Reporter()
    helm = Helm(find_helm(), kubeconfig, context, namespace)
    if create_namespace:
        asyncio.run(make_namespace(kubeconfig, context, namespace))
    with chart() as directory:
        arguments += [RELEASE, str(directory), "--wait", "--timeout", f"{timeout}s"]
        for path in values or ():
            arguments += ["--values", path]
        for setting in settings:
            arguments += ["--set", setting]
        with report.step(f"installing tpd's manager into namespace {namespace}"):
            helm.run(arguments)
