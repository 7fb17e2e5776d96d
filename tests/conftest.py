"""Rules that hold for every tier: a skip is a failure in CI unless tests/SKIPS says why it is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SKIPS = Path(__file__).with_name("SKIPS")


def allowed_skips() -> tuple[str, ...]:
    """Beginnings of the test ids that tests/SKIPS lists."""
    lines = (line.split("  # ")[0].strip() for line in SKIPS.read_text().splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


class SkipGuard:
    """Collects the tests that were skipped without leave."""

    def __init__(self) -> None:
        self.unlisted: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if (
            report.skipped
            and not hasattr(report, "wasxfail")
            and not report.nodeid.startswith(allowed_skips() or ("\0",))
        ):
            self.unlisted.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.unlisted.append(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.unlisted and os.environ.get("CI"):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.unlisted and os.environ.get("CI"):
            terminalreporter.section("skipped without leave (list them in tests/SKIPS with the reason, or mend them)")
            for nodeid in self.unlisted:
                terminalreporter.line(nodeid)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(SkipGuard(), "tpd-skip-guard")
