"""What the app's environment is, out of what a peek saw."""

from __future__ import annotations

from typing import Any

import pytest

from tpd_cluster.agent import peek as program
from tpd_cluster.agent.environment import Peek, environment_of

COMMON = {"PATH": "/usr/bin", "HOSTNAME": "orders-0", "KUBERNETES_SERVICE_HOST": "10.96.0.1"}


def peek(**values: Any) -> Peek:
    fields: dict[str, Any] = {
        "container": "app",
        "names": (),
        "prefixes": (),
        "resolved": {},
        "process": None,
        "uid": None,
        "gid": None,
        "groups": (),
        "note": "",
    }
    return Peek(**fields | values)


def test_the_process_wins_over_the_declaration() -> None:
    seen = peek(names=("A", "B", "C"), resolved={"A": "declared", "B": "declared"}, process={"A": "real", "D": "own"})
    assert environment_of(seen, COMMON) == {"A": "real", "B": "declared"}


def test_names_from_maps_and_secrets() -> None:
    resolved = COMMON | {"A": "1", "DB_HOST": "db", "CFG_X": "x", "TPD_LOG": "info"}
    assert environment_of(peek(names=("A",), resolved=resolved), COMMON) == {"A": "1"}
    assert environment_of(peek(prefixes=("",), resolved=resolved), COMMON) == {"A": "1", "DB_HOST": "db", "CFG_X": "x"}
    assert environment_of(peek(prefixes=("CFG_", "Z"), resolved=resolved), COMMON) == {"CFG_X": "x"}


def test_a_declared_name_that_the_kubelet_also_gives_is_kept() -> None:
    assert environment_of(peek(names=("PATH",), resolved={"PATH": "/app/bin"}), COMMON) == {"PATH": "/app/bin"}


def test_links_of_later_services_are_left_out() -> None:
    link = {
        "NEW_SERVICE_HOST": "10.96.1.1",
        "NEW_SERVICE_PORT": "80",
        "NEW_SERVICE_PORT_HTTP": "80",
        "NEW_PORT": "tcp://10.96.1.1:80",
        "NEW_PORT_80_TCP_ADDR": "10.96.1.1",
    }
    own = {"DB_PORT": "5432", "DB_SERVICE_HOST": "db", "NEW": "x"}
    assert environment_of(peek(prefixes=("",), resolved=COMMON | link | own), COMMON) == own


def test_messages() -> None:
    message: dict[str, Any] = {"container": "app", "names": ["A"], "prefixes": [], "resolved": {"A": "1"}}
    message |= {"process": None, "uid": None, "gid": None, "groups": [], "note": "why"}
    seen = Peek.from_json(message)
    assert seen == peek(names=("A",), resolved={"A": "1"}, note="why")
    assert "1" not in repr(seen).replace("'A'", ""), "values stay out of logs"
    for broken in (message | {"uid": "x"}, message | {"resolved": 1}, {"container": "app"}):
        with pytest.raises(ValueError):  # noqa: PT011 - any message
            Peek.from_json(broken)


def test_what_the_program_reads() -> None:
    status = "Name:\tsh\nUid:\t1000\t1001\t1000\t1000\nGid:\t0\t2000\t0\t0\nGroups:\t1 2 \n"
    assert program.identity(status) == {"uid": 1001, "gid": 2000, "groups": [1, 2]}
    assert program.parse_environ(b"A=1\0B==\0C\0\0D=\xff\0") == {"A": "1", "B": "=", "D": "\ufffd"}
    line = "1 2 8:1 /var/lib/kubelet/pods/uid/containers/app/4f2 /dev/termination-log rw - ext4 /dev/sda rw"
    assert program.is_log_of("app", line)
    assert not program.is_log_of("ap", line)
    assert not program.is_log_of("app", line.replace("/dev/termination-log", "/data"))
    assert not program.is_log_of("app", "")
