"""`docker run` in an anchor's namespace, compared with a plain one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.compose.fidelity import IMAGES, SERVER
from tests.e2e.compose.test_identity import FETCH
from tests.e2e.support.process import run, until
from tests.lab.spec import BASE_IMAGE
from tpd.compose.argv import parse_child
from tpd.compose.dockerrun import RunCommand, RunPlan, RunRequest, plan_run


@pytest.fixture
def network(stand_ins: None, label: str) -> Iterator[str]:
    name = f"cmp-{label}"
    run(["docker", "network", "create", "--subnet", "10.213.8.0/24", name])
    yield name
    run(["bash", "-c", f"docker rm -f $(docker ps -aq -f network={name} -f name={name})"], check=False)
    run(["docker", "network", "rm", name])


def planned(argv: list[str], session: str, directory: Path, **environment: str) -> RunPlan:
    command = parse_child(argv)
    assert isinstance(command, RunCommand)
    file = directory / "environment"
    plan = plan_run(command, RunRequest(session, IMAGES, environment, env_file=str(file)))
    file.write_text(plan.env_file_text)
    return plan


def fetch(network: str, name: str) -> str:
    """What the server answers to a neighbour; empty while it does not."""
    argv = ["docker", "run", "--rm", "--network", network, BASE_IMAGE, "bash", "-c", FETCH.format(name, 8080)]
    return run(argv, check=False).stdout.strip()


def test_a_detached_container_keeps_its_place(network: str, tmp_path: Path) -> None:
    (tmp_path / "server.pl").write_text(SERVER)
    argv = [
        *("docker", "run", "-d", "--name", f"{network}-app", "--network", network, "--ip", "10.213.8.77"),
        *("--network-alias", "shopfront", "-h", "apphost", "--add-host", "elsewhere:10.1.2.3", "-p", "127.0.0.1::8080"),
        *("--dns-search", "corp.example", "--sysctl", "net.ipv4.ip_unprivileged_port_start=0", "-e", "OWN=mine"),
        *("-v", f"{tmp_path}/server.pl:/server.pl:ro", "-u", "1234", BASE_IMAGE, "perl", "/server.pl", "8080", "app"),
    ]
    script = (
        "id -u; hostname; grep elsewhere /etc/hosts; cat /etc/resolv.conf; hostname -I;"
        " cat /proc/sys/net/ipv4/ip_unprivileged_port_start; env | grep OWN"
    )

    def observe(publisher: str) -> dict[str, Any]:
        names = ["shopfront", f"{network}-app", "10.213.8.77"]
        published = run(["docker", "port", publisher, "8080"]).stdout.strip().rpartition(":")[2]
        return {
            "answers": [until(partial(fetch, network, name), what=name) for name in names],
            "published": run(["bash", "-c", FETCH.format("127.0.0.1", published)]).stdout,
            "inside": run(["docker", "exec", f"{network}-app", "bash", "-c", script]).stdout,
            "command": json.loads(run(["docker", "inspect", f"{network}-app"]).stdout)[0]["Config"]["Cmd"],
        }

    run(argv)
    plain = observe(f"{network}-app")
    run(["docker", "rm", "-f", f"{network}-app"])
    plan = planned(argv, network, tmp_path, OWN="theirs", NEW="p$w # x", LINES="a\nb")
    try:
        run(plan.anchor_argv)
        run(plan.daemon_argv)
        run(plan.app_argv, env={"PATH": "/usr/bin:/bin", **plan.environment})
        assert observe(plan.anchor) == plain
        assert plain["answers"] == ["app"] * 3
        seen = json.loads(run(["docker", "inspect", f"{network}-app"]).stdout)[0]["Config"]["Env"]
        assert {"OWN=mine", "NEW=p$w # x", "LINES=a\nb"} <= set(seen)
    finally:
        run(["docker", "rm", "-f", f"{network}-app", plan.daemon, plan.anchor])


def test_a_foreground_container_gives_its_output_and_status(network: str, tmp_path: Path) -> None:
    argv = ["docker", "run", "--rm", "--network", network, BASE_IMAGE, "bash", "-c", "echo $NEW; exit 9"]
    plan = planned(argv, network, tmp_path, NEW="value")
    try:
        run(plan.anchor_argv)
        done = run(plan.app_argv, check=False)
        assert (done.returncode, done.stdout) == (9, "value\n")
    finally:
        run(["docker", "rm", "-f", plan.anchor])
