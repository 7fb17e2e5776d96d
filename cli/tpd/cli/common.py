"""What every command shares: options, and errors that end in an exit code instead of a traceback."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, ParamSpec

import typer

from tpd.cli.report import Format, Reporter
from tpd_core.errors import BugError, TpdError, first_error

P = ParamSpec("P")

Kubeconfig = Annotated[
    str | None, typer.Option("--kubeconfig", help="Path of the kubeconfig [default: KUBECONFIG, ~/.kube/config]")
]
Context = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig [default: the current one]")]
ManagerNamespace = Annotated[
    str,
    typer.Option("--manager-namespace", help="Namespace that tpd's manager lives in", envvar="TPD_MANAGER_NAMESPACE"),
]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace of the workload [default: the context's]")
]
OutputFormat = Annotated[Format, typer.Option("--format", help="How to report")]

DEBUG = "TPD_DEBUG"


def command(function: Callable[P, Coroutine[Any, Any, int | None] | int | None]) -> Callable[P, None]:
    """Make a typer command of a function, plain or async, that returns an exit code.

    A `TpdError` becomes its message, its hint and the exit code of its category; with `--debug` the traceback comes
    first. Anything else that escapes is a bug and says so.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        style = kwargs.get("output") or Format.TEXT
        reporter = Reporter(style if isinstance(style, Format) else Format.TEXT)
        try:
            outcome = function(*args, **kwargs)
            code = asyncio.run(outcome) if asyncio.iscoroutine(outcome) else outcome
        except (TpdError, BaseExceptionGroup) as error:
            code = fail(reporter, error)
        except KeyboardInterrupt:
            code = 130
        except (typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 141
        except Exception as error:
            code = fail(reporter, error)
        raise typer.Exit(int(code) if isinstance(code, int) else 0)

    # What typer reads: the coroutine's own signature, without its return type.
    return run


def fail(reporter: Reporter, error: BaseException) -> int:
    """Report why a command ends, and give its exit code."""
    chosen = first_error(error)
    if os.environ.get(DEBUG) or not isinstance(chosen, TpdError | KeyboardInterrupt):
        import traceback

        if os.environ.get(DEBUG):
            traceback.print_exception(error, file=sys.stderr)
    if isinstance(chosen, KeyboardInterrupt | asyncio.CancelledError):
        return 130
    if not isinstance(chosen, TpdError):
        chosen = BugError(
            f"unexpected {type(chosen).__name__}: {chosen}",
            hint="This is a bug in tpd. Run again with --debug and report the traceback.",
        )
    reporter.error(chosen)
    return chosen.category.exit_code
