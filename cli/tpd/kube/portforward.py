"""Port-forward to a pod over one websocket to the API server, handed out as a connected socket.

The protocol is `v4.channel.k8s.io`: every message starts with a channel number, 0 for data and 1 for the server's
words on what went wrong; the first message of each channel only repeats the port's number. Used by the daemon and, for
the relay, by the CLI; it knows neither of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import aiohttp

from tpd_core.aio.tasks import cancel_and_wait, spawn
from tpd_core.errors import ClusterError, ConfigError, NetworkError, TpdError

_PROTOCOL: Final = "v4.channel.k8s.io"
_DATA: Final = 0
_ERROR: Final = 1
_CHUNK: Final = 32 * 1024 - 1
"""Bytes of one message: larger ones were slower against a real API server, which copies in 32 KiB pieces."""


@dataclass(frozen=True, slots=True)
class PodPort:
    """A TCP port of a pod."""

    namespace: str
    pod: str
    port: int


@dataclass(frozen=True, slots=True)
class ApiAccess:
    """How to reach and convince one API server.

    Attributes:
        url: https://host:port, possibly with a path.
        tls: Client context; Python's strict check of authorities must be off, many clusters' own do not pass it. None
            for plain HTTP.
        headers: With the credentials.
        server_hostname: Name to verify instead of the URL's host; empty for that.
        proxy: URL of an HTTP proxy; empty for none.
    """

    url: str
    tls: ssl.SSLContext | None
    headers: Mapping[str, str]
    server_hostname: str = ""
    proxy: str = ""


class PortForward:
    """One open forward.

    Attributes:
        socket: This end: connected and non-blocking; its owner closes it, which ends the forward. The forward ends it
            when the far side is finished.
        problem: What the API server said went wrong; empty while nothing did.
    """

    def __init__(self, session: aiohttp.ClientSession, websocket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self._far = socket.socketpair()
        self.socket.setblocking(False)
        self._far.setblocking(False)
        self.problem = ""
        self._session = session
        self._websocket = websocket
        self._task = spawn(self._carry(), name="port-forward")

    @classmethod
    async def open(cls, api: ApiAccess, target: PodPort, *, timeout: float = 10.0) -> Self:
        """Open a forward. That the pod listens there shows only in use.

        Args:
            api: The API server.
            target: Where to.
            timeout: Seconds for connection, TLS and upgrade.

        Raises:
            ClusterError: The API server refused; the message has its status.
            ConfigError: The API server's certificate is not the expected one.
            NetworkError: It cannot be reached.
        """
        url = f"{api.url.rstrip('/')}/api/v1/namespaces/{target.namespace}/pods/{target.pod}/portforward"
        session = aiohttp.ClientSession(trust_env=False)
        try:
            async with asyncio.timeout(timeout):
                websocket = await session.ws_connect(
                    url,
                    params={"ports": str(target.port)},
                    protocols=(_PROTOCOL,),
                    headers=dict(api.headers),
                    ssl=api.tls or True,
                    server_hostname=api.server_hostname or None,
                    proxy=api.proxy or None,
                    compress=0,
                    max_msg_size=0,
                )
            return cls(session, websocket)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            await session.close()
            raise _translate(error, api, target) from error
        except BaseException:
            await session.close()
            raise

    async def aclose(self) -> None:
        """End the forward and wait until it is down; `socket` stays its owner's to close."""
        await cancel_and_wait(self._task)

    async def _carry(self) -> None:
        upward = spawn(self._upward(), name="port-forward-up")
        try:
            await self._downward()
        finally:
            self._far.close()  # first: a reader of `socket` sees the end at once
            try:
                await cancel_and_wait(upward)
                with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                    await self._websocket.close()
            finally:
                await self._session.close()

    async def _upward(self) -> None:
        loop = asyncio.get_running_loop()
        buffer = memoryview(bytearray(_CHUNK + 1))
        buffer[0] = _DATA
        with contextlib.suppress(aiohttp.ClientError, OSError):
            while size := await loop.sock_recv_into(self._far, buffer[1:]):
                await self._websocket.send_bytes(buffer[: size + 1])  # type: ignore[arg-type] # copied while masked
        # The protocol knows no half-close: when this end is finished, so is the forward.
        await self._websocket.close()

    async def _downward(self) -> None:
        loop = asyncio.get_running_loop()
        unannounced = {_DATA, _ERROR}
        async for message in self._websocket:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                continue
            channel = message.data[0]
            if channel in unannounced:
                unannounced.discard(channel)
            elif channel == _DATA:
                try:
                    await loop.sock_sendall(self._far, memoryview(message.data)[1:])
                except OSError:  # the owner closed its end
                    return
            elif channel == _ERROR:
                self.problem = message.data[1:].decode(errors="replace").strip()


def _translate(error: BaseException, api: ApiAccess, target: PodPort) -> TpdError:
    where = f"pod {target.namespace}/{target.pod}"
    if isinstance(error, aiohttp.WSServerHandshakeError):
        hint = {
            401: "the token is not accepted any more: run the command again",
            403: "the token may not port-forward to this pod: is the tpd chart of this version installed?",
            404: "the pod is gone: is the tpd manager running?",
        }.get(error.status, "")
        return ClusterError(f"the API server {api.url} refused a port-forward to {where}: {error.status}", hint=hint)
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError | ssl.SSLError):
        return ConfigError(f"TLS with the API server {api.url} failed: {error}")
    words = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    return NetworkError(f"the API server {api.url} cannot be reached for a port-forward to {where}: {words}")
