"""A compose project per test, in a directory and with a name of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.compose.fidelity import Project, build_images


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> None:
    build_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def project(stand_ins: None, tmp_path: Path, label: str) -> Iterator[Project]:
    directory = tmp_path / "project"
    directory.mkdir()
    made = Project(directory, f"cmp-{label}")
    yield made
    made.remove()
