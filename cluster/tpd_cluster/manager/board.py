"""What every replica knows: sessions, attachments and enrolled agents, as the API server tells it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tpd_cluster.manager.model import AgentRecord, Object, load_registry
from tpd_cluster.manager.settings import REGISTRY
from tpd_core.kube import ATTACHMENTS, SESSIONS, ApiClient, Change, ChangeKind, Reflector
from tpd_core.kube.paths import CONFIG_MAPS

Listener = Callable[[Change], None]


class Board:
    """Three reflectors, and those who listen to them."""

    def __init__(self, client: ApiClient, namespace: str) -> None:
        self.on_session: list[Listener] = []
        self.on_attachment: list[Listener] = []
        self.on_registry: list[Callable[[], None]] = []
        self.agents: dict[str, AgentRecord] = {}
        self.registry_object: Object = {}
        self._client = client
        self._registry_path = CONFIG_MAPS.path(namespace, REGISTRY)
        self._sessions = Reflector(client, SESSIONS.path(), on_change=lambda change: _tell(self.on_session, change))
        self._attachments = Reflector(
            client, ATTACHMENTS.path(), on_change=lambda change: _tell(self.on_attachment, change)
        )
        self._registry = Reflector(
            client,
            CONFIG_MAPS.path(namespace),
            params={"fieldSelector": f"metadata.name={REGISTRY}"},
            on_change=self._read_registry,
        )

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as group:
            for reflector in (self._sessions, self._attachments, self._registry):
                group.create_task(reflector.run())

    async def wait_synced(self) -> None:
        """Until everything was listed once."""
        for reflector in (self._sessions, self._attachments, self._registry):
            await reflector.synced.wait()

    @property
    def synced(self) -> bool:
        """Everything was listed once."""
        return all(item.synced.is_set() for item in (self._sessions, self._attachments, self._registry))

    def sessions(self) -> list[Object]:
        """All sessions."""
        return list(self._sessions.objects.values())

    def session(self, name: str) -> Object | None:
        """One session, if it is known."""
        return self._sessions.objects.get(("", name))

    def attachments(self) -> list[Object]:
        """All attachments."""
        return list(self._attachments.objects.values())

    def attachment(self, namespace: str, name: str) -> Object | None:
        """One attachment, if it is known."""
        return self._attachments.objects.get((namespace, name))

    # -- registry ------------------------------------------------------------------------------------------------
    async def enroll(self, uid: str, record: AgentRecord) -> None:
        """Record an agent under its pod's UID, in place of any older one."""
        self._take_registry(await self._client.patch(self._registry_path, {"data": {uid: record.dump()}}))

    async def forget(self, *uids: str) -> None:
        """Remove records."""
        if uids:
            self._take_registry(await self._client.patch(self._registry_path, {"data": dict.fromkeys(uids)}))

    async def annotate(self, annotations: dict[str, str | None]) -> None:
        """Set or remove annotations of the registry."""
        await self._client.patch(self._registry_path, {"metadata": {"annotations": annotations}})

    def _read_registry(self, change: Change) -> None:
        self._take_registry({} if change.kind is ChangeKind.DELETED else change.object)

    def _take_registry(self, config_map: Object) -> None:
        """The watch may be behind what a patch has answered; the versions of one object can be compared."""
        if config_map and _version(config_map) <= _version(self.registry_object):
            return
        self.registry_object = config_map
        self.agents = load_registry(config_map)
        for listener in self.on_registry:
            listener()


def _version(item: Object) -> int:
    version = (item.get("metadata") or {}).get("resourceVersion", "0")
    return int(version) if version.isdigit() else 0


def _tell(listeners: list[Listener], change: Change) -> None:
    for listener in listeners:
        listener(change)
