"""The router: one TLS port for everything, told apart by the name in the ClientHello, which it does not consume.

The manager's own names end here; an agent's name is carried to that agent unopened. Nothing is allocated for a
connection but its socket until its hello is complete, and there are limits on how many may be so young.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from tpd_cluster.manager import pki, pods
from tpd_cluster.manager.enroll import connect
from tpd_cluster.manager.model import AgentRecord
from tpd_core.aio.relay import relay
from tpd_core.aio.tasks import cancel_and_wait, spawn
from tpd_core.errors import ClusterError, NetworkError, TpdError
from tpd_core.kube import ApiClient, NotFound
from tpd_core.kube.paths import PODS
from tpd_core.wire.errors import RemoteProtocolError
from tpd_core.wire.sni import MAX_HELLO, SniReader

HELLO_DEADLINE: Final = 5.0
"""Seconds for a complete ClientHello."""
MAX_YOUNG: Final = 512
"""Connections whose ClientHello is not complete yet."""
CONNECT_TIMEOUT: Final = 5.0
"""Seconds until an agent must have accepted."""

Handler = Callable[[socket.socket], Awaitable[None]]
_log = logging.getLogger(__name__)


class Router:
    """Accepts connections and hands them on.

    Args:
        names: What serves the manager's own names.
        agents: Enrolled agents by pod UID; looked at for every connection.
    """

    def __init__(
        self, names: Mapping[str, Handler], agents: Callable[[], Mapping[str, AgentRecord]], client: ApiClient
    ):
        self._names = names
        self._agents = agents
        self._client = client
        self._young = 0
        self._relays: set[asyncio.Task[None]] = set()

    async def run(self, listener: socket.socket) -> None:
        """Accept until cancelled; then the listener is closed."""
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                try:
                    sock, _ = await loop.sock_accept(listener)
                except OSError as error:
                    _log.error("accept failed: %s", error)
                    await asyncio.sleep(0.1)  # out of descriptors: some will be free again
                    continue
                if self._young >= MAX_YOUNG:
                    sock.close()
                    continue
                sock.setblocking(False)
                self._young += 1
                spawn(self._route(sock), name="route")

    async def drain(self, seconds: float) -> None:
        """Let carried connections end, then cut them."""
        if self._relays:
            await asyncio.wait(self._relays, timeout=seconds)
        await cancel_and_wait(*self._relays)

    async def _route(self, sock: socket.socket) -> None:
        try:
            async with asyncio.timeout(HELLO_DEADLINE):
                name = await peek_server_name(sock)
        except (OSError, TimeoutError, RemoteProtocolError) as error:
            _log.debug("not routed: %s", error or "no hello in time")
            sock.close()
            return
        finally:
            self._young -= 1
        handler = self._names.get(name)
        if handler is not None:
            await handler(sock)
        elif name.endswith(pki.AGENT_SUFFIX):
            task = spawn(self._to_agent(sock, name.removesuffix(pki.AGENT_SUFFIX)), name="relay")
            self._relays.add(task)
            task.add_done_callback(self._relays.discard)
        else:
            sock.close()
            _log.info("no such name", extra={"server_name": name})

    async def _to_agent(self, sock: socket.socket, uid: str) -> None:
        try:
            record = self._agents().get(uid)
            if record is None:
                raise ClusterError(f"Pod {uid} has no enrolled agent")
            await self._check(uid, record)
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    agent = await connect(record.ip, record.port)
            except (OSError, TimeoutError) as error:
                raise NetworkError(f"The agent in {record.pod} does not answer: {error or 'too slow'}") from error
        except TpdError as error:
            _log.warning("no way to the agent: %s", error.message)
            sock.close()
            return
        except BaseException:
            sock.close()
            raise
        await relay(sock, agent)

    async def _check(self, uid: str, record: AgentRecord) -> None:
        """Addresses are used again by other pods; the API server knows whose it is.

        While the API server is away the record stands: the agent's certificate is checked by the daemon in any case.
        """
        try:
            pod = await self._client.get(PODS.path(record.namespace, record.pod))
        except NotFound as error:
            raise ClusterError(f"Pod {record.namespace}/{record.pod} does not exist any more") from error
        except NetworkError:
            return
        if pod["metadata"]["uid"] != uid or pods.ip_of(pod) != record.ip:
            raise ClusterError(f"Pod {record.namespace}/{record.pod} is not the one whose agent enrolled")


async def peek_server_name(sock: socket.socket) -> str:
    """The name in the ClientHello, which stays unread in the socket.

    The kernel reports the socket readable only when there is more than was seen (SO_RCVLOWAT), so a slow hello costs
    one wake-up a piece.

    Raises:
        RemoteProtocolError: No ClientHello, or one without a name.
        OSError: The connection broke.
    """
    seen = 0
    while True:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, seen + 1)
        await _readable(sock)
        data = sock.recv(MAX_HELLO, socket.MSG_PEEK)
        if len(data) <= seen:
            raise RemoteProtocolError("the connection ended inside the ClientHello")
        name = SniReader().feed(data)
        if name is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            return name
        seen = len(data)


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    descriptor = sock.fileno()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(descriptor, wake)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def listen(port: int) -> socket.socket:
    """A listener on all addresses, IPv6 too where the kernel has it."""
    try:
        sock = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    except (OSError, ValueError):
        sock = socket.create_server(("", port), backlog=1024)
    sock.setblocking(False)
    return sock
