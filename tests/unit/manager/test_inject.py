"""The injection patch: one golden file, and the rules behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.manager import samples
from tpd_cluster.manager import inject

GOLDEN = Path(__file__).with_name("golden") / "injection.json"
SETTINGS = inject.AgentSettings(
    image="registry.example.com/tpd-agent:1",
    pull_policy="IfNotPresent",
    enroll=("10.96.0.9:8443", "10.244.0.3:8443"),
    ca="-----BEGIN CERTIFICATE-----\nX\n-----END CERTIFICATE-----\n",
    idle_timeout=3600,
)


def agent(pod: dict[str, Any]) -> dict[str, Any]:
    return inject.agent_container(
        pod, name="tpd-agent-00001", ticket="ticket", token="token", injected=1_800_000_000, settings=SETTINGS
    )


def peek(pod: dict[str, Any]) -> dict[str, Any]:
    container = pod["spec"]["containers"][0]
    return inject.peek_container(pod, container, name="tpd-peek-00001", token="token", settings=SETTINGS)


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def test_the_whole_patch_is_as_it_was() -> None:
    """Agents of every released version read this environment: change it knowingly, and the golden file with it."""
    pod = samples.pod()
    assert inject.patch(agent(pod), peek(pod)) == json.loads(GOLDEN.read_text())


def test_the_agent_has_no_target_and_no_more_than_three_capabilities() -> None:
    made = agent(samples.pod())
    assert "targetContainerName" not in made
    assert made["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "SETGID", "SETUID"]}
    assert made["securityContext"]["runAsUser"] == 0
    assert made["securityContext"]["runAsNonRoot"] is False


def test_nothing_that_ephemeral_containers_may_not_have() -> None:
    pod = samples.pod()
    forbidden = {"resources", "ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "restartPolicy"}
    for made in (agent(pod), peek(pod)):
        assert not forbidden & made.keys()
        assert all(not {"subPath", "subPathExpr"} & mount.keys() for mount in made.get("volumeMounts", ()))


def test_every_volume_once_whole_and_read_only_only_if_all_mounts_are() -> None:
    assert agent(samples.pod())["volumeMounts"] == [
        {"name": "config", "mountPath": "/tpd/volumes/config", "readOnly": True},
        {"name": "data", "mountPath": "/tpd/volumes/data"},
    ]


def test_the_kubelet_expands_none_of_our_values() -> None:
    pod = samples.pod()
    pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"] = "/$(POD)/$HOME"
    probes = environment(agent(pod))["TPD_PROBES"]
    assert "/$$(POD)/$$HOME" in probes


def test_declarations_are_copied_as_they_are() -> None:
    made = peek(samples.pod())
    declared = {entry["name"]: entry for entry in made["env"]}
    assert declared["PLAIN"]["value"] == "costs $$5 for $(POD)"
    assert declared["SECRET"] == samples.CONTAINER["env"][2]
    assert made["envFrom"] == samples.CONTAINER["envFrom"]
    assert json.loads(declared["TPD_PEEK_NAMES"]["value"]) == ["PLAIN", "POD", "SECRET", "MEMORY"]
    assert json.loads(declared["TPD_PEEK_PREFIXES"]["value"]) == ["", "X_"]


def test_own_resources_are_the_apps_not_the_peeks() -> None:
    memory = next(entry for entry in peek(samples.pod())["env"] if entry["name"] == "MEMORY")
    assert memory["valueFrom"]["resourceFieldRef"] == {"resource": "limits.memory", "containerName": "app"}


@pytest.mark.parametrize(
    ("security", "user", "capabilities"),
    [
        ({"runAsUser": 1000, "runAsGroup": 1000}, 1000, None),
        ({"runAsUser": 1000}, 0, ["DAC_READ_SEARCH", "SYS_PTRACE"]),
        ({}, 0, ["DAC_READ_SEARCH", "SYS_PTRACE"]),
        ({"runAsUser": 0, "runAsGroup": 0}, 0, ["SYS_PTRACE"]),
    ],
)
def test_the_peek_has_the_least_that_reads_an_environment(
    security: dict[str, int], user: int, capabilities: list[str] | None
) -> None:
    pod = samples.pod()
    pod["spec"]["containers"][0]["securityContext"] = security
    made = peek(pod)["securityContext"]
    assert made["runAsUser"] == user
    assert made["capabilities"].get("add") == capabilities
    assert made["capabilities"]["drop"] == ["ALL"]
    assert made["runAsNonRoot"] is (user != 0)
