"""Ending idle agents."""

from __future__ import annotations

from tpd.kube.access import rights
from tpd.kube.names import AGENTS
from tpd_core.errors import ClusterError
from tpd_core.kube import ApiClient, NotFound
from tpd_core.kube.client import Json, wait_for
from tpd_core.kube.paths import CONFIG_MAPS

STOP = "tpd.dev/stop-agents"


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


def _stopped(item: Json | None) -> bool:
    return item is None or STOP not in (item["metadata"].get("annotations") or {})
