"""An API server of one page: objects in a dict, resource versions, merge patches, watches."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from tpd_core.kube import ApiClient


class FakeApi:
    """Serves whatever paths are put in; a collection is the path of its objects without the last part."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.watchers: list[tuple[str, asyncio.Queue[str | None]]] = []
        self.version = 100
        self._watched = asyncio.Event()
        self.refuse: dict[tuple[str, str], tuple[int, Any]] = {}
        self.page = 1000
        self.aliases: dict[str, str] = {}
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self.server = TestServer(app)

    async def __aenter__(self) -> FakeApi:
        await self.server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end_watches()
        await self.server.close()

    def client(self, **options: Any) -> ApiClient:
        return ApiClient(str(self.server.make_url("/")), **options)

    def put(self, path: str, item: dict[str, Any], *, uid: str | None = None) -> dict[str, Any]:
        """Store an object under its path, as if somebody had written it."""
        kind = "MODIFIED" if path in self.objects else "ADDED"
        self.version += 1
        metadata = item.setdefault("metadata", {})
        metadata.setdefault("name", path.rsplit("/", 1)[1])
        known = self.objects.get(path, {}).get("metadata", {}).get("uid")
        metadata["uid"] = uid or metadata.get("uid") or known or f"uid-{self.version}"
        metadata["resourceVersion"] = str(self.version)
        self.objects[path] = item
        self._tell(path, kind, item)
        return item

    def remove(self, path: str) -> None:
        item = self.objects.pop(path)
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        self._tell(path, "DELETED", item)

    def say(self, collection: str, event: dict[str, Any]) -> None:
        """Send one event to the watchers of a collection."""
        for path, queue in self.watchers:
            if path == collection:
                queue.put_nowait(json.dumps(event))

    async def watched(self) -> None:
        """Until somebody watches."""
        async with asyncio.timeout(10):
            await self._watched.wait()

    def end_watches(self) -> None:
        self._watched.clear()
        for _, queue in self.watchers:
            queue.put_nowait(None)
        self.watchers.clear()

    def _tell(self, path: str, kind: str, item: dict[str, Any]) -> None:
        self.say(path.rsplit("/", 1)[0], {"type": kind, "object": item})

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path, text = self.aliases.get(request.path, request.path), await request.text()
        body = json.loads(text) if text else None
        self.requests.append((request.method, path, dict(request.query), body))
        refusal = self.refuse.get((request.method, path))
        if refusal is not None:
            status, answer = refusal
            if isinstance(answer, dict):
                return web.json_response(answer, status=status)
            return web.Response(text=answer, status=status)
        if request.method == "GET" and request.query.get("watch"):
            return await self._watch(request, path)
        if request.method == "GET" and path in self.objects:
            return web.json_response(self.objects[path])
        if request.method == "GET" and any(name.rsplit("/", 1)[0] == path for name in self.objects):
            return self._list(request, path)
        if request.method == "PATCH" and path in self.objects:
            return self._patch(path, body or {})
        return _status(404, "NotFound", f"{path} not found")

    def _list(self, request: web.Request, path: str) -> web.Response:
        items = [item for name, item in self.objects.items() if name.rsplit("/", 1)[0] == path]
        start = int(request.query.get("continue", "0"))
        metadata: dict[str, Any] = {"resourceVersion": str(self.version)}
        if start + self.page < len(items):
            metadata["continue"] = str(start + self.page)
        return web.json_response({"items": items[start : start + self.page], "metadata": metadata})

    def _patch(self, path: str, body: dict[str, Any]) -> web.Response:
        current = self.objects[path]
        wanted = body.get("metadata", {}).get("resourceVersion")
        if wanted is not None and wanted != current["metadata"]["resourceVersion"]:
            return _status(409, "Conflict", "the object has been modified")
        return web.json_response(self.put(path, _merge(copy.deepcopy(current), body)))

    async def _watch(self, request: web.Request, path: str) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        self.watchers.append((path, queue))
        self._watched.set()
        while (line := await queue.get()) is not None:
            await response.write(line.encode() + b"\n")
        return response


def _merge(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merge(result.get(key), value)
    return result


def _status(code: int, reason: str, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "reason": reason, "message": message}, status=code)
