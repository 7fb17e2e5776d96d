"""Takes in what peek containers saw, over a socket that only the pod's own containers can reach."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import socket
from collections.abc import Mapping
from typing import Final, Self

from tpd_cluster.agent.environment import Peek

PATIENCE: Final = 10.0
"""Seconds to wait for a peek container, which the manager adds together with the agent."""

_LIMIT: Final = 16 << 20  # bytes of one message
_TIMEOUT: Final = 5.0  # seconds to send it

_log = logging.getLogger(__name__)


class Peeks:
    """What was seen, by container; an async context manager that listens meanwhile.

    Args:
        pod_uid: Part of the socket's name: containers on the host network share one name space.
        token: Shown by a genuine peek; empty when none will come.
    """

    def __init__(self, pod_uid: str, token: str) -> None:
        self._name = f"\0tpd-peek-{pod_uid}"
        self._token = token
        self._seen: dict[str, Peek] = {}
        self._arrived: dict[str, asyncio.Event] = {}
        self._deadlines: dict[str, float] = {}
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(self._name)
        self._server = await asyncio.start_unix_server(self._serve, sock=sock)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()

    def get(self, container: str) -> Peek | None:
        """What was seen of a container so far."""
        return self._seen.get(container)

    async def wait(self, container: str) -> Peek | None:
        """What is seen of a container; None when no peek came within PATIENCE seconds of the first question."""
        if container not in self._seen and self._token:
            now = asyncio.get_running_loop().time()
            deadline = self._deadlines.setdefault(container, now + PATIENCE)
            try:
                async with asyncio.timeout_at(deadline):
                    await self._arrived.setdefault(container, asyncio.Event()).wait()
            except TimeoutError:
                pass
        return self._seen.get(container)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                answer = self._take(await _read_all(reader))
                writer.write(answer)
                await writer.drain()
        except (OSError, TimeoutError) as error:
            _log.warning("a peek was lost: %s", error)
        finally:
            writer.close()

    def _take(self, data: bytes) -> bytes:
        try:
            message: Mapping[str, object] = json.loads(data)
            if not hmac.compare_digest(str(message["token"]).encode(), self._token.encode()) or not self._token:
                raise ValueError("wrong token")
            peek = Peek.from_json(message)
        except (ValueError, KeyError, TypeError) as error:
            _log.warning("a peek was refused: %s", error)
            return f"refused: {error}\n".encode()
        self._seen[peek.container] = peek
        self._arrived.setdefault(peek.container, asyncio.Event()).set()
        _log.info("peek arrived", extra={"container": peek.container, "uid": peek.uid, "note": peek.note})
        return b"ok\n"


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    data = bytearray()
    while chunk := await reader.read(65536):
        data += chunk
        if len(data) > _LIMIT:
            raise OSError("a peek of more than 16 MiB")
    return bytes(data)
