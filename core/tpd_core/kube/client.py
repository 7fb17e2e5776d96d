"""One connection pool to one API server."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp

from tpd_core.errors import NetworkError
from tpd_core.kube.errors import ApiError, error_from

Json = dict[str, Any]
Body = Json | list[Json]
Headers = Callable[[], Awaitable[Mapping[str, str]]]
PatchKind = Literal["merge", "strategic", "json", "apply"]

_PATCH_TYPES: Mapping[str, str] = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}
_WATCH_SECONDS = 240  # asked of the server; well below the idle limits of usual load balancers
_DEAD_AFTER_MS = 15_000  # a silent peer's unacknowledged data


def api_tls(ca: bytes | None, *, insecure: bool = False) -> ssl.SSLContext:
    """A client context for an API server.

    Args:
        ca: PEM; None for the system's authorities.
        insecure: Accept any certificate, as `insecure-skip-tls-verify` in a kubeconfig says.
    """
    context = ssl.create_default_context(cadata=ca.decode() if ca else None)
    # Python 3.13 refuses authorities without a key identifier, as many clusters have.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class ApiClient:
    """Requests to one API server; an async context manager.

    Args:
        base_url: "https://host:port", possibly with a path.
        tls: See `api_tls`; None for plain HTTP.
        headers: Called for every request, e.g. for a token that is renewed meanwhile.
        server_hostname: Name to verify instead of the URL's host.
        proxy: URL of an HTTP proxy.
        timeout: Seconds for one request, watches apart.
    """

    def __init__(
        self,
        base_url: str,
        *,
        tls: ssl.SSLContext | None = None,
        headers: Headers | None = None,
        server_hostname: str | None = None,
        proxy: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._tls = tls
        self._headers = headers
        self._server_hostname = server_hostname
        self._proxy = proxy
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=min(timeout, 10.0))
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0, socket_factory=_socket, ssl=self._tls or True)
        self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    # -- the verbs -----------------------------------------------------------------------------------------------
    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Json:
        """GET an object. Raises ApiError and its subclasses, NetworkError; so do all verbs."""
        return await self.request("GET", path, params=params)

    async def list(self, path: str, params: Mapping[str, str] | None = None) -> Json:
        """GET a collection: {"items": [...], "metadata": {"resourceVersion": ...}}, all pages put together.

        The API omits `kind` and `apiVersion` in items.
        """
        query = {"limit": "500", **(params or {})}
        whole = await self.request("GET", path, params=query)
        page = whole
        while token := page.get("metadata", {}).get("continue"):
            page = await self.request("GET", path, params={**query, "continue": token})
            whole["items"] += page["items"]
        whole["items"] = whole.get("items") or []
        return whole

    async def create(self, path: str, body: Json, params: Mapping[str, str] | None = None) -> Json:
        """POST `body` to a collection or subresource."""
        return await self.request("POST", path, params=params, body=body)

    async def replace(self, path: str, body: Json, params: Mapping[str, str] | None = None) -> Json:
        """PUT a whole object; its resourceVersion guards against lost updates."""
        return await self.request("PUT", path, params=params, body=body)

    async def patch(
        self, path: str, body: Body, kind: PatchKind = "merge", params: Mapping[str, str] | None = None
    ) -> Json:
        """PATCH an object; a resourceVersion in a merge patch guards against lost updates."""
        return await self.request("PATCH", path, params=params, body=body, content_type=_PATCH_TYPES[kind])

    async def delete(self, path: str, body: Json | None = None, params: Mapping[str, str] | None = None) -> Json:
        """DELETE an object; `body` holds DeleteOptions."""
        return await self.request("DELETE", path, params=params, body=body)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Body | None = None,
        content_type: str = "application/json",
    ) -> Json:
        """One request, one JSON object back.

        Raises:
            ApiError: The server refused; subclasses for 401, 403, 404, 409, 410 and 422.
            NetworkError: The server could not be reached, or did not answer in time.
        """
        data = None if body is None else json.dumps(body)
        headers = {"Accept": "application/json"}
        if data is not None:
            headers["Content-Type"] = content_type
        try:
            async with await self._open(method, path, params, headers, data, self._timeout) as response:
                content = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error
        if response.status >= 400:
            raise error_from(method, path, response.status, content)
        if not content:
            return {}
        try:
            result = json.loads(content)
        except ValueError as error:
            raise ApiError(method, path, response.status, "", f"not JSON: {content[:80]!r}", {}) from error
        return result if isinstance(result, dict) else {"value": result}

    async def watch(
        self,
        path: str,
        *,
        resource_version: str | None = None,
        params: Mapping[str, str] | None = None,
        seconds: int = _WATCH_SECONDS,
    ) -> AsyncIterator[tuple[str, Json]]:
        """Events of a collection as (type, object), BOOKMARK included, until the server ends the watch in order.

        Without a resource version the server first sends what exists as ADDED.

        Raises:
            Gone: The resource version is too old: list anew.
            ApiError: The server refused.
            NetworkError: The connection failed.
        """
        query = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds), **(params or {})}
        if resource_version is not None:
            query["resourceVersion"] = resource_version
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=seconds + 10.0)
        try:
            async with await self._open("GET", path, query, {"Accept": "application/json"}, None, timeout) as response:
                if response.status >= 400:
                    raise error_from("GET", path, response.status, await response.read())
                async for line in _lines(response.content):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        raise error_from("GET", path, int(status.get("code", 500)), status)
                    yield event["type"], event["object"]
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error

    # -- inside --------------------------------------------------------------------------------------------------
    async def _open(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        headers: dict[str, str],
        data: str | None,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("ApiClient is used outside its context")
        if self._headers is not None:
            headers |= await self._headers()
        return await self._session.request(
            method,
            self.base_url + path,
            params=params,
            data=data,
            headers=headers,
            timeout=timeout,
            server_hostname=self._server_hostname,
            proxy=self._proxy,
            allow_redirects=False,
        )

    def _unreachable(self, error: BaseException) -> NetworkError:
        words = str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
        return NetworkError(
            f"The API server {self.base_url} cannot be reached: {words}",
            hint="Check the network and the context's server address.",
        )


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length: one object may be far longer than the reader's own limit."""
    rest = bytearray()
    async for chunk in content.iter_any():
        rest += chunk
        if b"\n" not in chunk:
            continue
        *lines, tail = bytes(rest).split(b"\n")
        rest = bytearray(tail)
        for line in lines:
            if line:
                yield line


def _socket(address: Any) -> socket.socket:
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # not on every platform that the CLI runs on
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_AFTER_MS)
    return sock


async def wait_for(
    client: ApiClient, resource_path: str, name: str, *, done: Callable[[Json | None], bool], timeout: float
) -> Json | None:
    """Watch one object until `done` says so (it gets None when the object is absent) and return it.

    Args:
        resource_path: The collection's path.
        timeout: Seconds.

    Raises:
        TimeoutError: It did not happen in time.
        ApiError: The server refused.
    """
    selector = {"fieldSelector": f"metadata.name={name}"}
    async with asyncio.timeout(timeout):
        while True:
            listing = await client.list(resource_path, selector)
            current = listing["items"][0] if listing["items"] else None
            if done(current):
                return current
            version = listing["metadata"]["resourceVersion"]
            async for kind, item in client.watch(resource_path, resource_version=version, params=selector):
                if kind == "BOOKMARK":
                    continue
                current = None if kind == "DELETED" else item
                if done(current):
                    return current
