"""The daemon's process: what it sets up at once, what a session adds, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import secrets
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc.aio

from tpd.daemon.bridge import CONTROL
from tpd.daemon.capture import Capture
from tpd.daemon.changes import Changes
from tpd.daemon.control import ControlService
from tpd.daemon.dns.resolver import Resolver
from tpd.daemon.dns.server import DnsServer
from tpd.daemon.gatekeeper import Gatekeeper
from tpd.daemon.identity import Keyring
from tpd.daemon.interfaces import wait_for_loss
from tpd.daemon.mountpoints import clean
from tpd.daemon.mountserver import Attachable, MountServer
from tpd.daemon.outbound import Outbound
from tpd.daemon.session import Session
from tpd_core.aio.stream import Stream
from tpd_core.aio.tasks import spawn
from tpd_core.errors import ConfigError, NetworkError, TpdError, UserError
from tpd_core.proto import control_pb2, control_pb2_grpc, link_pb2

_log = logging.getLogger(__name__)

EXIT_NAMESPACE_LOST: Final = 75
"""Exit status when the namespace lost its interfaces: the container that owned it was stopped or restarted."""

_END_DRAIN: Final = 1.0  # seconds; the engine kills a container 10 s after it asked it to stop
_MAX_MESSAGE: Final = 16 << 20  # bytes of a gRPC message


@dataclass(frozen=True, slots=True)
class Settings:
    """From the environment.

    Attributes:
        dns_address: The resolver address that the container was given; captured.
        volume_root: Where the shared volume is mounted, None where no volumes are wanted.
        log: Level.
        control: Path of the control socket.
    """

    dns_address: str = "198.18.0.53"
    volume_root: str | None = None
    log: str = "info"
    control: str = CONTROL

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        """Read the variables TPD_*.

        Raises:
            ConfigError: TPD_DNS_ADDRESS is no IPv4 address.
        """
        address = environment.get("TPD_DNS_ADDRESS") or "198.18.0.53"
        try:
            ipaddress.IPv4Address(address)
        except ValueError:
            raise ConfigError(f"TPD_DNS_ADDRESS={address!r} is not an IPv4 address") from None
        return cls(
            address,
            environment.get("TPD_VOLUME_ROOT") or None,
            environment.get("TPD_LOG") or "info",
            environment.get("TPD_CONTROL") or CONTROL,
        )


class Daemon:
    """State of the process.

    Attributes:
        instance: Differs for every process.
        keyring: Keys for sessions.
        session: The one there is, if any.
    """

    def __init__(self, settings: Settings, capture: Capture, resolver: Resolver) -> None:
        self.instance = secrets.token_hex(8)
        self.keyring = Keyring()
        self.changes = Changes()
        self.session: Session | None = None
        self._settings = settings
        self._capture = capture
        self._resolver = resolver
        self._expected: dict[str, str | None] = {}  # attachments asked for: None while pending, "" ready, else why not
        self._lock = asyncio.Lock()

    @property
    def connected(self) -> bool:
        """The manager's link is up."""
        return self.session is not None and self.session.link is not None

    def current(self) -> Session:
        """The session.

        Raises:
            UserError: There is none.
        """
        if self.session is None:
            raise UserError("the daemon has no session", hint="connect first")
        return self.session

    async def connect(self, request: control_pb2.ConnectRequest) -> Session:
        """Replace the session.

        Raises:
            UserError: The certificate is not for this daemon's key; the former session goes on.
            ConfigError: The certificates cannot be used; there is no session then.
        """
        async with self._lock:
            identity = self.keyring.take(request.certificate)
            await self._leave(None)
            self.session = Session(
                request, identity, self._capture, self._resolver, self.changes, self._settings.volume_root
            )
            return self.session

    async def disconnect(self, drain: float | None) -> None:
        """End the session, if there is one."""
        async with self._lock:
            await self._leave(drain)

    async def detach(self, uid: str, drain: float) -> None:
        """See Session.detach."""
        if self.session is not None:
            await self.session.detach(uid, drain)
        self._expected.pop(uid, None)
        self.changes.ring()

    @contextlib.contextmanager
    def expecting(self, uid: str) -> Iterator[None]:
        """While this is entered the gate stays shut; an error that ends it is the gate's verdict."""
        self._expected[uid] = None
        try:
            yield
        except TpdError as error:
            self._expected[uid] = error.message
            raise
        else:
            self._expected[uid] = ""
        finally:
            self.changes.ring()

    def gate(self) -> str | None:
        """See Gatekeeper."""
        if self.session is None:
            return None
        if self.session.ended:
            return f"the session ended: {self.session.ended}"
        if self.session.cluster is None:
            return None
        verdicts = list(self._expected.values())
        return next((verdict for verdict in verdicts if verdict), None if None in verdicts else "")

    def attachable(self, uid: str) -> list[Attachable] | None:
        """See MountServer."""
        attachment = None if self.session is None else self.session.attachments.get(uid)
        return None if attachment is None else attachment.volumes.attachable()

    async def dial(self, host: str, port: int) -> Stream:
        """See Session.dial; a NetworkError without a session."""
        if self.session is None:
            raise NetworkError("not connected to a cluster")
        return await self.session.dial(host, port)

    def state(self) -> control_pb2.State:
        """For the CLI."""
        state = control_pb2.State(instance=self.instance)
        session = self.session
        if session is None:
            return state
        state.connected = session.link is not None
        state.transport = session.transport
        if session.cluster is not None:
            state.cluster.CopyFrom(session.cluster)
            state.manager_version = session.cluster.manager_version
        state.attachments.extend(attachment.status() for attachment in session.attachments.values())
        if (error := session.problem) is not None:
            problem = link_pb2.Problem(category=str(error.category), message=error.message, hint=error.hint)
            state.problem.CopyFrom(problem)
        state.relays_wanted.extend(session.relay.wanted)
        state.ended = session.ended
        return state

    async def _leave(self, drain: float | None) -> None:
        session, self.session = self.session, None
        self._expected.clear()
        if session is not None:
            await session.aclose(drain)
        self.changes.ring()


async def run(settings: Settings) -> int:
    """Run until told to stop; the exit status.

    Raises:
        TpdError: The namespace cannot be set up.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def end(status: int) -> None:
        if not ended.done():
            ended.set_result(status)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, 0)
    with Capture(settings.dns_address) as capture, contextlib.ExitStack() as undo:
        resolver = Resolver()
        dns = DnsServer(resolver, capture.udp)
        daemon = Daemon(settings, capture, resolver)
        outbound = Outbound(capture.tcp, dns, settings.dns_address, daemon.dial)
        if settings.volume_root is not None and (stale := clean(settings.volume_root)):
            _log.info("stale mounts removed", extra={"paths": stale})
        watcher = spawn(_watch_namespace(end), name="namespace")
        server = await _serve(daemon, settings.control)
        async with Gatekeeper(daemon.changes, daemon.gate):
            if settings.volume_root is not None:
                undo.enter_context(MountServer(daemon.attachable))
            _log.info("up", extra={"instance": daemon.instance, "dns": settings.dns_address})
            status = await ended
            _log.info("ending", extra={"status": status})
            watcher.cancel()
            await daemon.disconnect(_END_DRAIN if status == 0 else None)
            await server.stop(grace=0)
        outbound.close()
        dns.close()
    return status


async def _serve(daemon: Daemon, path: str) -> grpc.aio.Server:
    socket_path = Path(path)
    socket_path.parent.mkdir(parents=True, exist_ok=True)
    socket_path.unlink(missing_ok=True)
    options = [("grpc.max_receive_message_length", _MAX_MESSAGE), ("grpc.so_reuseport", 0)]
    server = grpc.aio.server(options=options)
    control_pb2_grpc.add_DaemonServicer_to_server(ControlService(daemon), server)
    old = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")
        await server.start()
    finally:
        os.umask(old)
    return server


async def _watch_namespace(end: Callable[[int], None]) -> None:
    await wait_for_loss()
    _log.warning("the network namespace has lost its interfaces: its container was stopped or restarted")
    end(EXIT_NAMESPACE_LOST)
