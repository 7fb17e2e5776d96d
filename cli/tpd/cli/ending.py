"""`tpd quit`."""

from __future__ import annotations

from typing import Annotated

import typer

from tpd.cli.common import command
from tpd.cli.report import Reporter


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("quit")(quit_runs)


@command
async def quit_runs(
    names: Annotated[list[str] | None, typer.Argument(help="Names as `tpd status` shows them [default: all]")] = None,
    strays: Annotated[
        bool, typer.Option("--strays", help="Also remove tpd's containers whose run is not recorded here")
    ] = False,
) -> int:
    """End runs and connections: give the traffic back, remove tpd's containers, forget."""
    import asyncio

    from tpd.engine.docker import Engine
    from tpd.run.end import end_run
    from tpd.run.end import strays as find_strays
    from tpd.run.frame import remove_containers
    from tpd.run.state import all_runs
    from tpd_core.errors import EngineError, UserError

    report = Reporter()
    runs = all_runs()
    known = {record.id for _, record in runs}
    for name in names or ():
        if name not in known:
            listed = f"There is: {', '.join(sorted(known))}." if known else "Nothing is running."
            raise UserError(f"no run or connection is called {name!r}", hint=listed)
    chosen = [(directory, record) for directory, record in runs if not names or record.id in names]
    for directory, record in chosen:
        with report.step(f"ending {record.id}"):
            await end_run(directory, record, report)
    left: dict[str, int] = {}
    if not names:
        try:
            with Engine() as engine:
                left = await asyncio.to_thread(find_strays, engine, known)
                for run in left if strays else ():
                    with report.step(f"removing containers of {run}"):
                        await asyncio.to_thread(remove_containers, engine, run)
        except EngineError:
            if strays:
                raise
    if left and not strays:
        report.note(f"containers of runs that are not recorded here remain ({', '.join(left)}): `tpd quit --strays`")
    if not chosen and not left:
        report.note("nothing was running")
    return 0
