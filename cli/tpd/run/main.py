"""`tpd run`: which kind it is, and the one way out of all of them."""

from __future__ import annotations

import asyncio

from tpd.cli.report import Reporter
from tpd.compose.argv import ComposeCommand, parse_child
from tpd.compose.spec import merge_specs, parse_intercept
from tpd.run.options import RunOptions
from tpd.run.programs import Program
from tpd.run.signals import Signals
from tpd.run.state import all_runs
from tpd_core.errors import TpdError, UserError, first_error, from_category


async def run(options: RunOptions, report: Reporter) -> int:
    """Carry out a run; returns its exit status.

    Raises:
        TpdError: It could not be, and nothing of it is left.
    """
    command = parse_child(options.argv)
    specs = merge_specs(parse_intercept(text) for text in options.intercepts)
    if not specs:
        raise UserError(
            "tpd run needs at least one --intercept",
            hint="tpd run --intercept WORKLOAD -- docker compose up; for the cluster's network alone: tpd connect.",
        )
    with Signals() as signals:
        try:
            if isinstance(command, ComposeCommand):
                _require_start(command)
                stdin = None if "-" in command.files else asyncio.subprocess.DEVNULL
                async with await Program.begin(command.config_argv(), stdin=stdin) as reading:
                    # Loading takes as long as compose takes to read the project: both at once.
                    from tpd.run.compose_run import run_compose

                    return await run_compose(options, specs, command, reading, report, signals)
            from tpd.run.docker_run import run_docker

            return await run_docker(options, specs, command, report, signals)
        except asyncio.CancelledError:
            if signals.received is None:
                raise
            return 128 + signals.received
        except (TpdError, BaseExceptionGroup) as error:
            own = _own_run_in_the_way(error)
            if own is None:
                raise
            raise own from error


def _require_start(command: ComposeCommand) -> None:
    if not command.starts:
        raise UserError(
            f"`docker compose {command.subcommand}` starts nothing that could take a workload's place",
            hint=f"Run it without tpd: docker compose {command.subcommand}.",
        )


def _own_run_in_the_way(error: BaseException) -> TpdError | None:
    """A conflict with another session, where that session is the user's own, on this computer."""
    chosen = first_error(error)
    if not isinstance(chosen, TpdError):
        return None
    for _, record in all_runs():
        if any(seat.session and seat.session in chosen.message for seat in record.seats):
            hint = f"That is a run of yours on this computer: `tpd quit {record.id}` ends it."
            return from_category(chosen.category, chosen.message, hint)
    return None
