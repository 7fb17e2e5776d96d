"""`tpd status`."""

from __future__ import annotations

import typer

from tpd.cli.common import OutputFormat, command
from tpd.cli.report import Format


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("status")(status)


@command
async def status(output: OutputFormat = Format.TEXT) -> int:
    """Show every run and connection on this computer: links, intercepts, pods, counters, volumes."""
    import json

    from tpd.run.look import as_text, look
    from tpd.run.state import all_runs

    views = await look(all_runs())
    if output is Format.JSON:
        typer.echo(json.dumps({"runs": [view.as_json() for view in views]}, indent=1))
        return 0
    if not views:
        typer.echo("nothing is running")
    for view in views:
        typer.echo(as_text(view))
    return 0
