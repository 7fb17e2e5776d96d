"""Reading pods."""

from __future__ import annotations

from tests.unit.manager import samples
from tpd_cluster.manager import pods


def test_probes_have_numbers_for_named_ports() -> None:
    assert pods.probes_of(samples.pod()) == [
        {"container": "app", "kind": "tcp", "port": 8080},
        {
            "container": "app",
            "kind": "http",
            "port": 8080,
            "path": "/ready",
            "scheme": "HTTP",
            "headers": [["X-Probe", "yes"]],
        },
    ]


def test_grpc_probes_and_defaults_and_what_never_reaches_the_pod() -> None:
    pod = samples.pod()
    pod["spec"]["containers"] = [
        {
            "name": "app",
            "startupProbe": {"grpc": {"port": 9000, "service": None}},
            "livenessProbe": {"httpGet": {"port": "8080"}},
            "readinessProbe": {"httpGet": {"port": 80, "host": "example.com"}},
        },
        {
            "name": "other",
            "livenessProbe": {"exec": {"command": ["true"]}},
            "readinessProbe": {"tcpSocket": {"port": "x"}},
        },
    ]
    assert pods.probes_of(pod) == [
        {"container": "app", "kind": "grpc", "port": 9000, "service": ""},
        {"container": "app", "kind": "http", "port": 8080, "path": "/", "scheme": "HTTP", "headers": []},
    ]


def test_native_sidecars_are_containers_and_other_init_containers_are_not() -> None:
    pod = samples.pod(initContainers=[{"name": "init"}, {"name": "proxy", "restartPolicy": "Always"}])
    assert [container["name"] for container in pods.containers_of(pod)] == ["app", "proxy"]
    assert pods.container_of(pod, "init") is None


def test_sub_path_expressions_use_what_the_object_tells() -> None:
    pod = samples.pod()
    container = pod["spec"]["containers"][0]
    container["env"] = [
        {"name": "A", "value": "a"},
        {"name": "B", "value": "$(A)/$(POD)/$$(A)/$(UNKNOWN)"},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]
    container["volumeMounts"] = [{"name": "v", "mountPath": "/v", "subPathExpr": "$(B)"}]
    (mount,) = pods.mounts_of(pod, container)
    assert mount.sub_path == "a/$(POD)/$(A)/$(UNKNOWN)"  # names declared later are not known yet, as in the kubelet


def test_the_container_says_more_about_its_user_than_the_pod() -> None:
    pod = samples.pod(securityContext={"runAsUser": 1, "runAsGroup": 2})
    container = pod["spec"]["containers"][0]
    assert pods.user_of(pod, container) == (1, 2)
    container["securityContext"] = {"runAsUser": 0}
    assert pods.user_of(pod, container) == (0, 2)


def test_lives_of_ephemeral_containers() -> None:
    pod = samples.with_agent(samples.pod(), "tpd-agent-1", state=None)
    pod = samples.with_agent(pod, "tpd-agent-2", state={"waiting": {"reason": "ErrImagePull", "message": "no"}})
    pod = samples.with_agent(pod, "tpd-agent-3", state={"running": {"startedAt": "2027-01-15T08:00:00Z"}})
    ended = {"terminated": {"exitCode": 4, "finishedAt": "2027-01-15T08:00:01Z", "reason": "Error"}}
    pod = samples.with_agent(pod, "tpd-agent-4", state=ended)
    found = pods.ephemerals_of(pod, pods.AGENT_PREFIX)
    assert [(item.name[-1], item.life, item.since, item.exit_code, item.words) for item in found] == [
        ("1", pods.Life.UNKNOWN, 0.0, 0, ""),
        ("2", pods.Life.WAITING, 0.0, 0, "ErrImagePull: no"),
        ("3", pods.Life.RUNNING, samples.NOW, 0, ""),
        ("4", pods.Life.ENDED, samples.NOW + 1, 4, "Error"),
    ]
    assert found[0].injected == samples.NOW - 5
