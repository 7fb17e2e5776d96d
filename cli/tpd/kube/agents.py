"""Ending idle agents."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from tpd.compose.spec import InterceptSpec
from tpd.kube.access import rights
from tpd.kube.config import Login
from tpd.kube.exec import run_in_pod
from tpd.kube.names import AGENTS
from tpd.kube.workloads import find_workload
from tpd_core.errors import ClusterError
from tpd_core.kube import ApiClient, NotFound
from tpd_core.kube.client import Json, wait_for
from tpd_core.kube.paths import CONFIG_MAPS, PODS

_PATIENCE = 20.0  # seconds for one agent to end
STOP = "tpd.dev/stop-agents"
# The agent is the first process of its container and ends in order on SIGTERM.
_STOP_COMMAND = ("python3", "-c", "import os, signal; os.kill(1, signal.SIGTERM)")


async def stop_all_agents(
    client: ApiClient, manager_namespace: str, namespace: str | None = None, timeout: float = 60.0
) -> int:
    """Ask the manager to end the agents of one namespace or of all, and wait until it has.

    Args:
        timeout: Seconds.

    Returns:
        How many agents there were.

    Raises:
        RightsError: The user may not ask for it.
        ClusterError: The manager did not do it in time.
    """
    path = CONFIG_MAPS.path(manager_namespace)
    try:
        with rights("to end agents"):
            patch = {"metadata": {"annotations": {STOP: namespace or "*"}}}
            before = await client.patch(CONFIG_MAPS.path(manager_namespace, AGENTS), patch)
    except NotFound:
        return 0
    try:
        after = await wait_for(client, path, AGENTS, done=_stopped, timeout=timeout)
    except TimeoutError:
        raise ClusterError(
            f"the manager did not end the agents within {timeout:.0f} s",
            hint=f"Is it running? `kubectl get pods -n {manager_namespace}` shows it.",
        ) from None
    return len(before.get("data") or {}) - len((after or {}).get("data") or {})


async def stop_agents_of(login: Login, client: ApiClient, namespace: str, spec: InterceptSpec) -> int:
    """End the agents in a workload's pods with the user's own right to exec there.

    Returns:
        How many agents there were.

    Raises:
        RightsError: The user may not.
    """
    workload = await find_workload(client, namespace, spec)
    if workload["kind"] == "Pod":
        pods = [workload]
    else:
        with rights("to find the workload's pods"):
            selector = label_selector(workload["spec"].get("selector") or {})
            pods = (await client.list(PODS.path(namespace), {"labelSelector": selector}))["items"]
    jobs = [
        _stop_agent(login, client, namespace, pod["metadata"]["name"], status["name"])
        for pod in pods
        for status in _agents(pod)
        if "running" in status.get("state", {})
    ]
    await asyncio.gather(*jobs)
    return len(jobs)


async def _stop_agent(login: Login, client: ApiClient, namespace: str, pod: str, container: str) -> None:
    await run_in_pod(login, namespace, pod, container, _STOP_COMMAND)

    def ended(item: Json | None) -> bool:
        states = [status.get("state", {}) for status in _agents(item or {}) if status["name"] == container]
        return all("running" not in state for state in states)

    try:
        await wait_for(client, PODS.path(namespace), pod, done=ended, timeout=_PATIENCE)
    except TimeoutError:
        raise ClusterError(f"the agent {container!r} of pod {namespace}/{pod} does not end") from None


def _agents(pod: Json) -> list[Json]:
    statuses = pod.get("status", {}).get("ephemeralContainerStatuses") or ()
    return [status for status in statuses if status["name"].startswith("tpd-agent-")]


def label_selector(selector: Mapping[str, Any]) -> str:
    """A LabelSelector as the API's query parameter."""
    words = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for rule in selector.get("matchExpressions") or ():
        values = f"({','.join(rule.get('values') or ())})"
        forms = {
            "In": f"{rule['key']} in {values}",
            "NotIn": f"{rule['key']} notin {values}",
            "Exists": rule["key"],
            "DoesNotExist": f"!{rule['key']}",
        }
        words.append(forms[rule["operator"]])
    return ",".join(words)


def _stopped(item: Json | None) -> bool:
    return item is None or STOP not in (item["metadata"].get("annotations") or {})
