"""Attachments as the manager carries them out: agents in pods, grants for daemons, and clear refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.support.cluster import Cluster, Namespace
from tests.e2e.support.linkclient import Control, Session, api, open_session
from tpd_core import grants
from tpd_core.aio.messages import MessageStream
from tpd_core.kube import ATTACHMENTS, ApiClient
from tpd_core.kube.client import wait_for
from tpd_core.kube.paths import CONFIG_MAPS, PODS
from tpd_core.proto import link_pb2


async def test_every_pod_gets_an_agent_and_a_grant_also_those_made_later(
    session: Session, namespace: Namespace
) -> None:
    namespace.deploy("orders")
    async with await session.link() as link:
        control = await Control.start(link, session.name)
        item = await session.attach(namespace.name, "orders")
        state = await control.granted(item["metadata"]["uid"])
        (pod,) = state.pods
        assert list(state.env_names) == ["ORIGIN", "PORT", "GREETING", "FROM_SECRET", "POD_ADDRESS"]
        assert {(mount.mount_path, mount.volume, mount.sub_path) for mount in state.mounts} == {
            ("/srv/echo", "script", ""),
            ("/etc/app", "config", ""),
            ("/etc/app.conf", "config", "app.conf"),
            ("/etc/secret", "secret", ""),
        }

        namespace.kubectl("scale", "deployment/orders", "--replicas=2")

        def two(now: Control) -> bool:
            found = now.attachments[item["metadata"]["uid"]].pods
            return len(found) == 2 and all(entry.HasField("grant") for entry in found)

        await control.until(two, timeout=60)
        namespace.kubectl("delete", "pod", pod.pod, "--wait=false")

        def replaced(now: Control) -> bool:
            return two(now) and pod.pod_uid not in {
                entry.pod_uid for entry in now.attachments[item["metadata"]["uid"]].pods
            }

        await control.until(replaced, timeout=60)
    assert namespace.restarts() == 0


async def test_the_agent_takes_the_grant_and_only_from_its_session(
    kube: ApiClient, session: Session, namespace: Namespace
) -> None:
    namespace.deploy("orders")
    async with await session.link() as link:
        control = await Control.start(link, session.name)
        item = await session.attach(namespace.name, "orders")
        (pod,) = (await control.granted(item["metadata"]["uid"])).pods
        assert (await present(session, pod)).WhichOneof("message") == "welcome"
        thief = await open_session(kube)
        answer = await present(thief, pod)
        assert answer.WhichOneof("message") == "refused"
        assert session.name in answer.refused.problem.message
        await thief.delete()


async def present(session: Session, pod: link_pb2.PodGrant) -> link_pb2.AgentToDaemon:
    """The agent's answer to a pod's grant, shown by a session."""
    async with await session.link(f"{pod.pod_uid}.agent.tpd") as link:
        stream = await link.open(link_pb2.OpenRequest(control=link_pb2.Control()).SerializeToString(), timeout=10)
        messages = MessageStream(stream)
        await messages.send(link_pb2.DaemonToAgent(grant=pod.grant))
        answer = await messages.receive(link_pb2.AgentToDaemon)
        assert answer is not None
        return answer


async def test_an_attachment_that_is_deleted_is_gone_at_once(
    kube: ApiClient, session: Session, namespace: Namespace
) -> None:
    namespace.deploy("orders")
    async with await session.link() as link:
        control = await Control.start(link, session.name)
        item = await session.attach(namespace.name, "orders")
        await control.granted(item["metadata"]["uid"])
        await kube.delete(ATTACHMENTS.path(namespace.name, item["metadata"]["name"]))
        await control.until(lambda now: item["metadata"]["uid"] in now.gone)


@pytest.mark.parametrize(
    ("workload", "container", "words", "hint"),
    [
        ("ordres", "app", "deployment/ordres does not exist in namespace", "orders"),
        ("orders", "ap", "has no container 'ap'", "Its containers are: app."),
    ],
)
async def test_what_does_not_exist_is_named_with_what_does(
    session: Session, namespace: Namespace, workload: str, container: str, words: str, hint: str
) -> None:
    namespace.deploy("orders")
    item = await session.attach(namespace.name, workload, container=container)
    problem = (await session.attachment_in("Failed", item))["status"]["problem"]
    assert problem["category"] == "user"
    assert words in problem["message"]
    assert hint in problem["hint"]


async def test_a_port_is_one_developers_at_a_time(session: Session, namespace: Namespace) -> None:
    namespace.deploy("orders")
    first = await session.attach(namespace.name, "orders")
    await session.attachment_in("Ready", first)
    second = await session.attach(namespace.name, "orders")
    refused = await session.attachment_in("Failed", second)
    assert first["metadata"]["name"] in refused["status"]["problem"]["message"]
    await session.client.delete(ATTACHMENTS.path(namespace.name, first["metadata"]["name"]))
    await session.attachment_in("Ready", second)


async def test_the_right_to_exec_is_needed(
    cluster: Cluster, namespace: Namespace, developer: str, manager: None
) -> None:
    namespace.deploy("orders")
    async with api(cluster.kubeconfig, as_user=developer) as client:
        session = await open_session(client)
        try:
            item = await session.attach(namespace.name, "orders")
            problem = (await session.attachment_in("Failed", item))["status"]["problem"]
            assert f"{developer} may not create pods/exec in namespace {namespace.name}" in problem["message"]
            namespace.kubectl("create", "role", "exec", "--verb=create", "--resource=pods/exec")
            namespace.kubectl("create", "rolebinding", "exec", "--role=exec", f"--user={developer}")
            again = await session.attach(namespace.name, "orders", port=8081)
            await session.attachment_in("Ready", again)
        finally:
            await session.delete()


async def test_pods_on_the_nodes_network_are_refused(session: Session, namespace: Namespace) -> None:
    run_pod(namespace, "on-node", {"hostNetwork": True})
    item = await session.attach(namespace.name, "on-node", kind="Pod")
    problem = (await session.attachment_in("Failed", item))["status"]["problem"]
    assert "hostNetwork" in problem["message"]


async def test_a_namespace_that_forbids_the_agent_is_told_with_the_servers_words(
    cluster: Cluster, session: Session, namespace: Namespace
) -> None:
    run_pod(namespace, "plain", {})
    cluster.kubectl("label", "namespace", namespace.name, "pod-security.kubernetes.io/enforce=baseline")
    item = await session.attach(namespace.name, "plain", kind="Pod")
    problem = (await session.attachment_in("Failed", item))["status"]["problem"]
    assert 'violates PodSecurity "baseline' in problem["message"]
    assert "NET_ADMIN" in problem["hint"]


def run_pod(namespace: Namespace, name: str, spec: dict[str, Any]) -> None:
    image = json.loads(namespace.kubectl("get", "pod", "caller", "-o", "json"))["spec"]["containers"][0]["image"]
    container = {"name": "app", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "infinity"]}
    namespace.cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace.name},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [container], **spec},
        }
    )
    namespace.kubectl("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=60s")


async def test_agents_of_a_namespace_are_stopped_when_asked(
    kube: ApiClient, session: Session, namespace: Namespace
) -> None:
    namespace.deploy("orders")
    item = await session.attach(namespace.name, "orders")
    uid = (await session.attachment_in("Ready", item))["status"]["pods"][0]["uid"]
    await kube.delete(ATTACHMENTS.path(namespace.name, item["metadata"]["name"]))
    annotations = {"tpd.dev/stop-agents": namespace.name}
    await kube.patch(CONFIG_MAPS.path("tpd", "tpd-agents"), {"metadata": {"annotations": annotations}})

    def forgotten(registry: dict[str, Any] | None) -> bool:
        assert registry is not None
        return uid not in (registry.get("data") or {}) and "tpd.dev/stop-agents" not in (
            registry["metadata"].get("annotations") or {}
        )

    await wait_for(kube, CONFIG_MAPS.path("tpd"), "tpd-agents", done=forgotten, timeout=20)
    name = namespace.pods("orders")[0]["metadata"]["name"]

    def ended(pod: dict[str, Any] | None) -> bool:
        assert pod is not None
        statuses = pod["status"].get("ephemeralContainerStatuses") or []
        agents = [status for status in statuses if status["name"].startswith("tpd-agent-")]
        return bool(agents) and all(status["state"].get("terminated", {}).get("exitCode") == 0 for status in agents)

    await wait_for(kube, PODS.path(namespace.name), name, done=ended, timeout=20)


async def test_a_grant_lasts_as_long_as_it_should(session: Session, namespace: Namespace) -> None:
    namespace.deploy("orders")
    async with await session.link() as link:
        control = await Control.start(link, session.name)
        item = await session.attach(namespace.name, "orders")
        (pod,) = (await control.granted(item["metadata"]["uid"])).pods
        grant = link_pb2.Grant.FromString(pod.grant.grant)
        assert grant.not_after - grant.not_before == grants.LIFETIME
        assert (grant.pod_uid, grant.session, grant.user) == (pod.pod_uid, session.name, session.user)
