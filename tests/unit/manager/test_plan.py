"""What an attachment needs next, as a table of situations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.unit.manager import samples
from tests.unit.manager.samples import NOW
from tpd_cluster.manager import plan
from tpd_cluster.manager.model import AgentRecord
from tpd_core.errors import Category

RUNNING = {"running": {"startedAt": "2027-01-15T07:59:56Z"}}  # four seconds before NOW


def decide(
    *pods: dict[str, Any],
    registry: Mapping[str, AgentRecord] | None = None,
    expected: Mapping[str, str] | None = None,
    refusals: Mapping[str, plan.Refusal] | None = None,
    now: float = NOW,
    **spec: Any,
) -> plan.Plan:
    return plan.decide(
        samples.attachment(**spec),
        pods,
        registry=registry or {},
        expected=expected or {},
        refusals=refusals or {},
        now=now,
    )


def ended(code: int, at: str = "2027-01-15T07:59:00Z", message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "finishedAt": at, "message": message}}


def test_a_pod_without_an_agent_gets_one() -> None:
    decided = decide(samples.pod())
    (pod,) = decided.pods
    assert pod.inject_agent
    assert (decided.phase, pod.state) == (plan.PENDING, plan.INJECTING)


def test_what_was_patched_in_is_not_patched_in_again_before_the_watch_shows_it() -> None:
    (pod,) = decide(samples.pod(), expected={"pod-1": "tpd-agent-00001"}).pods
    assert not pod.inject_agent
    assert pod.state == plan.INJECTING


@pytest.mark.parametrize("state", [None, {"waiting": {"reason": "ContainerCreating"}}, RUNNING])
def test_a_young_agent_is_waited_for(state: dict[str, Any] | None) -> None:
    (pod,) = decide(samples.with_agent(samples.pod(), state=state)).pods
    assert (pod.state, pod.inject_agent, pod.message) == (plan.INJECTING, False, "")
    assert pod.again is not None
    assert pod.again > NOW


@pytest.mark.parametrize("state", [None, RUNNING])
def test_an_enrolled_agent_makes_the_pod_ready(state: dict[str, Any] | None) -> None:
    """The kubelet may say later than the agent itself that it runs."""
    decided = decide(samples.with_agent(samples.pod(), state=state), registry={"pod-1": samples.record()})
    assert (decided.phase, decided.problem) == (plan.READY, None)
    assert decided.pods[0].state == plan.READY
    assert decided.status()["pods"][0]["ip"] == "10.244.0.9"


def test_an_idle_agents_end_is_no_failure() -> None:
    pod = samples.with_agent(samples.pod(), state=ended(0))
    assert decide(pod, registry={"pod-1": samples.record()}).pods[0].inject_agent


def test_a_record_of_another_container_is_not_this_agent() -> None:
    pod = samples.with_agent(samples.pod(), state=RUNNING)
    assert decide(pod, registry={"pod-1": samples.record("tpd-agent-0ther")}).pods[0].state == plan.INJECTING


def test_failures_are_tried_again_after_doubling_pauses() -> None:
    pod = samples.pod()
    for index in range(3):
        pod = samples.with_agent(pod, f"tpd-agent-0000{index}", state=ended(5, "2027-01-15T08:00:00Z", "no manager"))
    (waiting,) = decide(pod, now=NOW + 7).pods
    assert (waiting.inject_agent, waiting.again) == (False, NOW + 8)
    assert waiting.message == "tpd-agent-00002 ended with exit code 5: no manager"
    assert decide(pod, now=NOW + 8).pods[0].inject_agent


def test_five_failures_are_the_end() -> None:
    pod = samples.pod()
    for index in range(5):
        pod = samples.with_agent(pod, f"tpd-agent-0000{index}", state=ended(5, message="no manager"))
    decided = decide(pod, now=NOW + 10_000)
    assert decided.phase == plan.FAILED
    assert not decided.pods[0].inject_agent
    assert decided.problem is not None
    assert "no manager" in decided.problem.message
    assert "orders-1-a" in decided.problem.message


def test_idle_ends_do_not_count_towards_the_five() -> None:
    pod = samples.pod()
    for index in range(9):
        pod = samples.with_agent(pod, f"tpd-agent-0000{index}", state=ended(0))
    assert decide(pod).pods[0].inject_agent


@pytest.mark.parametrize(
    ("state", "seconds"),
    [
        (None, plan.SILENCE_DEADLINE),
        ({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}, plan.PULL_DEADLINE),
    ],
)
def test_an_agent_that_never_starts_is_a_failure(state: dict[str, Any] | None, seconds: float) -> None:
    pod = samples.with_agent(samples.pod(), state=state, injected=NOW)
    assert decide(pod, now=NOW + seconds - 1).pods[0].inject_agent is False
    assert decide(pod, now=NOW + seconds + plan.FIRST_PAUSE).pods[0].inject_agent


def test_a_pull_failure_is_shown_while_there_is_hope() -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    decided = decide(samples.with_agent(samples.pod(), state=waiting))
    assert decided.phase == plan.PENDING
    assert decided.problem is not None
    assert "ImagePullBackOff: no such image" in decided.problem.message
    assert "agent.image" in decided.problem.hint


def test_an_agent_that_runs_but_never_enrols_is_a_failure() -> None:
    pod = samples.with_agent(samples.pod(), state={"running": {"startedAt": "2027-01-15T08:00:00Z"}})
    assert decide(pod, now=NOW + plan.ENROLL_DEADLINE - 1).pods[0].state == plan.INJECTING
    assert decide(pod, now=NOW + plan.ENROLL_DEADLINE + plan.FIRST_PAUSE).pods[0].inject_agent


def test_a_refused_patch_is_a_failure_with_the_servers_words() -> None:
    refusal = plan.Refusal('violates PodSecurity "baseline:latest"', 1, NOW)
    decided = decide(samples.pod(), refusals={"pod-1": refusal})
    assert decided.phase == plan.FAILED
    assert decided.problem is not None
    assert "violates PodSecurity" in decided.problem.message
    assert "NET_ADMIN" in decided.problem.hint
    assert decided.again == NOW + plan.FIRST_PAUSE
    assert decide(samples.pod(), refusals={"pod-1": refusal}, now=NOW + plan.FIRST_PAUSE).pods[0].inject_agent


def test_an_agent_that_came_for_another_container_gets_one_peek_for_this_one() -> None:
    pod = samples.with_agent(samples.pod(), state=RUNNING, peek_for="sidecar")
    registry = {"pod-1": samples.record()}
    (first,) = decide(pod, registry=registry).pods
    assert (first.state, first.peek_token) == (plan.READY, "t-tpd-agent-00001")
    pod["spec"]["ephemeralContainers"].append(
        {
            "name": "tpd-peek-00002",
            "env": [
                {"name": "TPD_PEEK_TOKEN", "value": "t-tpd-agent-00001"},
                {"name": "TPD_PEEK_CONTAINER", "value": "app"},
            ],
        }
    )
    assert decide(pod, registry=registry).pods[0].peek_token is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hostNetwork": True}, "hostNetwork"),
        ({"os": {"name": "windows"}}, "Windows"),
        ({"nodeSelector": {"kubernetes.io/os": "windows"}}, "Windows"),
        ({"containers": [{"name": "app"}, {"name": "istio-proxy"}]}, "service mesh (istio-proxy)"),
        ({"initContainers": [{"name": "linkerd-proxy", "restartPolicy": "Always"}]}, "service mesh (linkerd-proxy)"),
    ],
)
def test_pods_that_can_have_no_agent_are_refused_with_the_reason(change: dict[str, Any], word: str) -> None:
    decided = decide(samples.pod(**change))
    assert decided.phase == plan.FAILED
    assert decided.problem is not None
    assert word in decided.problem.message


def test_pods_that_are_going_are_passed_over() -> None:
    leaving = samples.pod("orders-1-b", "pod-2")
    leaving["metadata"]["deletionTimestamp"] = samples.STAMP
    decided = decide(samples.pod(), leaving, samples.pod("orders-1-c", "pod-3", phase="Failed"))
    assert [item.pod["metadata"]["uid"] for item in decided.pods] == ["pod-1"]
    only = decide(leaving)
    assert (only.phase, only.pods) == (plan.PENDING, ())
    assert only.problem is not None
    assert "ending" in only.problem.message


def test_a_pod_without_a_node_is_waited_for() -> None:
    (pod,) = decide(samples.pod(nodeName="")).pods
    assert not pod.inject_agent


def test_one_ready_pod_is_enough() -> None:
    first = samples.with_agent(samples.pod(), state=RUNNING)
    decided = decide(first, samples.pod("orders-1-b", "pod-2"), registry={"pod-1": samples.record()})
    assert decided.phase == plan.READY
    assert [pod.state for pod in decided.pods] == [plan.READY, plan.INJECTING]
    assert decided.pods[1].inject_agent


def test_no_pods_and_no_such_container_are_told() -> None:
    none = decide()
    assert none.phase == plan.PENDING
    assert none.problem is not None
    assert "has no pods" in none.problem.message
    wrong = decide(samples.pod(), container="ap")
    assert wrong.phase == plan.FAILED
    assert wrong.problem is not None
    assert wrong.problem.category is Category.USER
    assert "'ap'" in wrong.problem.message
    assert "app" in wrong.problem.hint


def test_status_lists_mounts_and_names() -> None:
    status = decide(samples.pod()).status()
    assert status["envNames"] == ["PLAIN", "POD", "SECRET", "MEMORY"]
    assert status["pods"][0]["mounts"] == [
        {"mountPath": "/data", "volume": "data", "subPath": "", "readOnly": False},
        {"mountPath": "/etc/app.conf", "volume": "config", "subPath": "app.conf", "readOnly": True},
        {"mountPath": "/logs", "volume": "data", "subPath": "logs/orders-1-a", "readOnly": False},
    ]


def test_the_older_attachment_keeps_the_port() -> None:
    first, second = samples.attachment("a", "att-1"), samples.attachment("b", "att-2", user="bob")
    problem = plan.conflict(second, [first, second])
    assert problem is not None
    assert "8080" in problem.message
    assert "ada" in problem.message
    assert plan.conflict(first, [first, second]) is None


def test_other_ports_and_workloads_do_not_conflict() -> None:
    first = samples.attachment("a", "att-1")
    other_port = samples.attachment("b", "att-2", ports=[{"containerPort": 8081, "localPort": 8080}])
    other_workload = samples.attachment("c", "att-3", workload={"kind": "StatefulSet", "name": "orders"})
    assert plan.conflict(other_port, [first]) is None
    assert plan.conflict(other_workload, [first]) is None
