"""The `tpd` program."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from tpd.cli import config, connection, ending, helm, images, run, status, uninstall, version, workloads
from tpd.cli.common import DEBUG
from tpd.run.environment import quiet_grpc

app = typer.Typer(
    name="tpd",
    help="Work on one service of a Kubernetes application from your laptop.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks with errors")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", help="Show tpd's version and exit", is_eager=True, callback=version.show_client)
    ] = False,
) -> None:
    """Options of every command."""
    if debug:
        os.environ[DEBUG] = "1"


run.register(app)
connection.register(app)
workloads.register(app)
status.register(app)
ending.register(app)
helm.register(app)
images.register(app)
uninstall.register(app)
config.register(app)
version.register(app)


def main() -> None:
    """The console script."""
    quiet_grpc()
    app(prog_name="tpd")


if __name__ == "__main__":
    main()
