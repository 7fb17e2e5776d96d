"""What commands say, and the exit codes they end with."""

from __future__ import annotations

import io
import json

import pytest
import typer
from typer.testing import CliRunner

from tpd.cli.common import command, fail
from tpd.cli.report import Format, Reporter
from tpd_core.errors import ClusterError, ConfigError, EngineError, NetworkError, TpdError, UserError, first_error


@pytest.mark.parametrize(
    ("error", "code"),
    [(UserError, 2), (ConfigError, 3), (ClusterError, 4), (NetworkError, 5), (EngineError, 6), (TpdError, 70)],
)
def test_the_category_decides_the_exit_code(error: type[TpdError], code: int) -> None:
    stream = io.StringIO()
    assert fail(Reporter(stream=stream), error("no such thing", hint="try another")) == code
    assert stream.getvalue() == "tpd: error: no such thing\n     try another\n"


def test_anything_else_is_a_bug_and_says_so() -> None:
    stream = io.StringIO()
    assert fail(Reporter(stream=stream), ZeroDivisionError("division")) == 70
    assert "bug" in stream.getvalue()
    assert "Traceback" not in stream.getvalue()


def test_in_a_group_the_user_s_error_counts() -> None:
    wanted = UserError("yours")
    group = BaseExceptionGroup("", [ValueError(), BaseExceptionGroup("", [wanted])])
    assert first_error(group) is wanted


def test_errors_and_steps_as_json() -> None:
    stream = io.StringIO()
    report = Reporter(Format.JSON, stream=stream)
    with report.step("engaging"):
        pass
    report.say("for people", "intercepting", workload="deployment/orders")
    report.error(UserError("bad", hint="good"))
    step, event, error = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (step["event"], step["name"]) == ("step", "engaging")
    assert (event["event"], event["workload"]) == ("intercepting", "deployment/orders")
    assert (error["category"], error["message"], error["hint"], error["exit_code"]) == ("user", "bad", "good", 2)


def test_a_step_that_fails_is_not_reported_as_done() -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError, match="x"), Reporter(stream=stream).step("engaging"):
        raise ValueError("x")
    assert stream.getvalue() == ""


def test_a_quiet_reporter_still_warns() -> None:
    stream = io.StringIO()
    report = Reporter(stream=stream, quiet=True)
    with report.step("a"):
        report.note("b")
    report.warn("c")
    assert stream.getvalue() == "tpd: warning: c\n"


def test_a_command_passes_its_status_on() -> None:
    app = typer.Typer()

    @app.command()
    @command
    async def run(number: int) -> int:
        if number == 9:
            raise ClusterError("nine")
        return number

    runner = CliRunner()
    assert runner.invoke(app, ["0"]).exit_code == 0
    assert runner.invoke(app, ["7"]).exit_code == 7
    assert runner.invoke(app, ["9"]).exit_code == 4


def test_help_names_every_command_without_loading_them() -> None:
    import subprocess
    import sys

    heavy = ("docker", "aiohttp", "grpc", "kubernetes")
    words = f"import sys, tpd.cli.main; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
