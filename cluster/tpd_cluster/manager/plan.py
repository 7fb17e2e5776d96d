"""What an attachment needs next, decided from what is known. Pure; `reconcile` does it.

Theory
======
All state is in the API server, so a new leader goes on where the old one stopped: a pod's ephemeral containers and
their statuses tell what was tried and how it ended, the registry tells which agent is enrolled. Only two things are
remembered in the leader: patches whose result the watch has not shown yet, and patches that the API server refused.

A pod's agents, newest last, decide:

    enrolled, not ended           → ready
    young: waiting or starting    → injecting
    none, or the last ended with 0 (idle)    → inject
    failed fewer than five times  → inject, after a pause that doubles
    failed five times             → failed: entries cannot be removed from a pod, so there must be an end
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tpd_cluster.manager import pods
from tpd_cluster.manager.model import AgentRecord, Attachment, MountSpec, Object, Problem
from tpd_cluster.manager.pods import Ephemeral, Life
from tpd_core.errors import Category

MAX_FAILURES: Final = 5
PULL_DEADLINE: Final = 300.0
"""Seconds from the patch to the container's start: the image may have to be pulled."""
SILENCE_DEADLINE: Final = 60.0
"""Seconds from the patch until the kubelet must have said something."""
ENROLL_DEADLINE: Final = 75.0
"""Seconds from start to enrolment; the agent itself gives up after 60."""
FIRST_PAUSE: Final = 2.0
"""Seconds after the first failure; doubles with each."""

INJECTING, READY, FAILED, PENDING = "Injecting", "Ready", "Failed", "Pending"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The API server did not take a patch."""

    message: str
    count: int
    at: float  # Unix seconds


@dataclass(frozen=True, slots=True)
class PodPlan:
    """What to do with one pod.

    Attributes:
        state: For the attachment's status.
        inject_agent: Put in an agent, and a peek for the attachment's container.
        peek_token: Put in only a peek, for the agent with this token.
        again: Unix seconds at which to look again though nothing happens.
    """

    pod: Object
    state: str
    message: str = ""
    inject_agent: bool = False
    peek_token: str | None = None
    again: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do for one attachment."""

    phase: str
    problem: Problem | None = None
    pods: tuple[PodPlan, ...] = ()
    env_names: tuple[str, ...] = ()
    mounts: Mapping[str, tuple[MountSpec, ...]] = field(default_factory=dict)  # by pod UID

    @property
    def again(self) -> float | None:
        """Unix seconds at which to look again though nothing happens."""
        return min((pod.again for pod in self.pods if pod.again is not None), default=None)

    def status(self) -> dict[str, Any]:
        """The attachment's status, as a merge patch would set it."""
        return {
            "phase": self.phase,
            "problem": self.problem.to_status() if self.problem else None,
            "envNames": list(self.env_names),
            "pods": [
                {
                    "name": plan.pod["metadata"]["name"],
                    "uid": plan.pod["metadata"]["uid"],
                    "ip": pods.ip_of(plan.pod),
                    "state": plan.state,
                    "message": plan.message,
                    "mounts": [mount.to_status() for mount in self.mounts.get(plan.pod["metadata"]["uid"], ())],
                }
                for plan in self.pods
            ],
        }


def failed(problem: Problem) -> Plan:
    """The attachment cannot be had."""
    return Plan(FAILED, problem)


def conflict(attachment: Attachment, others: Iterable[Attachment]) -> Problem | None:
    """An older attachment that has one of the same ports already.

    Args:
        others: Attachments that have not failed.
    """
    for other in others:
        if other.uid == attachment.uid or (other.created, other.uid) > (attachment.created, attachment.uid):
            continue
        if (other.namespace, other.kind, other.workload) != (
            attachment.namespace,
            attachment.kind,
            attachment.workload,
        ):
            continue
        taken = {port.container_port for port in other.ports} & {port.container_port for port in attachment.ports}
        if taken:
            port = min(taken)
            return Problem(
                Category.USER,
                f"Port {port} of {attachment.title} is intercepted by {other.user} already "
                f"(attachment {other.name}, session {other.session})",
                hint=f"Ask {other.user} to leave it, or delete the attachment: "
                f"kubectl delete attachment -n {other.namespace} {other.name}",
            )
    return None


def decide(
    attachment: Attachment,
    workload_pods: Iterable[Object],
    *,
    registry: Mapping[str, AgentRecord],
    expected: Mapping[str, str],
    refusals: Mapping[str, Refusal],
    now: float,
) -> Plan:
    """The plan for an attachment whose right is established.

    Args:
        workload_pods: All pods of its workload.
        registry: Enrolled agents by pod UID.
        expected: Ephemeral containers that were patched in but are not seen yet, by pod UID.
        refusals: Patches that were refused, by pod UID.
        now: Unix seconds.
    """
    present = sorted(workload_pods, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))
    if not present:
        return Plan(PENDING, _no_pods(attachment, "has no pods", "Scale it up, or see why it makes none."))
    alive = [pod for pod in present if not pods.is_leaving(pod)]
    if not alive:
        return Plan(PENDING, _no_pods(attachment, "has only pods that are ending", "Its next pods will be taken."))
    containers = {pod["metadata"]["uid"]: pods.container_of(pod, attachment.container) for pod in alive}
    suitable = [pod for pod in alive if containers[pod["metadata"]["uid"]] is not None]
    if not suitable:
        return failed(_no_container(attachment, alive[-1]))
    plans = []
    mounts: dict[str, tuple[MountSpec, ...]] = {}
    for pod in suitable:
        uid = pod["metadata"]["uid"]
        container = containers[uid]
        assert container is not None
        mounts[uid] = pods.mounts_of(pod, container)
        plans.append(
            _decide_pod(pod, attachment.container, registry.get(uid), expected.get(uid), refusals.get(uid), now)
        )
    newest = containers[suitable[-1]["metadata"]["uid"]]
    assert newest is not None
    names = tuple(pods.env_names_of(newest))
    phase, problem = _summary(attachment, plans)
    return Plan(phase, problem, tuple(plans), names, mounts)


def _summary(attachment: Attachment, plans: list[PodPlan]) -> tuple[str, Problem | None]:
    states = {plan.state for plan in plans}
    if READY in states:
        return READY, None
    told = next((plan for plan in plans if plan.message), None)
    problem = None
    if told is not None:
        name = told.pod["metadata"]["name"]
        problem = Problem(Category.CLUSTER, f"Pod {name} of {attachment.title}: {told.message}", hint=_hint(told))
    return (FAILED if states == {FAILED} else PENDING), problem


def _hint(plan: PodPlan) -> str:
    name, namespace = plan.pod["metadata"]["name"], plan.pod["metadata"]["namespace"]
    if "violates PodSecurity" in plan.message:
        return "An intercept needs NET_ADMIN in the pod, which this namespace's pod security level does not allow."
    if "ErrImagePull" in plan.message or "ImagePullBackOff" in plan.message:
        return "The node cannot pull the agent's image: see the chart values agent.image.*."
    if pods.refusal(plan.pod) is not None:
        return "Use a workload whose pods have their own network."
    return f"See: kubectl describe pod -n {namespace} {name}"


def _no_pods(attachment: Attachment, what: str, hint: str) -> Problem:
    return Problem(Category.CLUSTER, f"{attachment.title} in namespace {attachment.namespace} {what}", hint=hint)


def _no_container(attachment: Attachment, pod: Object) -> Problem:
    names = ", ".join(container["name"] for container in pods.containers_of(pod))
    return Problem(
        Category.USER,
        f"{attachment.title} in namespace {attachment.namespace} has no container {attachment.container!r}",
        hint=f"Its containers are: {names}.",
    )


# -- one pod -------------------------------------------------------------------------------------------------------
def _decide_pod(
    pod: Object,
    container: str,
    record: AgentRecord | None,
    expected: str | None,
    refused: Refusal | None,
    now: float,
) -> PodPlan:
    reason = pods.refusal(pod)
    if reason is not None:
        return PodPlan(pod, FAILED, reason)
    agents = pods.ephemerals_of(pod, pods.AGENT_PREFIX)
    peeks = pods.ephemerals_of(pod, pods.PEEK_PREFIX)
    if expected is not None and expected not in {item.name for item in (*agents, *peeks)}:
        state = READY if record is not None else INJECTING
        return PodPlan(pod, state)
    enrolled = _enrolled(agents, record)
    if enrolled is not None:
        return _with_peek(pod, container, enrolled, peeks, refused)
    failures: list[float] = []
    for agent in agents:
        verdict = _judge(agent, now)
        if verdict.young:
            return PodPlan(pod, INJECTING, verdict.words, again=verdict.until)
        if verdict.failed_at is not None:
            failures.append(verdict.failed_at)
    return _next_try(pod, agents, failures, refused, now)


def _enrolled(agents: list[Ephemeral], record: AgentRecord | None) -> Ephemeral | None:
    if record is None:
        return None
    for agent in agents:
        if agent.name == record.container and agent.life is not Life.ENDED:
            return agent
    return None


def _with_peek(
    pod: Object, container: str, agent: Ephemeral, peeks: list[Ephemeral], refused: Refusal | None
) -> PodPlan:
    """An agent that came for another container still needs this one's environment; one try is enough."""
    token = agent.environment.get("TPD_PEEK_TOKEN", "")
    has_peek = any(
        peek.environment.get("TPD_PEEK_CONTAINER") == container and peek.environment.get("TPD_PEEK_TOKEN") == token
        for peek in peeks
    )
    if has_peek or refused is not None or not token:
        return PodPlan(pod, READY)
    return PodPlan(pod, READY, peek_token=token)


@dataclass(frozen=True, slots=True)
class _Verdict:
    young: bool = False
    until: float | None = None
    failed_at: float | None = None
    words: str = ""


def _judge(agent: Ephemeral, now: float) -> _Verdict:
    """Whether an agent without an enrolment may still get there, or when it failed."""
    if agent.life is Life.ENDED:
        return _Verdict(failed_at=agent.since if agent.exit_code != 0 else None)
    if agent.life is Life.RUNNING:
        until = agent.since + ENROLL_DEADLINE
        words = "the agent runs, but has not reached the manager yet" if now > agent.since + 10 else ""
    else:
        until = agent.injected + (PULL_DEADLINE if agent.life is Life.WAITING else SILENCE_DEADLINE)
        words = agent.words if agent.words not in ("ContainerCreating", "PodInitializing") else ""
    if now < until:
        again = min(until, agent.since + 10.5) if agent.life is Life.RUNNING and not words else until
        return _Verdict(young=True, until=again, words=words)
    return _Verdict(failed_at=until)


def _next_try(
    pod: Object, agents: list[Ephemeral], failures: list[float], refused: Refusal | None, now: float
) -> PodPlan:
    count = len(failures) + (refused.count if refused else 0)
    last = max([*failures, refused.at if refused else 0.0])
    words = refused.message if refused else _last_words(agents)
    if count >= MAX_FAILURES:
        return PodPlan(pod, FAILED, f"{MAX_FAILURES} agents failed in this pod; the last one: {words}")
    if count:
        due = last + FIRST_PAUSE * 2 ** (count - 1)
        if now < due:
            return PodPlan(pod, FAILED if refused else INJECTING, words, again=due)
    if not pods.is_placed(pod):
        return PodPlan(pod, INJECTING, "the pod has no node yet")
    return PodPlan(pod, INJECTING, words if count else "", inject_agent=True)


def _last_words(agents: list[Ephemeral]) -> str:
    for agent in reversed(agents):
        if agent.life is Life.ENDED and agent.exit_code != 0:
            return f"{agent.name} ended with exit code {agent.exit_code}" + (f": {agent.words}" if agent.words else "")
        if agent.life is not Life.ENDED:
            return f"{agent.name} did not come up" + (f": {agent.words}" if agent.words else "")
    return ""
