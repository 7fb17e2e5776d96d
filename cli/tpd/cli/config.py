"""`tpd config view`."""

from __future__ import annotations

import typer

from tpd.cli.common import Context, Kubeconfig, ManagerNamespace, Namespace, OutputFormat, command
from tpd.cli.report import Format
from tpd.cli.run import Registry, Tag
from tpd.kube.names import MANAGER_NAMESPACE


def register(app: typer.Typer) -> None:
    """Add the command."""
    group = typer.Typer(help="tpd's configuration.", no_args_is_help=True)
    group.command("view")(view)
    group.callback()(lambda: None)
    app.add_typer(group, name="config")


@command
def view(
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    manager_namespace: ManagerNamespace = MANAGER_NAMESPACE,
    registry: Registry = None,
    tag: Tag = None,
    output: OutputFormat = Format.TEXT,
) -> int:
    """Show what tpd would use: cluster, engine, images, directories. Asks neither cluster nor engine."""
    import json
    import os

    from tpd.engine.address import engine_address
    from tpd.images.names import ALL, image_names
    from tpd.kube.config import KUBECONFIG_DEFAULT, load_login
    from tpd.run.state import state_home
    from tpd_core.errors import TpdError

    settings: dict[str, object] = {
        "kubeconfig": kubeconfig or os.environ.get("KUBECONFIG") or KUBECONFIG_DEFAULT,
        "context": context,
        "server": None,
        "namespace": namespace,
        "manager_namespace": manager_namespace,
        "engine": None,
        "state": str(state_home()),
        "images": [image_names(registry, tag).full(part) for part in ALL],
    }
    problems = []
    try:
        login = load_login(kubeconfig, context)
        settings |= {"context": login.context, "server": login.server, "namespace": namespace or login.namespace}
    except TpdError as error:
        problems.append(error.message)
    try:
        settings["engine"] = engine_address()
    except TpdError as error:
        problems.append(error.message)
    settings["problems"] = problems
    if output is Format.JSON:
        typer.echo(json.dumps(settings, indent=1))
        return 0
    for name, value in settings.items():
        shown = ", ".join(str(item) for item in value) if isinstance(value, list) else value
        if shown:
            typer.echo(f"{name.replace('_', ' ')}: {shown}")
    return 0
