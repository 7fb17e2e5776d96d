"""Which of the workload's volumes reach the app."""

from __future__ import annotations

import pytest

from tpd.compose.model import Bind
from tpd.compose.mounts import place, service_mounts


def targets(binds: tuple[Bind, ...], **taken: bool) -> list[str]:
    chosen, notes = place(binds, taken, "The app")
    assert len(chosen) + len(notes) == len(binds)
    return [bind.target for bind in chosen]


@pytest.mark.parametrize(
    ("target", "read_only", "users", "users_read_only", "mounted"),
    [
        ("/data", False, "/data", False, False),
        ("/data/", False, "//data/.", False, False),
        ("/data", False, "/database", False, True),
        ("/data/a", False, "/data", False, True),  # the engine makes the mount point in the user's own directory
        ("/data/a", False, "/data", True, False),  # where it cannot
        ("/data", False, "/data/mine", True, True),
        ("/data", True, "/data/mine", False, False),
        ("/a", False, "/", True, False),
    ],
)
def test_the_users_mounts_win(target: str, read_only: bool, users: str, users_read_only: bool, mounted: bool) -> None:
    chosen = targets((Bind("w/v", target, read_only),), **{users: users_read_only})
    assert bool(chosen) is mounted


def test_every_kind_of_mount_counts() -> None:
    service = {
        "volumes": [
            {"type": "volume", "target": "/a"},
            {"type": "bind", "source": "/x", "target": "/b", "read_only": True},
        ],
        "tmpfs": ["/c:size=1m"],
        "secrets": [{"source": "s"}, {"source": "t", "target": "/d"}, {"source": "t", "target": "e"}],
        "configs": [{"source": "f"}, {"source": "g", "target": "/g/h"}],
    }
    assert service_mounts(service) == {
        "/a": False,
        "/b": True,
        "/c": False,
        "/run/secrets/s": True,
        "/d": True,
        "/run/secrets/e": True,
        "/f": True,
        "/g/h": True,
    }
    assert service_mounts({"tmpfs": "/t"}) == {"/t": False}
    assert service_mounts({}) == {}
