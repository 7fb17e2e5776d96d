"""What a run remembers, and who keeps it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tpd.kube.targets import Target, TargetPort
from tpd.run.seat import SeatPlan
from tpd.run.state import AppRecord, AttachmentRecord, RunDirectory, RunRecord, SeatRecord, all_runs, run_directory


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def record(name: str = "one", started: float = 1.0) -> RunRecord:
    attachment = AttachmentRecord("shop", "orders-x", "uid", "deployment/orders", "app", [(8080, 80)])
    seat = SeatRecord("one", "one", "tpd-anchor", "tpd-daemon", ["orders"], attachments=[attachment])
    seat.apps.append(AppRecord("orders", "deployment/orders", ["/etc/app"], {"1f": "mark"}))
    return RunRecord(name, "run", 1, started, ["docker"], "lab", None, "tpd", "shop", "unix:///x", True, seats=[seat])


def test_a_record_survives_the_disk() -> None:
    directory = run_directory("one").create()
    directory.write(record())
    read = directory.read()
    assert read is not None
    assert dataclasses.asdict(read) | {"seats": None} == dataclasses.asdict(record()) | {"seats": None}
    assert read.seats[0].attachments[0].name == "orders-x"
    assert read.seats[0].apps == record().seats[0].apps


def test_everything_is_private() -> None:
    directory = run_directory("one").create()
    directory.write(record())
    directory.write_private(directory.compose_file, "{}")
    assert directory.path.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.path.iterdir()} == {0o600}


def test_one_keeper_at_a_time() -> None:
    mine = run_directory("one").create()
    assert mine.take()
    other = RunDirectory(mine.path)
    assert other.kept()
    assert not other.take()
    mine.release()
    assert not other.kept()
    assert other.take()
    other.release()


def test_runs_are_listed_by_age_and_broken_ones_removed() -> None:
    for name, started in (("late", 2.0), ("early", 1.0)):
        run_directory(name).create().write(record(name, started))
    broken = run_directory("broken").create()
    (broken.path / "run.json").write_text("{")
    assert [item.id for _, item in all_runs()] == ["early", "late"]
    assert not broken.path.exists()


def test_a_run_that_is_just_beginning_is_left_alone() -> None:
    beginning = run_directory("beginning").create()
    beginning.take()
    assert all_runs() == []
    assert beginning.path.exists()
    beginning.remove()


def test_what_a_daemon_is_for_survives_the_disk() -> None:
    target = Target("Deployment", "orders", "shop", "app", ((TargetPort("http", 80, ("orders:80",)), 8080),))
    plan = SeatPlan("shop", (target,), True, (1, 3), ("10.0.0.53",), ("db",), ("web",))
    directory = run_directory("one").create()
    kept = record()
    kept.seats[0].plan = dataclasses.asdict(plan)
    directory.write(kept)
    read = directory.read()
    assert read is not None
    assert SeatPlan.from_json(read.seats[0].plan) == plan
