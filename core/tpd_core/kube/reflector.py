"""A local copy of a collection that follows the API server for ever."""

from __future__ import annotations

import asyncio
import enum
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tpd_core.errors import TpdError
from tpd_core.kube.client import ApiClient, Json
from tpd_core.kube.errors import Gone

_log = logging.getLogger(__name__)
_BACKOFF = (0.2, 15.0)  # seconds: first pause after a failure, and the longest


class ChangeKind(enum.Enum):
    """What happened to an object."""

    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Change:
    """One object's change; `object` is the latest known state, also when it was deleted."""

    kind: ChangeKind
    object: Json
    old: Json | None = None


Key = tuple[str, str]
"""Namespace (empty for cluster-scoped objects) and name."""


def key_of(item: Mapping[str, Any]) -> Key:
    """The key of an object in `Reflector.objects`."""
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class Reflector:
    """List, then watch; lists again when the watch cannot go on.

    Consumers see every object's changes exactly once each, also over a new listing: what vanished meanwhile is
    reported as deleted, what was made anew under an old name as deleted and added.

    Args:
        client: Where.
        path: The collection.
        params: Label and field selectors.
        on_change: Called in order, must not block.
    """

    def __init__(
        self,
        client: ApiClient,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        on_change: Callable[[Change], None] = lambda change: None,
    ) -> None:
        self.objects: dict[Key, Json] = {}
        self.synced = asyncio.Event()
        self._client = client
        self._path = path
        self._params = dict(params or {})
        self._on_change = on_change

    async def run(self) -> None:
        """Follow until cancelled; failures are logged and retried with back-off."""
        pause = _BACKOFF[0]
        version: str | None = None
        while True:
            try:
                if version is None:
                    version = await self._list()
                    pause = _BACKOFF[0]
                async for kind, item in self._client.watch(self._path, resource_version=version, params=self._params):
                    version = item["metadata"]["resourceVersion"]
                    pause = _BACKOFF[0]
                    if kind == "DELETED":
                        self._delete(key_of(item), item)
                    elif kind != "BOOKMARK":
                        self._put(item)
            except Gone:
                version = None
            except TpdError as error:
                _log.warning("watch of %s failed, trying again in %.1f s: %s", self._path, pause, error.message)
                version = None
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311
                pause = min(pause * 2, _BACKOFF[1])

    async def _list(self) -> str:
        listing = await self._client.list(self._path, self._params)
        items = {key_of(item): item for item in listing["items"]}
        for key in [key for key in self.objects if key not in items]:
            self._delete(key, self.objects[key])
        for item in items.values():
            self._put(item)
        self.synced.set()
        version: str = listing["metadata"]["resourceVersion"]
        return version

    def _put(self, item: Json) -> None:
        key = key_of(item)
        old = self.objects.get(key)
        if old is not None and old["metadata"]["uid"] != item["metadata"]["uid"]:
            self._delete(key, old)
            old = None
        if old is not None and old["metadata"]["resourceVersion"] == item["metadata"]["resourceVersion"]:
            return
        self.objects[key] = item
        self._on_change(Change(ChangeKind.ADDED if old is None else ChangeKind.MODIFIED, item, old))

    def _delete(self, key: Key, item: Json) -> None:
        old = self.objects.pop(key, None)
        if old is not None:
            self._on_change(Change(ChangeKind.DELETED, item, old))
